"""Processes are known by pid, start time and boot: a stranger that has one of our pids is never touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from rekindle.core.lifecycle import Ask, Fact, Phase
from rekindle.core.microvm import MicroVM
from rekindle.driver.base import Accel, Handle, MachineSpec
from rekindle.driver.process import Identity, started_ticks
from rekindle.driver.qemu import QemuDriver
from rekindle.node.agent import NODE, Agent
from rekindle.node.builds import Workshop
from rekindle.node.keeper import Keeper
from rekindle.node.perform import Hands
from rekindle.store.db import Store
from tests.node.ground import Driver, FakeRelay, Image, hands
from tests.node.test_agent import Relay
from tests.store.rows import HandClock, built_image, started


@pytest.fixture
async def stranger() -> AsyncIterator[Identity]:
    process = await asyncio.create_subprocess_exec("sleep", "600")
    ticks = started_ticks(process.pid)
    assert ticks is not None
    yield Identity(process.pid, ticks)
    process.kill()
    await process.wait()


@pytest.fixture
async def at(tmp_path: Path) -> Hands:
    """With the real driver, which finds processes by what was saved of them."""
    return hands(tmp_path / "state", cast(Driver, QemuDriver(Path("/nonexistent"))), FakeRelay(), HandClock())


def handle(at: Hands, vm: MicroVM, who: Identity) -> dict[str, object]:
    """As the driver saves it, beside the pid file that the launcher writes."""
    home = at.host.layout.home(vm.id)
    (home / "run").mkdir(parents=True, exist_ok=True)
    (home / "run/vmm").write_text(f"{who.pid} {who.started_ticks}")
    extra = {"cgroups": [], "accel": Accel.TCG.value}
    return Handle(vm_id=vm.id, pid=who.pid, started_ticks=who.started_ticks, home=home, extra=extra).saved()


async def running(at: Hands, store: Store, who: Identity) -> MicroVM:
    vm = await started(store, HandClock())
    return await store.report(vm, Fact.STARTED, handle=handle(at, vm, who))


async def kept(at: Hands, store: Store, vm: MicroVM) -> MicroVM:
    """What a keeper makes of it; it ends with the VM."""
    await asyncio.wait_for(Keeper(vm.id, at, store, Image().baked).run(), 10)
    row = await store.microvm(vm.id)
    assert row is not None
    return row


async def test_a_stranger_with_the_pid_of_a_vmm_is_left_alone(at: Hands, store: Store, stranger: Identity) -> None:
    await built_image(store)
    vm = await running(at, store, Identity(stranger.pid, stranger.started_ticks - 1))
    over = await kept(at, store, vm)
    assert (over.phase, over.state_reason) == (Phase.TERMINATED, "Internal service error.")
    told = {event.what: event.why for event in await store.events(vm.id, 9)}
    assert told["why it was lost"] == "The VMM was gone when the service looked"
    assert stranger.alive()


async def test_a_stranger_is_left_alone_when_the_vm_ends(at: Hands, store: Store, stranger: Identity) -> None:
    await built_image(store)
    vm = await running(at, store, Identity(stranger.pid, stranger.started_ticks - 1))
    await store.ask(vm.id, Ask.TERMINATE)
    assert (await kept(at, store, vm)).phase is Phase.TERMINATED
    assert stranger.alive()


async def test_after_a_restart_of_the_host_no_pid_is_believed(tmp_path: Path, store: Store, stranger: Identity) -> None:
    """Pid and start time are both the stranger's: another boot counts its ticks anew."""
    await built_image(store)
    real = cast(Driver, QemuDriver(Path("/nonexistent")))
    at = hands(tmp_path / "state", real, Relay(), HandClock())
    ran, going = await running(at, store, stranger), await running(at, store, stranger)
    await store.ask(going.id, Ask.TERMINATE)
    for name in ("vms/microvm-nobody", "builds/bake-1"):  # no row names them: they are swept
        (at.host.layout.state / name / "run").mkdir(parents=True)
        (at.host.layout.state / name / "run/vmm").write_text(f"{stranger.pid} {stranger.started_ticks}")
    await store.host_booted(NODE, "an earlier boot")
    await Agent(at, store, cast(Workshop, None), {}).start()
    assert stranger.alive()
    assert [one.name for one in at.host.layout.vms.iterdir() if one.name == "microvm-nobody"] == []
    for vm, reason in ((ran, "The host was restarted."), (going, "Success.")):
        over = await kept(at, store, vm)
        assert (over.phase, over.state_reason) == (Phase.TERMINATED, reason)
    assert stranger.alive()


async def test_a_route_without_a_row_is_dropped(tmp_path: Path, store: Store) -> None:
    await built_image(store)
    relay = Relay()
    vm = await started(store, HandClock())
    relay.routes = {vm.id: "running", "microvm-nobody": "running"}
    await Agent(hands(tmp_path / "state", Driver(), relay, HandClock()), store, cast(Workshop, None), {}).start()
    assert set(relay.routes) == {vm.id}


async def test_without_a_restart_of_the_host_what_runs_is_kept(tmp_path: Path, store: Store) -> None:
    await built_image(store)
    driver = Driver()
    at = hands(tmp_path / "state", driver, Relay(), HandClock())
    vm = await started(store, HandClock())
    spec = cast(MachineSpec, type("Spec", (), {"vm_id": vm.id, "home": at.host.layout.home(vm.id)}))
    running_one = await driver.restore(spec, tmp_path)
    vm = await store.report(vm, Fact.STARTED, handle=running_one.saved())
    (at.host.layout.home(vm.id) / "run").mkdir(parents=True)
    (at.host.layout.home(vm.id) / "run/vmm").write_text("1 1")
    for _ in range(2):
        await Agent(at, store, cast(Workshop, None), {}).start()
        assert await store.microvm(vm.id) == vm
        assert (at.host.layout.home(vm.id) / "run/vmm").exists()
