"""Room to sleep: while a VM has a process, the disk that its next sleep needs is set aside for it.

Blocks in files, not numbers in rows: a sum of what is owed is worth nothing when a guest's own disk, a build or a
stranger takes the free space. So a full disk refuses a launch or a resume and never a suspend. What is set aside is
bounded by the guest's memory (`driver/reserve.py`) and becomes the snapshot itself: no moment is left to lose it in.
Where the file system cannot set blocks aside, free space is compared when a VM starts, and no more is promised.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rekindle import threads
from rekindle.core.errors import NoCapacity
from rekindle.driver import reserve

LOG = logging.getLogger(__name__)
MIB = 1024**2
#: Stays free for what VMs write into their own disks, and for logs and the store.
FREE_BYTES = 64 * MIB


async def set_aside(home: Path, memory_mib: int) -> None:
    """Set disk aside for the next sleep of the VM in `home`, which is made when it is not there; repeatable.

    Raises NoCapacity when the disk has no room for it.
    """
    await threads.finish(_set_aside, home, memory_mib)


async def try_again(home: Path, memory_mib: int) -> str | None:
    """After a suspend that failed: the VM goes on, with room to sleep if there is any. Why there is none."""
    try:
        await set_aside(home, memory_mib)
    except NoCapacity as err:
        LOG.error("%s goes on without room to sleep: %s", home.name, err.message)
        return err.message
    return None


def to_bake(home: Path, memory_mib: int) -> None:
    """Raises NoCapacity when the disk of `home` has no room for the memory of a machine that is baked there.

    The driver sets it aside. What its snapshot needs beside it, at most as much again, is not known before.
    """
    if free_bytes(home) < memory_mib * MIB + FREE_BYTES:
        raise _none(f"to bake an image with {memory_mib} MiB of memory")


def free_bytes(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def _set_aside(home: Path, memory_mib: int) -> None:
    none = _none(f"for another MicroVM with {memory_mib} MiB of memory to sleep on")
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        if not (home / reserve.FOLDER).is_dir() and not _has_room(home, memory_mib):
            raise none
        reserve.make(home, memory_mib * MIB)
    except OSError as err:
        raise none from err


def _has_room(home: Path, memory_mib: int) -> bool:
    return free_bytes(home) >= reserve.delta_bytes(memory_mib * MIB) + reserve.SLACK_BYTES + FREE_BYTES


def _none(what_for: str) -> NoCapacity:
    """Tenants read it: it names no folder of the host."""
    return NoCapacity(f"This machine has no disk {what_for}: so much and {FREE_BYTES // MIB} MiB more must be free.")
