"""A guest that dirtied 4 GiB sleeps and wakes with every byte; `-s` prints the seconds per GiB."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.driver.base import MachineSpec
from rekindle.driver.progress import Board, Progress
from rekindle.driver.qemu import QemuDriver
from tests.driver import lab as labs
from tests.driver.lab import Lab

GIB = 1024**3
PARTS = 32  #: of 128 MiB


class Remembering(Board):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[Progress] = []

    @contextmanager
    def showing(self, vm_id: str, work: str) -> Iterator[Progress]:
        with super().showing(vm_id, work) as one:
            self.all.append(one)
            yield one


class Large(Lab):
    def spec(self, name: str = "", *, boot: bool = False) -> MachineSpec:
        return replace(super().spec(name, boot=boot), memory_mib=5120)


@pytest.mark.long
async def test_four_dirty_gibibytes_sleep_and_wake(baked: Lab, tmp_path: Path, launcher: Path) -> None:
    board = Remembering()
    lab = Large(
        folder=tmp_path,
        image=tmp_path / "image",
        tools=baked.tools,
        kernel=baked.kernel,
        make=lambda: QemuDriver(launcher, board=board),
        uid=baked.uid,
        panics_are_told=baked.panics_are_told,
    )
    (tmp_path / "image").mkdir()
    shutil.copy(baked.image / "root.erofs", tmp_path / "image")
    await labs.bake(lab)
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        for part in range(PARTS):
            await guest.ask(f"fill part{part} 128")
    began_s = time.monotonic()
    snap = await lab.suspend(vm, "1")
    slept_s = time.monotonic()
    await lab.restore(spec, snap)
    woke_s = time.monotonic()
    await lab.close()
    async with lab.running(spec, snap) as (_, guest):
        for part in range(PARTS):
            assert await guest.ask(f"check part{part}") == "right 128"
    await lab.close()
    saved, loaded, *_ = board.all
    assert saved.done_bytes == saved.of_bytes >= 4 * GIB
    assert loaded.done_bytes == loaded.of_bytes >= 4 * GIB
    size = saved.of_bytes / GIB
    took = f"suspend {(slept_s - began_s) / size:.2f}, resume {(woke_s - slept_s) / size:.2f}"
    print(f"{took} seconds per GiB of {size:.1f} GiB")
