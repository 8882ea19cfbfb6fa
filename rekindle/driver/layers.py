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
import threading
from dataclasses import replace
from pathlib import Path

from rekindle import threads
from rekindle.core.errors import SnapshotMismatch
from rekindle.driver import files, jail, manifest, whole
from rekindle.driver.base import MachineSpec
from rekindle.driver.jail import Bind, Program, Walls
from rekindle.driver.manifest import Layer, Manifest

TOP = "disk.qcow2"
MERGE_S = 600.0
SUMMED_BYTES = 256 * 1024**2  #: a top layer that holds more gets its digest after the suspend (`merge`), not within
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
        made.append(_new(into, name) if number == 0 else _carried(layer, into, name))
    return tuple(made)


def _new(into: Path, name: str) -> Layer:
    if files.allocated_bytes(into / name) > SUMMED_BYTES:
        return _unsummed(into, name)
    return whole.summed(into, name)


def _unsummed(into: Path, name: str) -> Layer:
    return Layer(name, (into / name).stat().st_size)


def _carried(layer: Path, into: Path, name: str) -> Layer:
    """What the snapshot that the VM woke from says of a layer below: nobody has written into it since."""
    try:
        before = next((one for one in manifest.read(layer.parent).disks if one.file == layer.name), None)
    except SnapshotMismatch:  # an older snapshot that is being dropped
        before = None
    return _unsummed(into, name) if before is None else replace(before, file=name)


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
    """Make a sleeping VM's snapshot lean on one layer only, and that one summed. Nothing may have its disks open.

    Costs the size of what the newest layer holds, and a reading of what both hold. Repeatable at every point: until the
    manifest names the merged layer alone the upper one still covers it. The lower one has no digest from before the
    first byte is written into it, so that a merge that was cut off is no damage. What is damaged already is not merged:
    nothing could tell it any more. Raises MachineError, SnapshotMismatch.
    """
    found = await threads.finish(manifest.read, snap)
    while len(found.disks) > 1:
        await threads.stoppable(whole.check_layers, snap, found.disks[:2])
        found = await threads.finish(_open_to_writes, snap, found)
        upper, lower = found.disks[:2]
        await threads.finish(_own, snap, upper, lower, spec.uid)
        await _commit(launcher, spec, snap, upper, lower)
        found = await threads.finish(_merged, snap, found)
    await threads.finish(_sweep, snap, {layer.file for layer in found.disks})
    (spec.home / TOP).unlink(missing_ok=True)  # a link to what was merged away; the next restore makes a new one
    await threads.stoppable(_sum_up, snap, found)


def _open_to_writes(snap: Path, found: Manifest) -> Manifest:
    """Durably say that the lower layer is no longer what its digest says."""
    upper, lower, *rest = found.disks
    if lower.digest is None:
        return found
    return _rewritten(snap, found, (upper, Layer(lower.file, lower.bytes), *rest))


def _rewritten(snap: Path, found: Manifest, disks: tuple[Layer, ...]) -> Manifest:
    after = replace(found, disks=disks)
    after.write(snap)
    return after


def _sum_up(stop: threading.Event, snap: Path, found: Manifest) -> None:
    """Give every layer without a digest its own. Given up when the VM is to wake: the next sleep does it again."""
    disks = tuple(whole.summed(snap, one.file, stop) if one.digest is None else one for one in found.disks)
    if disks != found.disks:
        _rewritten(snap, found, disks)


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


def _merged(snap: Path, before: Manifest) -> Manifest:
    """Name the lower layer as the top one, then forget the upper."""
    upper, lower, *rest = before.disks
    files.sync(snap / lower.file)
    after = _rewritten(snap, before, (_unsummed(snap, lower.file), *rest))
    (snap / upper.file).unlink()
    return after


def _sweep(snap: Path, wanted: set[str]) -> None:
    """Remove layers that no manifest names: left by a crash between the new manifest and the unlink."""
    for layer in snap.glob("disk*.qcow2*"):
        if layer.name not in wanted:
            layer.unlink()
