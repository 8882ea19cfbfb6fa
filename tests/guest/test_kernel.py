"""The initramfs, read back by a reader of our own, and the modules' order."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from rekindle.core.errors import MachineError
from rekindle.guest import kernel
from rekindle.image import toolbox


@dataclass(frozen=True)
class Entry:
    mode: int
    data: bytes
    device: tuple[int, int]
    inode: int


def _read(archive: bytes) -> dict[str, Entry]:
    """A newc archive by its specification (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    entries: dict[str, Entry] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        inode, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += 110 + name_size + -(110 + name_size) % 4
        data = archive[at : at + size]
        at += size + -size % 4
        if name == b"TRAILER!!!\0":
            assert archive[at:].strip(b"\0") == b""
            return entries
        entries[name[:-1].decode()] = Entry(mode, data, (major, minor), inode)


def _module(folder: Path, name: str, depends: str = "") -> None:
    (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Every module a guest wants, with a few dependencies like the real ones."""
    folder = tmp_path / "modules"
    folder.mkdir()
    depends = {"erofs": "libcrc32c", "nf_tables": "nfnetlink,libcrc32c", "nft_ct": "nf_conntrack,nf_tables"}
    for name in kernel.WANTED:
        _module(folder, name, depends.get(name, ""))
    for name in ("libcrc32c", "nfnetlink", "nf_conntrack"):
        _module(folder, name)
    return folder


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    file = tmp_path / "agent"
    file.write_bytes(b"\x7fELF the agent")
    return file


def test_a_module_comes_after_what_it_depends_on_and_once(modules: Path) -> None:
    order = kernel.modules_in_order(modules)
    assert len(order) == len(set(order)) == len(kernel.WANTED) + 3
    for first, then in (("libcrc32c", "erofs"), ("nfnetlink", "nf_tables"), ("nf_conntrack", "nft_ct")):
        assert order.index(first) < order.index(then)


def test_what_the_kernel_has_built_in_is_left_out(modules: Path) -> None:
    (modules / "erofs.ko").unlink()
    (modules / "crc32c-intel.ko").unlink()
    (modules / "builtin").write_text("erofs\ncrc32c_intel\nfuse\n")
    order = kernel.modules_in_order(modules)
    assert "erofs" not in order
    assert "crc32c-intel" not in order


def test_a_name_may_be_spelled_either_way(modules: Path) -> None:
    (modules / "virtio_blk.ko").rename(modules / "virtio-blk.ko")
    assert "virtio-blk" in kernel.modules_in_order(modules)


def test_a_missing_module_is_named(modules: Path) -> None:
    (modules / "nfnetlink.ko").unlink()
    with pytest.raises(MachineError, match=r"no module 'nfnetlink' in "):
        kernel.modules_in_order(modules)


def test_a_file_that_is_no_module_is_named(modules: Path) -> None:
    (modules / "erofs.ko").write_bytes(b"text")
    with pytest.raises(MachineError, match=r"erofs\.ko is not a kernel module"):
        kernel.modules_in_order(modules)


def test_the_archive_reads_back(tmp_path: Path, agent: Path, modules: Path) -> None:
    out = tmp_path / "initrd"
    kernel.make_initramfs(out, agent=agent, modules=modules)
    entries = _read(out.read_bytes())
    assert entries["init"].data == agent.read_bytes()
    assert entries["init"].mode == stat.S_IFREG | 0o755
    assert entries["dev/console"].mode == stat.S_IFCHR | 0o600
    assert entries["dev/console"].device == (5, 1)
    for name in ("proc", "sys", "dev", "run", "mnt"):
        assert stat.S_ISDIR(entries[name].mode)
    lines = entries["lib/modules/order"].data.decode().splitlines()
    assert [line.split()[0] for line in lines] == [f"{name}.ko" for name in kernel.modules_in_order(modules)]
    assert "dummy.ko numdummies=0" in lines
    for line in lines:
        name = line.split()[0]
        assert entries[f"lib/modules/{name}"].data == (modules / name).read_bytes()
    assert len({entry.inode for entry in entries.values()}) == len(entries)


def test_a_folder_comes_before_what_is_in_it(tmp_path: Path, agent: Path, modules: Path) -> None:
    kernel.make_initramfs(tmp_path / "initrd", agent=agent, modules=modules)
    names = list(_read((tmp_path / "initrd").read_bytes()))
    for name in names:
        if "/" in name:
            assert names.index(name.rpartition("/")[0]) < names.index(name)


@pytest.mark.parametrize("bytes_more", [0, 1, 511, 512, 513, 4095])
def test_its_size_keeps_clear_of_the_acpi_tables(tmp_path: Path, agent: Path, modules: Path, bytes_more: int) -> None:
    agent.write_bytes(bytes(bytes_more))
    kernel.make_initramfs(tmp_path / "initrd", agent=agent, modules=modules)
    assert (tmp_path / "initrd").stat().st_size % 4096 == 512
    assert _read((tmp_path / "initrd").read_bytes())["init"].data == bytes(bytes_more)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, agent: Path, modules: Path) -> None:
    hashes = set()
    for n in (1, 2):
        kernel.make_initramfs(tmp_path / "initrd", agent=agent, modules=modules)
        hashes.add(hashlib.sha256((tmp_path / "initrd").read_bytes()).hexdigest())
        for file in (agent, *modules.iterdir()):
            os.utime(file, (n, n))
    assert len(hashes) == 1


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, agent: Path, modules: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "initrd").write_bytes(b"old")
    (modules / "erofs.ko").unlink()
    with pytest.raises(MachineError):
        kernel.make_initramfs(folder / "initrd", agent=agent, modules=modules)
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("initrd", b"old")]


def test_the_toolbox_kernel_has_every_module(tools_dir: Path) -> None:
    """The real ones, against the order that a working trial used."""
    found = toolbox.installed(tools_dir)
    if not found:
        pytest.skip("no toolbox here: scripts/install makes one")
    for modules in [found[0].modules]:
        order = kernel.modules_in_order(modules)
        for name in (
            "virtio_mmio",
            "virtio_blk",
            "overlay",
            "nf_nat",
            "nf_defrag_ipv6",
            "nft_reject_inet",
            "pvpanic-mmio",
        ):
            assert name in order
        for name in order:
            depends = re.search(rb"\0depends=([^\0]*)\0", (modules / f"{name}.ko").read_bytes())
            assert depends is not None
            before = order[: order.index(name)]
            assert set(filter(None, depends[1].decode().split(","))) <= set(before)
