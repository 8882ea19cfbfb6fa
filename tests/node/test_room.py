"""Disk for the next sleep is a VM's own from its launch on, or there is no launch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle.core.errors import NoCapacity
from rekindle.driver import reserve
from rekindle.node import room

MIB = 1024**2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """140 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=140m", "small", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def free_mib(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize // MIB


async def test_what_is_set_aside_is_nobody_elses(disk: Path) -> None:
    home = disk / "vm-1"
    await room.set_aside(home, 10)
    after = free_mib(disk)
    assert after <= 140 - 10 - 32
    assert (home / "reserve/delta").stat().st_blocks * 512 >= reserve.delta_bytes(10 * MIB)
    await room.set_aside(home, 10)
    assert free_mib(disk) == after
    reserve.give_back(home)
    reserve.give_back(home)
    assert free_mib(disk) >= 139


async def test_a_launch_without_room_is_refused_and_what_guests_write_keeps_some(disk: Path) -> None:
    with pytest.raises(NoCapacity, match="no disk for another MicroVM with 50 MiB"):
        await room.set_aside(disk / "vm-1", 50)
    assert free_mib(disk) >= room.FREE_BYTES // MIB
    await room.set_aside(disk / "vm-2", 20)
    with pytest.raises(NoCapacity):
        await room.set_aside(disk / "vm-3", 20)


def test_a_bake_needs_disk_for_the_memory_of_its_machine(disk: Path) -> None:
    room.to_bake(disk, 76)
    with pytest.raises(NoCapacity, match="no disk to bake an image with 77 MiB of memory") as refused:
        room.to_bake(disk, 77)
    assert str(disk) not in refused.value.message, "tenants read it"


async def test_a_vm_that_goes_on_gets_back_what_there_is(disk: Path) -> None:
    home = disk / "vm-1"
    await room.set_aside(home, 10)
    reserve.open_up(home)
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, free_mib(disk) * MIB)
    await room.try_again(home, 10)
    assert (home / "reserve/delta").stat().st_size == reserve.delta_bytes(10 * MIB), "it is not lost with the slack"
    (disk / "filler").unlink()
    await room.try_again(home, 10)
    assert (home / "reserve/slack").stat().st_size == reserve.SLACK_BYTES
