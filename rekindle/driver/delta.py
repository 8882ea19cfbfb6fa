"""The delta file: the pages of guest RAM that are a VM's own, against its image's RAM file.

    0      header    magic, page size, bytes of guest RAM, CRC-32 of these
    4096   pages     the content of every page that is not zero, in the order of the table
    ...    table     runs: first page (u64), pages (u32), kind (u32: 0 data, 1 zero)
    end    trailer   runs, pages of data, CRC-32 of the pages, CRC-32 of the table, CRC-32 of the trailer, magic

All integers are little-endian. Written once from front to back, so its SHA-256 costs no second reading.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rekindle.core.errors import SnapshotMismatch
from rekindle.driver.files import Sum
from rekindle.driver.pagemap import PAGE_BYTES, Region, Run, read_into, spans, write_from
from rekindle.driver.progress import Progress

MAGIC = b"RKDELTA1"
_HEADER = struct.Struct("<8sIQ")
_CRC = struct.Struct("<I")
_RUN = struct.Struct("<QII")
_TRAILER = struct.Struct("<QQII")
_TAIL_BYTES = _TRAILER.size + _CRC.size + len(MAGIC)
_DATA, _ZERO = 0, 1
_BATCH_PAGES = 1024  # 4 MiB at once
_ZERO_PAGE = bytes(PAGE_BYTES)


@dataclass(slots=True)
class _Writer:
    """Counts and sums what goes into the file."""

    file: BinaryIO
    digest: hashlib._Hash
    table: bytearray
    written_bytes: int = 0
    data_crc: int = 0
    data_pages: int = 0

    def write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.written_bytes += len(data)

    def pages(self, data: memoryview) -> None:
        self.data_crc = zlib.crc32(data, self.data_crc)
        self.data_pages += len(data) // PAGE_BYTES
        self.write(data)


def save(
    path: Path,
    pid: int,
    regions: Sequence[Region],
    runs: Sequence[Run],
    memory_bytes: int,
    progress: Progress | None = None,
) -> Sum:
    """Write the pages of `runs` of the paused process to `path` and fsync it. Raises MachineError, OSError.

    A file that is there (`reserve`) is written over, in the blocks that it has, and cut to size.
    """
    with path.open("r+b" if path.exists() else "xb") as file:
        out = _Writer(file, hashlib.sha256(), bytearray())
        header = _HEADER.pack(MAGIC, PAGE_BYTES, memory_bytes)
        out.write((header + _CRC.pack(zlib.crc32(header))).ljust(PAGE_BYTES, b"\0"))
        _save_pages(out, pid, regions, runs, progress or Progress(""))
        trailer = _TRAILER.pack(len(out.table) // _RUN.size, out.data_pages, out.data_crc, zlib.crc32(out.table))
        out.write(bytes(out.table))
        out.write(trailer + _CRC.pack(zlib.crc32(trailer)) + MAGIC)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    return Sum(out.written_bytes, f"sha256:{out.digest.hexdigest()}")


def _save_pages(out: _Writer, pid: int, regions: Sequence[Region], runs: Sequence[Run], progress: Progress) -> None:
    buffer = bytearray(_BATCH_PAGES * PAGE_BYTES)
    progress.of_bytes = _bytes_of(runs)
    for batch in _batches(runs):
        read_into(pid, [span for run in batch for span in spans(regions, run)], buffer)
        _put_batch(out, batch, buffer)
        progress.done_bytes += _bytes_of(batch)


def _bytes_of(runs: Sequence[Run]) -> int:
    return sum(run.count for run in runs) * PAGE_BYTES


def _batches(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The same pages in groups that fit the buffer; long runs are cut."""
    batch: list[Run] = []
    room = _BATCH_PAGES
    for run in runs:
        page, left = run.page, run.count
        while left:
            count = min(left, room)
            batch.append(Run(page, count))
            page, left, room = page + count, left - count, room - count
            if not room:
                yield batch
                batch, room = [], _BATCH_PAGES
    if batch:
        yield batch


def _put_batch(out: _Writer, batch: Sequence[Run], buffer: bytearray) -> None:
    view = memoryview(buffer)
    at = 0
    for run in batch:
        for first, count, zero in _split(buffer, at, run.count):
            out.table += _RUN.pack(run.page + first, count, _ZERO if zero else _DATA)
            if not zero:
                begin = at + first * PAGE_BYTES
                out.pages(view[begin : begin + count * PAGE_BYTES])
        at += run.count * PAGE_BYTES


def _split(buffer: bytearray, at: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """Cut `count` pages into stretches that are all zero or all not: (first, count, zero)."""
    first, was_zero = 0, buffer.startswith(_ZERO_PAGE, at)
    for page in range(1, count):
        zero = buffer.startswith(_ZERO_PAGE, at + page * PAGE_BYTES)
        if zero is not was_zero:
            yield first, page - first, was_zero
            first, was_zero = page, zero
    yield first, count - first, was_zero


@dataclass(frozen=True, slots=True)
class Delta:
    """An opened delta file whose structure and table are right; its pages are checked as they are loaded."""

    path: Path
    memory_bytes: int
    table: Sequence[tuple[int, int, int]]
    data_pages: int
    data_crc: int


def open_delta(path: Path) -> Delta:
    """Read header, table and trailer. Raises SnapshotMismatch when the file is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < PAGE_BYTES + _TAIL_BYTES:
            raise SnapshotMismatch(f"{path} is shorter than any delta")
        memory_bytes = _header(path, file.read(_HEADER.size + _CRC.size))
        file.seek(size - _TAIL_BYTES)
        runs, pages, data_crc, table_crc = _trailer(path, file.read())
        if PAGE_BYTES + pages * PAGE_BYTES + runs * _RUN.size + _TAIL_BYTES != size:
            raise SnapshotMismatch(f"{path} has not the size that its trailer tells")
        file.seek(PAGE_BYTES + pages * PAGE_BYTES)
        raw = file.read(runs * _RUN.size)
    if zlib.crc32(raw) != table_crc:
        raise SnapshotMismatch(f"{path}: the checksum of its table is wrong")
    table = list(_RUN.iter_unpack(raw))
    _check_table(path, table, pages, memory_bytes)
    return Delta(path, memory_bytes, table, pages, data_crc)


def _header(path: Path, raw: bytes) -> int:
    magic, page_bytes, memory_bytes = _HEADER.unpack(raw[: _HEADER.size])
    if magic != MAGIC or page_bytes != PAGE_BYTES or _CRC.pack(zlib.crc32(raw[: _HEADER.size])) != raw[_HEADER.size :]:
        raise SnapshotMismatch(f"{path} has no valid header")
    return int(memory_bytes)


def _trailer(path: Path, raw: bytes) -> tuple[int, int, int, int]:
    body, crc = raw[: _TRAILER.size], raw[_TRAILER.size : _TRAILER.size + _CRC.size]
    if not raw.endswith(MAGIC) or _CRC.pack(zlib.crc32(body)) != crc:
        raise SnapshotMismatch(f"{path} has no valid trailer")
    runs, pages, data_crc, table_crc = _TRAILER.unpack(body)
    return runs, pages, data_crc, table_crc


def _check_table(path: Path, table: Sequence[tuple[int, int, int]], pages: int, memory_bytes: int) -> None:
    reached = 0
    for page, count, kind in table:
        if page < reached or kind not in (_DATA, _ZERO):
            raise SnapshotMismatch(f"{path}: its table is out of order at page {page}")
        reached = page + count
    if reached * PAGE_BYTES > memory_bytes or sum(count for _, count, kind in table if kind == _DATA) != pages:
        raise SnapshotMismatch(f"{path}: its table does not fit its memory")


def load(delta: Delta, pid: int, regions: Sequence[Region], progress: Progress | None = None) -> None:
    """Write the delta into the private mapping of a VMM that has not run yet. Raises SnapshotMismatch when a checksum
    is wrong (the VMM must then be killed), MachineError when the VMM is gone."""
    _load_zeros(delta, pid, regions)
    buffer = bytearray(_BATCH_PAGES * PAGE_BYTES)
    crc = 0
    progress = progress or Progress("")
    progress.of_bytes = delta.data_pages * PAGE_BYTES
    with delta.path.open("rb", buffering=0) as file:
        file.seek(PAGE_BYTES)
        for batch in _batches([Run(page, count) for page, count, kind in delta.table if kind == _DATA]):
            length = _bytes_of(batch)
            view = memoryview(buffer)[:length]
            _read_exactly(delta.path, file, view)
            crc = zlib.crc32(view, crc)
            write_from(pid, [span for run in batch for span in spans(regions, run)], buffer)
            progress.done_bytes += length
    if crc != delta.data_crc:
        raise SnapshotMismatch(f"{delta.path}: the checksum of its pages is wrong")


def _load_zeros(delta: Delta, pid: int, regions: Sequence[Region]) -> None:
    zeros = bytearray(_BATCH_PAGES * PAGE_BYTES)
    for batch in _batches([Run(page, count) for page, count, kind in delta.table if kind == _ZERO]):
        write_from(pid, [span for run in batch for span in spans(regions, run)], zeros)


def _read_exactly(path: Path, file: BinaryIO, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise SnapshotMismatch(f"{path} is shorter than its table tells")
        done += count
