"""Whether the files of a snapshot are what they were: read before a guest runs on them, beside the start of its VMM.

What is read at a restore: `state` and `delta` always (the delta as it is loaded), disk layers up to `ALWAYS_BYTES`
always. A larger layer is read unless its digest was made in this boot of the machine, of the very same file (inode,
size, time of the last write): then only what has been written into it since could be another, and that is seen by its
time. What the disk itself loses meanwhile is seen at the first resume after a boot. An image is read once for all its
clones, at the first restore that a driver makes of it, and again when one of its files was touched.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from rekindle import threads
from rekindle.core.errors import SnapshotMismatch
from rekindle.driver import files, manifest
from rekindle.driver.files import Sum
from rekindle.driver.host import boot_id
from rekindle.driver.manifest import Layer, Manifest

ALWAYS_BYTES = 16 * 1024**2  #: a millisecond each MiB, on the other core while the VMM starts


def seen(path: Path) -> str:
    """Names a file as it is now, in this boot. Not by its change time, which every link and chown moves."""
    stat = path.stat()
    return f"{boot_id()} {stat.st_dev}:{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def summed(folder: Path, file: str, stop: threading.Event | None = None) -> Layer:
    """A layer with its digest. Blocking: about a second for 1.3 GiB that it holds. Raises files.Stopped."""
    found = files.page_sum_of(folder / file, stop)
    return Layer(file, found.size_bytes, found.digest, seen(folder / file))


def check_layers(stop: threading.Event, folder: Path, layers: tuple[Layer, ...]) -> None:
    """Blocking. Raises SnapshotMismatch naming the first that is damaged, files.Stopped."""
    for layer in layers:
        path = folder / layer.file
        if layer.digest is None or (
            layer.seen is not None and files.allocated_bytes(path) > ALWAYS_BYTES and layer.seen == seen(path)
        ):
            continue
        if files.page_sum_of(path, stop).digest != layer.digest:
            raise manifest.damaged(path)


def check_sleep(stop: threading.Event, found: Manifest, folder: Path) -> None:
    """A VM's own snapshot but its delta. Blocking. Raises SnapshotMismatch naming the file, files.Stopped."""
    _check(stop, folder / "state", found.files["state"])
    check_layers(stop, folder, found.disks)


def _check(stop: threading.Event, path: Path, wanted: Sum) -> None:
    if not files.same_sum(path, wanted, stop):
        raise manifest.damaged(path)


class Images:
    """Which images have been read, by their files as they were then."""

    def __init__(self) -> None:
        self._whole: set[tuple[tuple[int, ...], ...]] = set()
        self._reading: dict[Path, asyncio.Lock] = {}

    async def check(self, folder: Path) -> None:
        """`folder` is an image's snapshot. Raises SnapshotMismatch naming the file; what is damaged is read again."""
        wanted = manifest.sums(manifest.read(folder), folder)
        lock = self._reading.setdefault(folder, asyncio.Lock())
        try:
            async with lock:
                found = _stats(wanted)
                if found not in self._whole:
                    await threads.stoppable(_check_all, wanted)
                    self._whole.add(found)
        finally:
            self._reading.pop(folder, None)


def _stats(wanted: list[tuple[Path, Sum]]) -> tuple[tuple[int, ...], ...]:
    try:
        stats = [path.stat() for path, _ in wanted]
    except FileNotFoundError as err:
        raise SnapshotMismatch(f"{err.filename} is missing") from err
    return tuple((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats)


def _check_all(stop: threading.Event, wanted: list[tuple[Path, Sum]]) -> None:
    for path, one in wanted:
        _check(stop, path, one)
