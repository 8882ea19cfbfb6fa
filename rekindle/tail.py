"""Follow a file that another writer appends to, woken by the kernel (inotify), until its writer is done."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK_BYTES = 1 << 16
#: The end of the writer is a row, not an event of the file: how late it may be noticed.
LOOK_AGAIN_S = 0.5
_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_LIBC = ctypes.CDLL(None, use_errno=True)


async def follow(path: Path, over: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bytes, None]:
    """What is in `path` and what comes, until `over()` and nothing is left to read. The file need not exist yet."""
    offset = 0
    with _changes(path.parent) as changed:
        while True:
            changed.clear()
            done = await over()  # asked before the read: what was written before the end is read after it
            while chunk := read_from(path, offset):
                offset += len(chunk)
                yield chunk
            if done:
                return
            await _wait(changed, LOOK_AGAIN_S)


def read_from(path: Path, offset: int) -> bytes:
    """At most CHUNK_BYTES from `offset` on; nothing when the file is not there."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b""


async def _wait(changed: asyncio.Event, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await changed.wait()
    except TimeoutError:
        return


@contextmanager
def _changes(folder: Path) -> Iterator[asyncio.Event]:
    """An event that is set when a file in `folder` is made or written. Raises OSError when there is no such folder."""
    changed = asyncio.Event()
    descriptor = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), folder)
    loop = asyncio.get_running_loop()

    def drain() -> None:
        os.read(descriptor, CHUNK_BYTES)
        changed.set()

    try:
        _checked(_LIBC.inotify_add_watch(descriptor, os.fsencode(folder), _IN_MODIFY | _IN_CREATE), folder)
        loop.add_reader(descriptor, drain)
        yield changed
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _checked(result: int, folder: Path) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
    return result
