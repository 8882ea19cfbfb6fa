"""Blob files: bytes under a uuid, written once, never changed.

A blob is whole when `Writer.commit` has returned: file and folder are synced. Until a row of the index names it, it is
an orphan, which `sweep` removes at the next start. A blob that is being read is unlinked when its last reader is done.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from rekindle.core.errors import Refused

_READ_BYTES = 256 << 10
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One blob as a piece of an object."""

    blob: str
    size_bytes: int


class Writer:
    """A blob that is being written. Blocking: call it from a thread.

    `discard` may meet a `write` that a cancelled request left running: the lock keeps the descriptor from being closed,
    and its number from being reused, under it.
    """

    def __init__(self, folder: Path, folder_descriptor: int) -> None:
        self.blob = uuid.uuid4().hex
        self._folder_descriptor = folder_descriptor
        self._path = folder / self.blob
        self._lock = threading.Lock()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = FileIO(descriptor, "wb")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._lock:
            while view:
                view = view[self._file.write(view) :]

    def commit(self) -> None:
        """Make the blob and its name durable."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.fsync(self._folder_descriptor)

    def discard(self) -> None:
        with self._lock:
            self._file.close()
        self._path.unlink(missing_ok=True)


class Blobs:
    def __init__(self, folder: Path) -> None:
        """Make or take `folder`. Raises Refused while another process has it: `sweep` would remove its blobs."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(self._descriptor)
            raise Refused(f"Artifact store {folder} is in use by another process") from err
        self._readers: Counter[str] = Counter()
        self._doomed: set[str] = set()

    def close(self) -> None:
        """Let another process take the folder. No writer may be at work any more."""
        os.close(self._descriptor)

    def writer(self) -> Writer:
        return Writer(self._folder, self._descriptor)

    def delete(self, blobs: Iterable[str]) -> None:
        """Unlink them, those in use after their last reader. No row may name them any more."""
        for blob in blobs:
            if self._readers[blob]:
                self._doomed.add(blob)
            else:
                (self._folder / blob).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> int:
        """Remove every blob that `known` does not name; how many. Only before the first request."""
        orphans = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name) and path.name not in known]
        for path in orphans:
            path.unlink()
        return len(orphans)

    @contextmanager
    def pinned(self, segments: Sequence[Segment]) -> Iterator[None]:
        """Within the block these blobs stay readable whatever is deleted."""
        names = {segment.blob for segment in segments}
        self._readers.update(names)
        try:
            yield
        finally:
            self._readers.subtract(names)
            free = {name for name in names if not self._readers[name]}
            for name in free:
                del self._readers[name]
            self.delete(free & self._doomed)
            self._doomed -= free

    async def read(self, segments: Sequence[Segment], first: int, size_bytes: int) -> AsyncIterator[bytes]:
        """`size_bytes` bytes from offset `first` of the segments joined."""
        for segment in segments:
            if size_bytes == 0:
                return
            if first >= segment.size_bytes:
                first -= segment.size_bytes
                continue
            take = min(segment.size_bytes - first, size_bytes)
            async for data in self._read_one(segment.blob, first, take):
                yield data
            first, size_bytes = 0, size_bytes - take

    async def _read_one(self, blob: str, first: int, size_bytes: int) -> AsyncIterator[bytes]:
        descriptor = os.open(self._folder / blob, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while size_bytes:
                data = await asyncio.to_thread(os.pread, descriptor, min(size_bytes, _READ_BYTES), first)
                if not data:
                    raise OSError(f"Blob {blob} is shorter than the index says")
                yield data
                first, size_bytes = first + len(data), size_bytes - len(data)
        finally:
            os.close(descriptor)
