"""Which pages of a guest's memory are its own, and their content.

A clone maps the image's RAM file private: a page that the guest (or QEMU for it) has written is anonymous, all others
are still the file's. Two readers tell them apart: the PAGEMAP_SCAN ioctl (Linux 6.7) and /proc/<pid>/pagemap. Both need
the rights of ptrace over the process; the process must be stopped or paused for the answer to mean anything.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from rekindle.core.errors import MachineError

PAGE_BYTES = 4096
IOV_MAX = 1024


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of the RAM file in the address space of the VMM."""

    address: int
    offset: int  #: in the file, so in guest RAM
    length: int


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive pages of guest RAM, counted in pages."""

    page: int
    count: int


Reader = Callable[[int, Sequence[Region]], list[Run]]


def regions_of(pid: int, ram: Path, memory_bytes: int) -> list[Region]:
    """Where process `pid` maps the file `ram` privately. Raises MachineError unless that covers all of guest RAM."""
    inode = ram.stat().st_ino
    with _reading(pid, "maps") as text:
        found = sorted(_matching(text.read().decode(), inode), key=lambda region: region.offset)
    reached = 0
    for region in found:
        if region.offset != reached:
            break
        reached += region.length
    if reached != memory_bytes:
        raise MachineError(f"VMM {pid} maps {reached} of {memory_bytes} bytes of {ram} privately")
    return found


def _matching(maps: str, inode: int) -> Iterator[Region]:
    """The device is not compared: btrfs shows another one here than stat does."""
    for line in maps.splitlines():
        span, rights, offset, _device, number = line.split()[:5]
        if int(number) == inode and rights.startswith("rw") and rights.endswith("p"):
            start, end = (int(part, 16) for part in span.split("-"))
            yield Region(start, int(offset, 16), end - start)


def reader(kind: str) -> Reader:
    """`scan`, `classic`, or with `auto` the better one that this kernel has. Raises MachineError for another word."""
    if kind == "auto":
        kind = "scan" if scan_supported() else "classic"
    try:
        return {"scan": scan, "classic": classic}[kind]
    except KeyError as err:
        raise MachineError(f"machine.pagemap must be auto, scan or classic, not {kind!r}") from err


# -- PAGEMAP_SCAN (include/uapi/linux/fs.h) ----------------------------------------------------------------------------

_IS_FILE = 1 << 2
_IS_PRESENT = 1 << 3
_IS_SWAPPED = 1 << 4
_VECTOR = 4096


class _Scan(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages", "category_inverted",
            "category_mask", "category_anyof_mask", "return_mask",
        )
    )  # fmt: skip


_PAGEMAP_SCAN = (3 << 30) | (ctypes.sizeof(_Scan) << 16) | (ord("f") << 8) | 16


def scan_supported() -> bool:
    try:
        with _reading(os.getpid(), "pagemap") as file:
            fcntl.ioctl(file.fileno(), _PAGEMAP_SCAN, _request(0, 0, array("Q", bytes(24))))
    except OSError as err:
        if err.errno in (errno.ENOTTY, errno.EINVAL):
            return False
        raise
    return True


def scan(pid: int, regions: Sequence[Region]) -> list[Run]:
    """Own pages by the PAGEMAP_SCAN ioctl: not of a file, present or swapped out."""
    runs: list[Run] = []
    vector = array("Q", bytes(24 * _VECTOR))
    with _reading(pid, "pagemap") as file:
        for region in regions:
            for start, end in _scan_region(file.fileno(), region, vector):
                _append(runs, (region.offset + start - region.address) // PAGE_BYTES, (end - start) // PAGE_BYTES)
    return runs


def _scan_region(descriptor: int, region: Region, vector: array[int]) -> Iterator[tuple[int, int]]:
    at, end = region.address, region.address + region.length
    while at < end:
        request = _request(at, end, vector)
        found = fcntl.ioctl(descriptor, _PAGEMAP_SCAN, request)
        for number in range(found):
            yield vector[3 * number], vector[3 * number + 1]
        # Linux 6.18 was seen to return a walk_end that lies before pages that it has reported; those are done.
        reached = max(request.walk_end, vector[3 * found - 2] if found else 0)
        if reached <= at:
            raise MachineError(f"PAGEMAP_SCAN makes no progress at {at:#x}")
        at = reached


def _request(start: int, end: int, vector: array[int]) -> _Scan:
    return _Scan(
        size=ctypes.sizeof(_Scan),
        start=start,
        end=end,
        vec=vector.buffer_info()[0],
        vec_len=len(vector) // 3,
        category_inverted=_IS_FILE,
        category_mask=_IS_FILE,
        category_anyof_mask=_IS_PRESENT | _IS_SWAPPED,
        return_mask=_IS_FILE,
    )


# -- /proc/<pid>/pagemap (Documentation/admin-guide/mm/pagemap.rst) ----------------------------------------------------

_BATCH_PAGES = 65536
_HERE = (1 << 63) | (1 << 62)  # present, or in swap
_OF_FILE = 1 << 61


def classic(pid: int, regions: Sequence[Region]) -> list[Run]:
    """Own pages by reading the page map: present or swapped out, and not of a file."""
    runs: list[Run] = []
    with _reading(pid, "pagemap") as file:
        for region in regions:
            for first in range(0, region.length // PAGE_BYTES, _BATCH_PAGES):
                count = min(_BATCH_PAGES, region.length // PAGE_BYTES - first)
                entries = _entries(file.fileno(), region.address // PAGE_BYTES + first, count)
                _own(runs, entries, region.offset // PAGE_BYTES + first)
    return runs


def _entries(descriptor: int, page: int, count: int) -> array[int]:
    entries = array("Q", os.pread(descriptor, count * 8, page * 8))
    if len(entries) != count:
        raise MachineError(f"The page map gave {len(entries)} of {count} entries")
    return entries


def _own(runs: list[Run], entries: Iterable[int], first: int) -> None:
    for number, entry in enumerate(entries, first):
        if entry & _HERE and not entry & _OF_FILE:
            _append(runs, number, 1)


def _append(runs: list[Run], page: int, count: int) -> None:
    if runs and runs[-1].page + runs[-1].count == page:
        runs[-1] = Run(runs[-1].page, runs[-1].count + count)
    else:
        runs.append(Run(page, count))


def _reading(pid: int, name: str) -> FileIO:
    path = Path(f"/proc/{pid}/{name}")
    try:
        return path.open("rb", buffering=0)
    except (FileNotFoundError, ProcessLookupError) as err:
        raise MachineError(f"VMM {pid} is gone") from err
    except PermissionError as err:
        raise MachineError(f"{path}: this service may not look into the VMM (ptrace rules)") from err


# -- content -----------------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
Span = tuple[int, int]  #: address and length in the other process


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def spans(regions: Sequence[Region], run: Run) -> Iterator[Span]:
    """The addresses of a run of guest pages; more than one when it crosses a border between regions."""
    at, left = run.page * PAGE_BYTES, run.count * PAGE_BYTES
    for region in regions:
        if left and region.offset <= at < region.offset + region.length:
            length = min(left, region.offset + region.length - at)
            yield region.address + at - region.offset, length
            at, left = at + length, left - length


def read_into(pid: int, where: Sequence[Span], buffer: bytearray) -> None:
    """Fill the start of `buffer` with the spans, one after the other. Raises MachineError."""
    _transfer(_libc.process_vm_readv, "read", pid, where, buffer)


def write_from(pid: int, where: Sequence[Span], buffer: bytearray) -> None:
    """Write the start of `buffer` to the spans, one after the other. Raises MachineError."""
    _transfer(_libc.process_vm_writev, "write", pid, where, buffer)


def _transfer(call: Callable[..., int], verb: str, pid: int, where: Sequence[Span], buffer: bytearray) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    done = 0
    for first in range(0, len(where), IOV_MAX):
        batch = where[first : first + IOV_MAX]
        total = sum(length for _, length in batch)
        if done + total > len(buffer):
            raise ValueError("the buffer is smaller than the spans")
        remote = (_IoVec * len(batch))(*(_IoVec(*span) for span in batch))
        local = _IoVec(address + done, total)
        moved = call(pid, ctypes.byref(local), 1, remote, len(batch), 0)
        if moved != total:
            why = os.strerror(ctypes.get_errno()) if moved < 0 else f"{moved} of {total} bytes"
            raise MachineError(f"Could not {verb} the memory of VMM {pid}: {why}")
        done += total


for _call in (_libc.process_vm_readv, _libc.process_vm_writev):
    _call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    _call.restype = ctypes.c_ssize_t
