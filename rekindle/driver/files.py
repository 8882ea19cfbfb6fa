"""Files of snapshots: sparse copies, durable writes, sums. All blocking; the driver calls them in threads."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1024**2
PAGE_BYTES = 4096
_ZERO_PAGE = bytes(PAGE_BYTES)
_FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class Sum:
    """Size and digest. `sha256:` is of the whole content, as sha256sum counts it; `pages-sha256:` leaves zero pages out
    (`PageSum`), so that a sparse file of many gigabytes costs what it holds and not what it could hold."""

    size_bytes: int
    digest: str


class PageSum:
    """SHA-256 over all pages that are not zero, then their numbers (u64, little-endian): the same for the same content,
    however its holes lie."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._numbers = array("Q")

    def add(self, pages: bytes | memoryview, first: int) -> None:
        """Consecutive pages that are not zero, in ascending order; only a file's last one may be short."""
        self._digest.update(pages)
        self._numbers.extend(range(first, first + -(-len(pages) // PAGE_BYTES)))

    def text(self) -> str:
        numbers = self._numbers[:]
        if sys.byteorder == "big":
            numbers.byteswap()
        digest = self._digest.copy()
        digest.update(numbers.tobytes())
        return f"pages-sha256:{digest.hexdigest()}"


def allocated_bytes(path: Path) -> int:
    """What the file occupies on disk, as `du` counts it."""
    return path.stat().st_blocks * 512


def copy_sparse(source: Path, target: Path, *, mode: int) -> Sum:
    """Copy without zero pages, fsync, set `mode`; returns size and page digest."""
    digest = PageSum()
    with source.open("rb") as reading, open(_new(target), "wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        _copy_pages(reading.fileno(), writing.fileno(), size, digest)
        os.fchmod(writing.fileno(), mode)
        os.fsync(writing.fileno())
    return Sum(size, digest.text())


def clone_sparse(source: Path, target: Path, *, mode: int) -> None:
    """Copy as cheaply as the file system can: a shared clone, else the data. Fsynced."""
    with source.open("rb") as reading, open(_new(target), "wb") as writing:
        if not _shared(reading.fileno(), writing.fileno()):
            size = os.fstat(reading.fileno()).st_size
            _copy_pages(reading.fileno(), writing.fileno(), size, PageSum())
        os.fchmod(writing.fileno(), mode)
        os.fsync(writing.fileno())


def _shared(source: int, target: int) -> bool:
    """Let `target` share the source's blocks; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as err:
        if err.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            return False
        raise
    return True


def _copy_pages(source: int, target: int, size: int, digest: PageSum) -> None:
    for offset, pages in _used(source, size):
        digest.add(pages, offset // PAGE_BYTES)
        _pwrite(target, pages, offset)
    os.ftruncate(target, size)


class Stopped(Exception):
    """A sum was given up because nobody waits for it any more."""


def sum_of(path: Path, stop: threading.Event | None = None) -> Sum:
    """Size and SHA-256 of the whole content. Raises Stopped soon after `stop` is set."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    size = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            _unless(stop)
            digest.update(buffer[:count])
            size += count
    return Sum(size, f"sha256:{digest.hexdigest()}")


def page_sum_of(path: Path, stop: threading.Event | None = None) -> Sum:
    """Size and page digest; holes are not read. Raises Stopped soon after `stop` is set."""
    digest = PageSum()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for offset, pages in _used(file.fileno(), size):
            _unless(stop)
            digest.add(pages, offset // PAGE_BYTES)
    return Sum(size, digest.text())


def same_sum(path: Path, wanted: Sum, stop: threading.Event | None = None) -> bool:
    """Read the file and compare it with a digest of either kind."""
    found = page_sum_of(path, stop) if wanted.digest.startswith("pages-") else sum_of(path, stop)
    return found == wanted


def _unless(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: fsync the file, fsync the folder, rename, fsync the folder."""
    new = path.with_name(path.name + ".new")
    with open(_new(new), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
    new.rename(path)
    sync(path.parent)


def _new(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _used(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """All that is not zero, page by page joined to stretches: (offset, content). Holes are not read."""
    offset = 0
    while (offset := _next_data(descriptor, offset, size)) < size:
        hole = os.lseek(descriptor, offset, os.SEEK_HOLE)
        while offset < hole:
            length = min(CHUNK_BYTES - offset % CHUNK_BYTES, hole - offset)
            chunk = os.pread(descriptor, length, offset)
            if not chunk:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            yield from ((offset + first, part) for first, part in _stretches(chunk))
            offset += len(chunk)


def _next_data(descriptor: int, offset: int, size: int) -> int:
    """Where data begins at or after `offset`, rounded down to a page; `size` when only a hole is left."""
    if offset >= size:
        return size
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) // PAGE_BYTES * PAGE_BYTES
    except OSError as err:
        if err.errno == errno.ENXIO:
            return size
        raise


def _stretches(chunk: bytes) -> Iterator[tuple[int, bytes]]:
    """Runs of pages that are not zero, as long as possible."""
    start: int | None = None
    for at in range(0, len(chunk), PAGE_BYTES):
        if chunk.startswith(_ZERO_PAGE[: len(chunk) - at], at):
            if start is not None:
                yield start, chunk[start:at]
            start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, chunk[start:]


def _pwrite(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done
