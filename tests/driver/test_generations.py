"""A VM that is suspended and resumed many times in a row, with memory being written at the instant of every stop.

`REKINDLE_TEST_GENERATIONS` says how many times. Every generation checks what the guest has written in the ones before;
every tenth is forked. What an ended VMM said is part of the failure.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from rekindle.core.errors import MachineError
from rekindle.driver import layers
from rekindle.driver.base import Handle
from tests.driver import hang
from tests.driver.lab import Guest, Lab
from tests.waiting import SLOWNESS

GENERATIONS = int(os.environ.get("REKINDLE_TEST_GENERATIONS", "40"))
KEPT = 6  #: blocks of memory and files of the latest generations that are checked in each
FORK_EVERY = 10
CHURN_MIB = 4
BASE_MIB = 64  #: a delta has what the guest wrote since it was baked, and no more however long the chain
EXIT_S = 5.0


@pytest.mark.long
async def test_no_generation_of_a_long_chain_loses_anything(lab: Lab, launcher: Path) -> None:
    spec, snap = lab.spec(), lab.baked
    written = 0
    for number in range(GENERATIONS):
        vm = await lab.restore(spec, snap)
        with Guest(vm.home) as guest:
            await lab.driver.unpause(vm)
            try:
                written = await _one(guest, number, written)
            except (AssertionError, MachineError, OSError, TimeoutError) as err:
                raise AssertionError(f"generation {number}: {err!r}; {await _end(lab, vm, guest)}") from err
            slept = await lab.suspend(vm, str(number))
        await layers.merge(launcher, spec, slept)
        layers.drop_older(spec.home / "snapshots", keep=slept.name)
        snap = slept
        assert (snap / "delta").stat().st_size <= BASE_MIB << 20
        if number % FORK_EVERY == 0:
            await _fork(lab, snap, number, written)
            print(f"generation {number}: {written} pages written and right", flush=True)
    print(f"{GENERATIONS} generations, {written} pages written while running, all right", flush=True)


async def _one(guest: Guest, number: int, written: int) -> int:
    """Check what is there, write more; the pages that the guest has written in the background up to now."""
    await _remembers(guest, number)
    slot = number % KEPT
    await guest.ask(f"fill m{slot} {1 + number % 3}")
    await guest.ask(f"write f{slot} {50 + number % 7}")
    if number == 0:
        await guest.ask(f"churn {CHURN_MIB}")
        return 0
    now = int(await guest.ask("churned"))
    assert now > written, f"the background writer stands at {now}"
    return now


async def _remembers(guest: Guest, number: int) -> None:
    for before in range(max(0, number - KEPT), number):
        slot = before % KEPT
        assert await guest.ask(f"check m{slot}") == f"right {1 + before % 3}"
        assert await guest.ask(f"verify f{slot}") == f"right {50 + before % 7}"


async def _fork(lab: Lab, snap: Path, number: int, written: int) -> None:
    """The same snapshot as another VM, which writes; the first one must not notice."""
    forked, copy = lab.fork(snap)
    async with lab.running(forked, copy) as (vm, guest):
        await _remembers(guest, number + 1)
        assert int(await guest.ask("churned")) >= written
        await guest.ask("fill m0 9")
        await guest.ask("write f0 900")
    await lab.driver.kill(vm)
    await asyncio.to_thread(shutil.rmtree, forked.home)


async def _end(lab: Lab, vm: Handle, guest: Guest) -> str:
    """How the VMM ended; else why its guest is silent."""
    try:
        async with asyncio.timeout(EXIT_S * SLOWNESS):
            ended = await lab.driver.wait(vm)
    except TimeoutError:
        return f"its VMM runs on\n{await hang.told(lab, vm, guest)}"
    return f"its VMM ended: {ended.kind.value} {ended.detail}"
