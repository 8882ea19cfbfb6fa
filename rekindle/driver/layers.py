"""The disk layers of a VM: what lies on what, and keeping the pile low. Upkeep, outside the driver's eight methods:
the node calls `drop_older`, then `merge`, when a VM has gone to sleep.

A running VM writes `disk.qcow2` in its home. A snapshot takes a hard link to it: nothing is copied, and the usual
case, a suspend, ends the writer right after. When the VM goes on instead, `part` first gives the snapshot a copy of
its own. Every snapshot folder holds links to all layers that it needs: none leans on another, and a copy of a folder
is a fork.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from rekindle import threads
from rekindle.driver import files, jail, manifest
from rekindle.driver.base import MachineSpec
from rekindle.driver.jail import Bind, Program, Walls
from rekindle.driver.manifest import Layer

TOP = "disk.qcow2"
MERGE_S = 600.0
_LAYER_MODE = 0o644  #: readable by another VM's uid after a fork; the folders above keep everybody else out


def lower_name(number: int) -> str:
    return f"disk-{number}.qcow2"


def link_all(top: Path, below: list[Path], into: Path) -> tuple[Layer, ...]:
    """Link the running VM's top layer and the layers below it (top first) into a snapshot folder. Blocking."""
    made: list[Layer] = []
    for number, layer in enumerate([top, *below]):
        name = TOP if number == 0 else lower_name(number)
        os.link(layer, into / name)
        files.sync(into / name)
        made.append(Layer(name, (into / name).stat().st_size))
    return tuple(made)


def count(snap: Path) -> int:
    """How many layers lie in a snapshot's folder."""
    return sum(1 for _ in snap.glob("disk*.qcow2"))


def part(home: Path) -> None:
    """Before a VM runs on after a snapshot: give every snapshot that shares its top layer a copy. Blocking, repeatable.

    The VM is paused, so the copy is the snapshot's moment; at any point the name in the snapshot has whole content.
    """
    top = home / TOP
    if not top.exists() or top.stat().st_nlink == 1:
        return
    for shared in (home / "snapshots").glob(f"*/{TOP}"):
        if shared.samefile(top):
            _unshare(shared)


def _unshare(layer: Path) -> None:
    copy = layer.with_name(layer.name + ".new")
    files.clone_sparse(layer, copy, mode=_LAYER_MODE)
    copy.rename(layer)
    files.sync(layer.parent)


def drop_older(snapshots: Path, *, keep: str) -> None:
    """Remove all snapshots but `keep`, each one's manifest first: half a snapshot is none. Blocking, repeatable."""
    if not snapshots.is_dir():
        return
    for folder in snapshots.iterdir():
        if folder.name != keep:
            (folder / manifest.NAME).unlink(missing_ok=True)
            shutil.rmtree(folder)


async def merge(launcher: Path, spec: MachineSpec, snap: Path) -> None:
    """Make a sleeping VM's snapshot lean on one layer only. Nothing may have its disks open.

    Costs the size of what the newest layer holds. Repeatable at every point: until the manifest names the merged layer
    alone the upper one still covers it. Raises MachineError, SnapshotMismatch.
    """
    found = await threads.finish(manifest.read, snap)
    while len(found.disks) > 1:
        upper, lower = found.disks[0], found.disks[1]
        await threads.finish(_own, snap, upper, lower, spec.uid)
        await _commit(launcher, spec, snap, upper, lower)
        found = await threads.finish(_merged, snap, found)
    await threads.finish(_sweep, snap, {layer.file for layer in found.disks})
    (spec.home / TOP).unlink(missing_ok=True)  # a link to what was merged away; the next restore makes a new one


def _own(snap: Path, upper: Layer, lower: Layer, uid: int | None) -> None:
    """The lower layer is about to be written: it must be nobody else's (an older snapshot's). Both become the uid's,
    which they are not in a fork."""
    if (snap / lower.file).stat().st_nlink > 1:
        _unshare(snap / lower.file)
    if uid is not None:
        for layer in (upper, lower):
            os.chown(snap / layer.file, uid, uid)


async def _commit(launcher: Path, spec: MachineSpec, snap: Path, upper: Layer, lower: Layer) -> None:
    """Run `qemu-img commit` in a jail: these files were written by a guest's VMM."""
    image = {"driver": "file", "filename": "/image/disk.raw", "read-only": True}
    below = {"driver": "qcow2", "file": _file("/vm/lower.qcow2"), "backing": image}
    node = {"driver": "qcow2", "file": _file("/vm/upper.qcow2"), "backing": below}
    binds = [
        Bind(spec.image / "snapshot/disk.raw", "/image/disk.raw"),
        Bind(snap / lower.file, "/vm/lower.qcow2", writable=True),
        Bind(snap / upper.file, "/vm/upper.qcow2", writable=True),  # qemu-img opens it so; -d leaves it as it is
    ]
    program = Program(
        tree=spec.tools,
        argv=["/usr/bin/qemu-img", "commit", "-q", "-d", "json:" + json.dumps(node)],
        binds=binds,
        walls=Walls(uid=spec.uid),
    )
    await jail.run(launcher, program, within_s=MERGE_S)


def _file(path: str) -> dict[str, object]:
    return {"driver": "file", "filename": path, "discard": "unmap"}


def _merged(snap: Path, before: manifest.Manifest) -> manifest.Manifest:
    """Name the lower layer as the top one, then forget the upper."""
    upper, lower, *rest = before.disks
    files.sync(snap / lower.file)
    size = (snap / lower.file).stat().st_size
    values = {name: getattr(before, name) for name in manifest.Manifest.__slots__}
    after = manifest.Manifest(**{**values, "disks": (Layer(lower.file, size), *rest)})
    after.write(snap)
    (snap / upper.file).unlink()
    return after


def _sweep(snap: Path, wanted: set[str]) -> None:
    """Remove layers that no manifest names: left by a crash between the new manifest and the unlink."""
    for layer in snap.glob("disk*.qcow2*"):
        if layer.name not in wanted:
            layer.unlink()
