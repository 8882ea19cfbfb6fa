"""Disk set aside for a VM's next snapshot while it runs: blocks of its own, which nobody else can fill meanwhile.

    <home>/reserve/delta   as large as the largest delta; becomes the snapshot's `delta`, cut to what was written
    <home>/reserve/slack   for all else (what the guest itself writes before it sleeps, state, manifest, folders, the
                           row); removed right before

Blocking. Allocating takes about a millisecond for 512 MiB on ext4: nothing is written.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from rekindle.driver.pagemap import PAGE_BYTES

MIB = 1024**2
FOLDER, DELTA, SLACK = "reserve", "delta", "slack"
SLACK_BYTES = 32 * MIB
_RUN_BYTES = 16  #: what the table of a delta holds for a run, at worst one for every page
_libc = ctypes.CDLL(None, use_errno=True)


def delta_bytes(memory_bytes: int) -> int:
    """No delta of a guest with that memory is larger."""
    return memory_bytes + memory_bytes // PAGE_BYTES * _RUN_BYTES + MIB


def make(home: Path, memory_bytes: int) -> bool:
    """Set aside what is missing; repeatable. False where the file system cannot set blocks aside.

    Raises OSError (ENOSPC: the disk is full); what could be set aside stays until `give_back`.
    """
    (home / FOLDER).mkdir(mode=0o700, exist_ok=True)
    for name, size in ((DELTA, delta_bytes(memory_bytes)), (SLACK, SLACK_BYTES)):
        if not allocate(home / FOLDER / name, size):
            give_back(home)
            return False
    return True


def allocate(path: Path, size: int) -> bool:
    """Give the file, which is made when it is not there, blocks for `size` bytes and that length; they read as zeros.

    False where the file system cannot. Not posix_fallocate: libc would write a byte into every block there instead.
    Raises OSError (ENOSPC: the disk is full).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while _libc.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) != 0:
            code = ctypes.get_errno()
            if code in (errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)
    return True


def open_up(home: Path) -> None:
    """A suspend begins: the guest's last writes and the small files find room. Repeatable."""
    (home / FOLDER / SLACK).unlink(missing_ok=True)


def take(home: Path, into: Path) -> None:
    """Make the reserved file the new snapshot's delta, to be written over; nothing to do when none is set aside."""
    reserved = home / FOLDER / DELTA
    if reserved.exists():
        reserved.rename(into / DELTA)


def put_back(home: Path, into: Path) -> None:
    """The snapshot in `into` was not finished: keep its blocks for the next try."""
    if (into / DELTA).exists() and (home / FOLDER).is_dir():
        (into / DELTA).rename(home / FOLDER / DELTA)


def give_back(home: Path) -> None:
    """Nothing of this VM will be written before it is set aside again. Repeatable."""
    shutil.rmtree(home / FOLDER, ignore_errors=True)
