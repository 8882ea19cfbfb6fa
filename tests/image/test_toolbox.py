"""The toolbox tree: that it is whole, names nobody's mirror, runs, and that old ones go only when nobody needs them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from rekindle.core.errors import MachineError, NotFound
from rekindle.image import debian, inside, kernelpackage, shelf, toolbox
from rekindle.image.toolbox import Toolbox
from rekindle.process import CommandFailed, run_ok


async def test_the_tree_is_whole_and_found_by_its_digest(tools: Toolbox, tools_dir: Path) -> None:
    assert toolbox.by_digest(tools_dir, tools.digest) == tools
    assert tools.digest == toolbox.digest_of(tools.packages)
    assert tools.vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert (tools.modules / "erofs.ko").read_bytes()[:4] == b"\x7fELF"
    assert set(toolbox.PACKAGES) <= set(tools.packages)
    for name in (*toolbox.MOUNT_POINTS, "proc", "sys", "dev", "run", "tmp"):
        assert (tools.root / name).is_dir()
    assert (tools.root / "etc/resolv.conf").read_bytes() == b""


async def test_the_tree_names_neither_a_source_nor_this_machine(tools: Toolbox) -> None:
    apt = tools.root / "etc/apt"
    assert not (apt / "sources.list").exists()
    assert list((apt / "sources.list.d").iterdir()) == []
    assert not (apt / "apt.conf.d/99mmdebstrap").exists()
    assert not (tools.root / "etc/hostname").exists()
    assert not [file for file in (tools.root / "var/lib/apt/lists").rglob("*") if "_dists_" in file.name]
    assert list(tools.root.glob("rekindle/*.deb")) == []


async def test_a_program_of_the_tree_runs_in_place_with_its_own_libraries(tools: Toolbox) -> None:
    out = await run_ok([*inside.program(tools.root, "/usr/bin/qemu-system-x86_64"), "--version"], deadline_s=60)
    assert f"QEMU emulator version {tools.qemu_version} ".encode() in out


async def test_commands_inside_see_the_tree_and_what_is_bound(tools: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/note").write_text("hello ")
    (tmp_path / "out").mkdir()
    script = "cat /w/note; cat /etc/debian_version; echo done >/st/result; touch /w/x 2>/dev/null || echo read-only"
    argv = inside.command(
        tools.root, ["sh", "-c", script], binds={"/st": tmp_path / "out"}, read_only={"/w": tmp_path / "in"}
    )
    before = Path("/proc/self/mountinfo").read_text()
    out = (await run_ok(argv, deadline_s=60)).decode()
    assert out.startswith("hello 13.")
    assert out.endswith("read-only\n")
    assert (tmp_path / "out/result").read_text() == "done\n"
    assert Path("/proc/self/mountinfo").read_text() == before


def _plant(tools_dir: Path, made_at_ms: int, version: str, recipe: int = toolbox.FORMAT) -> str:
    packages = {"qemu-system-x86": f"1:{version}+ds-0+deb13u1"}
    digest = toolbox.digest_of(packages)
    (tools_dir / digest).mkdir(parents=True)
    facts = {"format": recipe, "made_at_ms": made_at_ms, "packages": packages}
    (tools_dir / f"{digest}.json").write_text(json.dumps(facts))
    return digest


def test_trees_are_listed_newest_first(tmp_path: Path) -> None:
    old, new = _plant(tmp_path, 1, "10.0.2"), _plant(tmp_path, 2, "10.0.13")
    assert [one.digest for one in toolbox.installed(tmp_path)] == [new, old]
    assert toolbox.installed(tmp_path)[0].qemu_version == "10.0.13"


def test_no_folder_means_no_tree(tmp_path: Path) -> None:
    assert toolbox.installed(tmp_path / "none") == []


def test_a_tree_that_is_gone_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"Toolbox 0123.* is not in .*rekindle image build"):
        toolbox.by_digest(tmp_path, "0123")


async def test_ensure_takes_the_newest_of_this_recipe(tmp_path: Path) -> None:
    mine = _plant(tmp_path, 1, "10.0.2")
    _plant(tmp_path, 2, "10.0.13", recipe=toolbox.FORMAT + 1)
    assert (await toolbox.ensure(tmp_path, print)).digest == mine


async def test_prune_keeps_the_newest_and_what_is_in_use(tmp_path: Path) -> None:
    unused, used, newest = (_plant(tmp_path, n, f"10.0.{n}") for n in (1, 2, 3))
    (tmp_path / unused / "sealed").mkdir(mode=0o500)
    assert await toolbox.prune(tmp_path, {used}) == [unused]
    assert [one.digest for one in toolbox.installed(tmp_path)] == [newest, used]
    assert not (tmp_path / unused).exists()
    assert await toolbox.prune(tmp_path, set()) == [used]
    assert await toolbox.prune(tmp_path, set()) == []


def test_the_digest_depends_on_versions_and_not_on_their_order() -> None:
    one = toolbox.digest_of({"a": "1", "b": "2"})
    assert one == toolbox.digest_of({"b": "2", "a": "1"})
    assert one != toolbox.digest_of({"a": "1", "b": "3"})
    assert shelf.NAME.fullmatch(one)


def test_only_installed_packages_count() -> None:
    status = """Package: a
Status: install ok installed
Version: 1:2-3
Description: short
 Package: b

Package: c
Status: deinstall ok config-files
Version: 4
"""
    assert dict(toolbox.dpkg_packages(status)) == {"a": "1:2-3"}


async def test_a_missing_mmdebstrap_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"missing .*mmdebstrap.*; as root: apt-get install .*mmdebstrap"):
        await toolbox.ensure(tmp_path / "tools", print)
    assert toolbox.installed(tmp_path / "tools") == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
async def test_a_suite_that_the_source_lacks_is_named(tmp_path: Path) -> None:
    """The source is an empty folder: a mirror that has no suite at all."""
    mirror, etc_apt = tmp_path / "mirror", tmp_path / "apt"
    mirror.mkdir()
    (etc_apt / "sources.list.d").mkdir(parents=True)
    (etc_apt / "sources.list").write_text(f"deb file://{mirror} bookworm main\n")
    async with debian.workplace(tmp_path) as work:
        with pytest.raises(MachineError, match=rf"suite 'trixie' cannot be read from file:(//)?{mirror}"):
            await debian.make_tar(
                tmp_path / "out.tar",
                work,
                variant="apt",
                include=("ca-certificates",),
                progress=print,
                etc_apt=etc_apt,
                lists=tmp_path,
            )
    if os.geteuid() != 0:
        assert not work.exists()


@pytest.mark.parametrize(
    ("said", "suite"),
    [
        ("E: The repository 'http://m.test/debian trixie Release' does not have a Release file.", "trixie"),
        (
            "E: The repository 'http://m.test/s trixie-security Release' does not have a Release file.",
            "trixie-security",
        ),
        ("E: Failed to fetch http://m.test/debian/dists/trixie-updates/InRelease  404  Not Found", "trixie-updates"),
    ],
)
def test_every_way_apt_says_that_a_suite_is_missing(said: str, suite: str) -> None:
    err = debian.explained(CommandFailed(["mmdebstrap"], 100, "ended with code 100", said.encode()))
    assert f"The Debian suite '{suite}' cannot be read from http://m.test/" in err.message


def _bzimage(payload: bytes, size: int) -> bytes:
    """As the boot protocol has it: one set-up sector, then code, then the payload with its size behind it."""
    image = bytearray(3 * 512)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    body = payload + struct.pack("<I", size)
    struct.pack_into("<II", image, 0x248, 512, len(body))
    return bytes(image) + body


def test_the_kernel_is_found_in_its_bzimage() -> None:
    packed = zlib.compress(b"kernel")
    assert kernelpackage.payload_of(_bzimage(packed, 6) + b"more") == (packed, 6)


@pytest.mark.parametrize(
    ("image", "rule"),
    [(b"", "no HdrS"), (bytes(4096), "no HdrS"), (_bzimage(b"x" * 100, 6)[:-1], "cut short")],
)
def test_what_is_not_a_kernel_is_refused(image: bytes, rule: str) -> None:
    with pytest.raises(MachineError, match=rule):
        kernelpackage.payload_of(image)


@pytest.mark.long
async def test_a_fresh_tree_is_the_same_as_an_update_of_it(tmp_path: Path) -> None:
    steps: list[str] = []
    made = await toolbox.ensure(tmp_path, steps.append)
    assert "unpacking the toolbox" in steps
    assert await toolbox.update(tmp_path, steps.append) == made
    left = sorted(entry.name for entry in tmp_path.iterdir())
    assert left == [".lock", made.digest, f"{made.digest}.json"]
