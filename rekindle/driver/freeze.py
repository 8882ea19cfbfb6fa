"""The files of a snapshot, written from a paused VM. Blocking; `manifest.json` is not written here.

Order of durability: every file is fsynced by whoever writes it, then `seal` fsyncs the folders and renames the manifest
in.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rekindle.driver import delta, files, layers, manifest, pagemap, reserve
from rekindle.driver.base import Snapshot
from rekindle.driver.files import Sum
from rekindle.driver.manifest import Layer, Manifest
from rekindle.driver.progress import Progress

READ_ONLY = 0o444


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    files: Mapping[str, Sum]
    disks: tuple[Layer, ...] = ()
    root: Sum | None = None


def fresh(home: Path, into: Path) -> None:
    """An empty folder. A snapshot without its manifest is replaced; a whole one is an error of the caller."""
    if (into / manifest.NAME).exists():
        raise FileExistsError(17, "a whole snapshot is there already", str(into))
    drop(home, into)
    reserve.open_up(home)
    into.mkdir(parents=True)


def drop(home: Path, into: Path) -> None:
    """Remove what there is of a snapshot that was not finished; its disk stays the VM's."""
    if into.exists():
        reserve.put_back(home, into)
        shutil.rmtree(into)


def image(home: Path, into: Path, root: Path) -> Parts:
    """The baked snapshot: RAM and disk as sparse copies, read-only; the root disk lies beside it already."""
    sums = {name: files.copy_sparse(home / name, into / name, mode=READ_ONLY) for name in ("ram", "disk.raw")}
    return Parts(files={**sums, "state": files.sum_of(into / "state")}, root=files.sum_of(root))


def own(
    home: Path,
    into: Path,
    *,
    pid: int,
    ram: Path,
    memory_bytes: int,
    own_pages: pagemap.Reader,
    below: Sequence[Path],
    progress: Progress,
) -> Parts:
    """A VM's snapshot: its own pages, and links to its disk layers (top first)."""
    regions = pagemap.regions_of(pid, ram, memory_bytes)
    reserve.take(home, into)
    saved = delta.save(into / "delta", pid, regions, own_pages(pid, regions), memory_bytes, progress)
    linked = layers.link_all(home / layers.TOP, list(below), into)
    return Parts(files={"delta": saved, "state": files.sum_of(into / "state")}, disks=linked)


def seal(whole: Manifest, into: Path) -> Snapshot:
    """Make the snapshot whole, for good, and measure it: the manifest is renamed in when all that it names is durable,
    and the way to it (the machine folder may be new as well) is durable when this returns."""
    whole.write(into)
    for folder in into.parents[: 3 if whole.kind == manifest.VM else 1]:
        files.sync(folder)
    memory = files.allocated_bytes(into / ("ram" if whole.kind == manifest.IMAGE else "delta"))
    disks = ["disk.raw"] if whole.kind == manifest.IMAGE else [layer.file for layer in whole.disks]
    return Snapshot(
        folder=into,
        memory_bytes=memory,
        disk_bytes=sum(files.allocated_bytes(into / name) for name in disks),
        private_bytes=memory,
    )
