"""What every driver must do, as a suite: `CHECKS` run against each (style.md C5). A check takes a `Lab`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rekindle.core.errors import MachineError, SnapshotMismatch
from rekindle.driver.base import ExitKind, Handle
from rekindle.rest import rest
from tests.driver.lab import MARKER, Guest, Lab
from tests.waiting import SLOWNESS

MIB = 1024**2


async def killing_twice_is_killing_once(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    await lab.driver.kill(vm)
    await lab.driver.kill(vm)
    assert not Path(f"/proc/{vm.pid}").exists()
    assert not list((vm.home / "run").iterdir())


async def waiting_after_the_end_answers(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    await lab.driver.kill(vm)
    async with asyncio.timeout(5 * SLOWNESS):
        assert (await lab.driver.wait(vm)).kind is ExitKind.DIED


async def pausing_twice_is_pausing_once(lab: Lab) -> None:
    async with lab.running(lab.spec()) as (vm, guest):
        await lab.driver.pause(vm)
        await lab.driver.pause(vm)
        await lab.driver.unpause(vm)
        await lab.driver.unpause(vm)
        assert await guest.ask("ping") == "pong"


async def a_running_vm_has_no_snapshot(lab: Lab) -> None:
    async with lab.running(lab.spec()) as (vm, guest):
        into = vm.home / "snapshots/1"
        with pytest.raises(MachineError, match="paused"):
            await lab.driver.snapshot(vm, into)
        assert not into.exists()
        assert await guest.ask("ping") == "pong"


async def a_dead_vm_is_not_adopted(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    saved = vm.saved()
    await lab.driver.kill(vm)
    assert await lab.driver.adopt(saved) is None
    reused = Handle(vm_id=vm.vm_id, pid=os.getpid(), started_ticks=1, home=vm.home, extra=vm.extra)
    assert await lab.driver.adopt(reused.saved()) is None
    assert os.getpid()  # and we live: a reused pid is nobody's to kill


async def a_vm_that_died_unseen_is_cleared_by_adopt(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    os.kill(vm.pid, signal.SIGKILL)
    await _ended(vm)
    assert await lab.driver.adopt(vm.saved()) is None
    assert not list((vm.home / "run").iterdir())


async def a_new_driver_adopts_a_live_vm(lab: Lab) -> None:
    async with lab.running(lab.spec()) as (vm, guest):
        await lab.driver.pause(vm)
        _let_go(lab.driver)
        second = lab.make()
        adopted = await second.adopt(vm.saved())
        assert adopted == vm
        await second.unpause(vm)
        assert await guest.ask("ping") == "pong"
        await second.pause(vm)
        await second.snapshot(vm, vm.home / "snapshots/1")
        await second.kill(vm)
    async with lab.running(lab.spec(vm.vm_id), vm.home / "snapshots/1") as (_, guest):
        assert await guest.ask("check baked") == "right 4"


def _let_go(driver: object) -> None:
    """What the death of a service does to its control connections."""
    for link in list(vars(driver).get("_links", {}).values()):
        link.close()


async def a_restored_vm_has_memory_disk_and_random_state(lab: Lab) -> None:
    """The random state is part of a snapshot: only the agent reseeds, and the driver's guest has none.

    The kernel reseeds by itself too, each time half of its uptime has passed since the last time. Frozen just before
    such a moment all clones differ, so two clones that do are followed by two of a snapshot from later in that life.
    """
    spec, snap = lab.spec(), lab.baked
    for longer_s in (1, 2, 4, 8, 16):
        if len({await _random_after_restore(lab, snap) for _ in range(2)}) == 1:
            return
        async with lab.running(spec, snap) as (vm, _):
            await rest(longer_s)
        snap = await lab.suspend(vm, f"after-{longer_s}")
    raise AssertionError("no two VMs of one snapshot gave the same random bytes")


async def _random_after_restore(lab: Lab, snap: Path) -> str:
    spec, snap = (lab.spec(), snap) if snap == lab.baked else lab.fork(snap)
    async with lab.running(spec, snap) as (_, guest):
        random = await guest.ask("random")
        assert await guest.ask("marker") == MARKER
        assert await guest.ask("check baked") == "right 4"
        assert await guest.ask("verify baked") == "right 200"
    return random


async def clones_are_independent(lab: Lab) -> None:
    async with lab.running(lab.spec()) as (_, one), lab.running(lab.spec()) as (_, other):
        await one.ask("fill mine 8")
        await one.ask("write mine 300")
        assert await other.ask("check mine") == "absent"
        assert await other.ask("verify mine") == "absent"
        assert await one.ask("check mine") == "right 8"
        assert await one.ask("verify mine") == "right 300"


async def a_resume_chain_with_forks_keeps_everything(lab: Lab) -> None:
    spec, snap = lab.spec(), lab.baked
    for generation in range(3):
        async with lab.running(spec, snap) as (vm, guest):
            await _all_right(guest, range(generation))
            await guest.ask(f"fill m{generation} 2")
            await guest.ask(f"write f{generation} 100")
        snap = await lab.suspend(vm, str(generation))
    forked, copy = lab.fork(snap)
    async with lab.running(forked, copy) as (other, guest):
        await _all_right(guest, range(3))
        await guest.ask("write f0 50")
    await lab.suspend(other, "9")
    async with lab.running(spec, snap) as (_, guest):
        await _all_right(guest, range(3))


async def _all_right(guest: Guest, generations: range) -> None:
    for number in generations:
        assert await guest.ask(f"check m{number}") == "right 2"
        assert await guest.ask(f"verify f{number}") == "right 100"


async def a_vm_that_dies_after_a_resume_goes_back_to_one_moment(lab: Lab) -> None:
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        await guest.ask("fill kept 2")
        await guest.ask("write kept 100")
    snap = await lab.suspend(vm, "1")
    async with lab.running(spec, snap) as (vm, guest):
        await guest.ask("fill lost 2")
        await guest.ask("write lost 100")
        await guest.ask("write kept 60")
        os.kill(vm.pid, signal.SIGKILL)
        assert (await lab.driver.wait(vm)).kind is ExitKind.DIED
    async with lab.running(spec, snap) as (_, guest):
        assert await guest.ask("check kept") == "right 2"
        assert await guest.ask("verify kept") == "right 100"
        assert await guest.ask("check lost") == "absent"
        assert await guest.ask("verify lost") == "absent"


async def a_vm_goes_on_after_a_snapshot(lab: Lab) -> None:
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        await guest.ask("write before 100")
        await lab.driver.pause(vm)
        snap = (await lab.driver.snapshot(vm, vm.home / "snapshots/1")).folder
        await lab.driver.unpause(vm)
        await guest.ask("write after 100")
        await guest.ask("write before 70")
        assert await guest.ask("verify after") == "right 100"
    await lab.driver.kill(vm)
    async with lab.running(spec, snap) as (_, guest):
        assert await guest.ask("verify before") == "right 100"
        assert await guest.ask("verify after") == "absent"


async def a_second_restore_ends_the_first(lab: Lab) -> None:
    spec = lab.spec()
    first = await lab.restore(spec)
    second = await lab.restore(spec)
    assert not Path(f"/proc/{first.pid}").exists()
    await lab.driver.kill(first)  # late: must not touch what the second one uses
    with Guest(second.home) as guest:
        await lab.driver.unpause(second)
        assert await guest.ask("ping") == "pong"


async def an_end_says_why(lab: Lab) -> None:
    panic = ExitKind.PANIC if lab.panics_are_told else ExitKind.RESET
    kinds = {"poweroff": ExitKind.SHUTDOWN, "reboot": ExitKind.RESET, "panic": panic}
    for command, kind in kinds.items():
        async with lab.running(lab.spec()) as (vm, guest):
            await guest.tell(command)
            async with asyncio.timeout(30 * SLOWNESS):
                assert (await lab.driver.wait(vm)).kind is kind, command


async def a_whole_snapshot_is_never_replaced(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    into = vm.home / "snapshots/1"
    await lab.driver.snapshot(vm, into)
    before = (into / "manifest.json").read_bytes()
    with pytest.raises(MachineError):
        await lab.driver.snapshot(vm, into)
    assert (into / "manifest.json").read_bytes() == before


async def half_a_snapshot_is_none(lab: Lab) -> None:
    spec = lab.spec()
    vm = await lab.restore(spec)
    into = vm.home / "snapshots/1"
    into.mkdir(parents=True)
    (into / "delta").write_bytes(b"left by a crash")
    with pytest.raises(SnapshotMismatch):
        await lab.driver.restore(lab.spec(), into)
    await lab.driver.snapshot(vm, into)
    await lab.driver.kill(vm)
    async with lab.running(spec, into) as (_, guest):
        assert await guest.ask("ping") == "pong"


async def _ended(vm: Handle) -> None:
    """The process is dead, reaped or not."""
    pidfd = os.pidfd_open(vm.pid)
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ready.set)
    try:
        async with asyncio.timeout(10 * SLOWNESS):
            await ready.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


CHECKS: tuple[Callable[[Lab], Awaitable[None]], ...] = (
    killing_twice_is_killing_once,
    waiting_after_the_end_answers,
    pausing_twice_is_pausing_once,
    a_running_vm_has_no_snapshot,
    a_dead_vm_is_not_adopted,
    a_vm_that_died_unseen_is_cleared_by_adopt,
    a_new_driver_adopts_a_live_vm,
    a_restored_vm_has_memory_disk_and_random_state,
    clones_are_independent,
    a_resume_chain_with_forks_keeps_everything,
    a_vm_that_dies_after_a_resume_goes_back_to_one_moment,
    a_vm_goes_on_after_a_snapshot,
    a_second_restore_ends_the_first,
    an_end_says_why,
    a_whole_snapshot_is_never_replaced,
    half_a_snapshot_is_none,
)
