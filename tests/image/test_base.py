"""The managed base image: what is in it, what is not, and that builds can read it and cannot take it for another."""

from __future__ import annotations

from pathlib import Path

from rekindle.image import base, inside, shelf
from rekindle.image.base import BaseImage
from rekindle.image.toolbox import Toolbox
from rekindle.process import Finished, run

STORAGE = """[storage]
driver = "overlay"
runroot = "/run/containers"
graphroot = "/st"
[storage.options]
additionalimagestores = ["/image"]
"""


async def _buildah(tools: Toolbox, image: BaseImage, folder: Path, script: str) -> Finished:
    """Run a script with buildah in the tree: an empty storage of its own, and the base image's store read-only."""
    storage, work = folder / "storage", folder / "work"
    storage.mkdir()
    work.mkdir()
    (work / "storage.conf").write_text(STORAGE)
    (work / "registries.conf").write_text("unqualified-search-registries = []\n")
    (work / "containers.conf").write_text("[engine]\n")
    (work / "auth.json").write_text("{}")
    env = {
        "CONTAINERS_STORAGE_CONF": "/w/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": "/w/registries.conf",
        "CONTAINERS_CONF": "/w/containers.conf",
        "REGISTRY_AUTH_FILE": "/w/auth.json",
    }
    argv = inside.command(
        tools.root,
        ["sh", "-euc", script],
        binds={"/st": storage, "/w": work},
        read_only={"/image": image.store},
        env=env,
    )
    return await run(argv, deadline_s=120)


LOOK = """
c=$(buildah from --pull=never {reference})
cd "$(buildah mount "$c")"
{script}
cd /
buildah umount "$c" >/dev/null
"""


async def _look(tools: Toolbox, image: BaseImage, folder: Path, script: str) -> str:
    done = await _buildah(tools, image, folder, LOOK.format(reference=image.reference, script=script))
    assert done.code == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_it_is_a_trimmed_debian_with_certificates(tools: Toolbox, base_image: BaseImage, tmp_path: Path) -> None:
    out = await _look(
        tools, base_image, tmp_path, "cat etc/debian_version; ls usr/share/man etc/ssl/certs/ca-certificates.crt"
    )
    assert out.startswith("13.")
    assert "ca-certificates.crt" in out
    assert "man1" not in out


async def test_nothing_of_the_build_machine_is_in_it(tools: Toolbox, base_image: BaseImage, tmp_path: Path) -> None:
    script = """
    find etc/hostname etc/resolv.conf etc/apt/sources.list etc/apt/apt.conf.d/99mmdebstrap var/log/apt/* \
      var/lib/apt/lists/*_* 2>/dev/null || true
    echo -; ls etc/apt/sources.list.d; cat etc/apt/sources.list.d/debian.sources
    """
    found, _, rest = (await _look(tools, base_image, tmp_path, script)).partition("-\n")
    assert found == ""
    assert rest == "debian.sources\n" + base.PUBLIC_SOURCES


async def test_places_for_build_settings_are_there_and_empty(
    tools: Toolbox, base_image: BaseImage, tmp_path: Path
) -> None:
    empty = (*base.MOUNT_FILES, "etc/machine-id")
    out = await _look(tools, base_image, tmp_path, f"stat -c '%n %s %a' {' '.join(empty)} {base.SOURCES_FILE}")
    sources = f"{base.SOURCES_FILE} {len(base.PUBLIC_SOURCES)} 644"
    assert out.splitlines() == [*(f"{name} 0 644" for name in empty), sources]


async def test_a_build_finds_it_by_its_reference_and_never_as_debian(
    tools: Toolbox, base_image: BaseImage, tmp_path: Path
) -> None:
    script = "buildah from --pull=never debian:13 || buildah from --pull=never docker.io/library/debian:13 || echo none"
    done = await _buildah(tools, base_image, tmp_path, script)
    assert done.stdout == b"none\n"
    assert base_image.reference == base.REFERENCE


async def test_reading_it_changes_nothing_in_its_store(tools: Toolbox, base_image: BaseImage, tmp_path: Path) -> None:
    def listing() -> list[tuple[str, int]]:
        return sorted((str(file), file.lstat().st_mtime_ns) for file in base_image.store.glob("*/*"))

    before = listing()
    out = await _look(tools, base_image, tmp_path, "echo x >new; cat new")
    assert out == "x\n"
    assert listing() == before


async def test_ensure_again_is_the_same_image(tools: Toolbox, base_image: BaseImage, tools_dir: Path) -> None:
    said: list[str] = []
    assert await base.ensure(tools_dir, tools, said.append) == base_image
    assert base.installed(tools_dir) == base_image
    assert said == []


def test_nothing_is_installed_in_an_empty_folder(tmp_path: Path) -> None:
    assert base.installed(tmp_path) is None


async def test_what_a_crash_left_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "base" / ("a" * 16) / "overlay").mkdir(parents=True)
    assert base.installed(tmp_path) is None
    async with shelf.locked(tmp_path / "base", print):
        assert list((tmp_path / "base").glob("a*")) == []
