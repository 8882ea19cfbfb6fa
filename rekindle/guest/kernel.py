"""The guest's kernel modules and the initramfs that brings them up, with the agent as its first process.

The initramfs is written here, byte by byte, so that the same agent and kernel give the same file: its hash is part of
what a snapshot is bound to.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rekindle.core.errors import MachineError

#: What a guest needs beyond what Debian's cloud kernel has built in (virtio_console, ext4, fuse, cgroups, devtmpfs).
#: Nothing in the guest loads a module by name, so what they depend on is loaded before them, from the same list.
WANTED = (
    "virtio_mmio",  # the bus of QEMU's microvm machine
    "virtio_blk",
    "crc32c-intel",
    "erofs",  # the root disk
    "overlay",  # root disk + writable disk
    "nf_tables",  # the way out: connections caught in the guest
    "nft_chain_nat",
    "nft_redir",
    "nft_ct",
    "nft_reject_inet",
    "dummy",  # eth0, which only holds the addresses
    "pvpanic",
    "pvpanic-mmio",  # a panic is told from a reset
)
OPTIONS = {"dummy": "numdummies=0"}
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_BUILTIN = "builtin"


def modules_in_order(modules: Path) -> list[str]:
    """Names (without `.ko`) of the modules to load, each after those it depends on.

    A module that the kernel has built in (file `builtin` in that folder: a name a line) is left out. Raises
    MachineError naming a module that is neither there nor built in.
    """
    builtin = _builtin(modules)
    order: list[str] = []
    for name in WANTED:
        _add(modules, name, builtin, order)
    return order


def _builtin(modules: Path) -> frozenset[str]:
    listed = modules / _BUILTIN
    return frozenset(_plain(line) for line in listed.read_text().split()) if listed.exists() else frozenset()


def _plain(name: str) -> str:
    """File names use `-` and `_` alike; the kernel does not tell them apart."""
    return name.replace("-", "_")


def _add(modules: Path, name: str, builtin: frozenset[str], order: list[str]) -> None:
    if _plain(name) in builtin:
        return
    file = _find(modules, name)
    if file.stem in order:
        return
    for needed in _depends(file):
        _add(modules, needed, builtin, order)
    order.append(file.stem)


def _find(modules: Path, name: str) -> Path:
    for spelling in (name, _plain(name), name.replace("_", "-")):
        if (modules / f"{spelling}.ko").exists():
            return modules / f"{spelling}.ko"
    raise MachineError(f"The guest kernel has no module '{name}' in {modules}")


def _depends(file: Path) -> list[str]:
    """From the module's own .modinfo, as depmod reads it."""
    found = _DEPENDS.search(file.read_bytes())
    if found is None:
        raise MachineError(f"{file} is not a kernel module (no 'depends' in it)")
    return [name for name in found[1].decode("ascii").split(",") if name]


def make_initramfs(out: Path, *, agent: Path, modules: Path) -> None:
    """Write the initramfs: `/init` is the agent, `/lib/modules` the modules and their order.

    `/lib/modules/order` has a line `name.ko [options]` a module. The same inputs give the same bytes. `out` appears
    whole or not at all. Raises MachineError when a module is missing, OSError when a file cannot be read or written.
    """
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(_archive(_entries(agent, modules)))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def _entries(agent: Path, modules: Path) -> Iterator[_Entry]:
    names = modules_in_order(modules)
    for folder in ("dev", "lib", "lib/modules", "mnt", "proc", "run", "sys"):
        yield _Entry(folder, stat.S_IFDIR | 0o755)
    yield _Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield _Entry("init", stat.S_IFREG | 0o755, agent.read_bytes())
    for name in names:
        yield _Entry(f"lib/modules/{name}.ko", stat.S_IFREG | 0o644, (modules / f"{name}.ko").read_bytes())
    lines = [f"{name}.ko {OPTIONS.get(name, '')}".strip() + "\n" for name in names]
    yield _Entry("lib/modules/order", stat.S_IFREG | 0o644, "".join(lines).encode())


def _archive(entries: Iterator[_Entry]) -> bytes:
    """A cpio archive in the kernel's `newc` form.

    Padded to a size of 512 modulo 4096: with other sizes QEMU 10.0 was seen to put the initrd of a PVH boot over the
    ACPI tables at the top of memory, and the guest found no device.
    """
    out = bytearray()
    for inode, entry in enumerate(entries, start=1):
        out += _record(inode, entry)
    out += _record(0, _Entry("TRAILER!!!", 0))
    out += bytes((512 - len(out)) % 4096)
    return bytes(out)


def _record(inode: int, entry: _Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    major, minor = entry.device
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    uid = gid = mtime = device_major = device_minor = check = 0
    fields: tuple[int, ...] = (inode, entry.mode, uid, gid, links, mtime, len(entry.data))
    fields += (device_major, device_minor, major, minor, len(name), check)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _aligned(header + name) + _aligned(entry.data)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
