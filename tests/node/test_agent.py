"""Admission of new microVMs: what is refused to the caller must not start later, and nobody is admitted twice."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from rekindle.config import Memory
from rekindle.core.errors import MachineError, NoCapacity, RekindleError
from rekindle.core.lifecycle import Ask, Fact, Phase
from rekindle.core.microvm import REQUEST, MicroVM
from rekindle.node.agent import REFUSED, Agent
from rekindle.node.builds import Workshop
from rekindle.store.db import Store
from tests.node.ground import Driver, FakeRelay, hands
from tests.store.rows import HandClock, built_image, started
from tests.waiting import until_async


class Relay(FakeRelay):
    """With the parts that only the agent uses."""

    asked = 0

    def __init__(self) -> None:
        super().__init__()
        self.waited_for: list[str] = []
        self.others = range(0)  #: ports that somebody else on the machine holds
        self.heard = asyncio.Event()  #: every wake was followed
        self.broken: RekindleError | None = None  #: what `put_route` raises

    async def ensure(self, config: Mapping[str, object]) -> bool:
        return True

    async def put_route(self, vm_id: str, route: Mapping[str, object]) -> None:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        if route["endpoint_port"] in self.others:
            raise NoCapacity(f"Endpoint port {route['endpoint_port']} is in use")
        await super().put_route(vm_id, route)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        for vm_id in self.waited_for:
            yield {"type": "wake", "vm": vm_id}
        self.heard.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def at_work(state: Path, store: Store, relay: Relay, memory: Memory = Memory()) -> AsyncIterator[Agent]:
    at = hands(state, Driver(), relay, HandClock())
    at = replace(at, host=replace(at.host, config=replace(at.host.config, memory=memory)))
    agent = Agent(at, store, cast(Workshop, None), {})
    async with asyncio.TaskGroup() as own:
        running = own.create_task(agent.run())
        await asyncio.sleep(0)  # noqa: TID251 - lets `run` begin, nothing more
        yield agent
        running.cancel()


class SlowStore:
    """The store, but that the row of one microVM is slow to come."""

    def __init__(self, store: Store, slow: str) -> None:
        self._store, self._slow = store, slow
        self.looked = 0  #: how often somebody asked for that row
        self.may_answer = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def microvm(self, vm_id: str) -> MicroVM | None:
        if vm_id == self._slow:
            self.looked += 1
            await self.may_answer.wait()
        return await self._store.microvm(vm_id)


async def asleep(store: Store) -> MicroVM:
    vm = await store.report(await started(store, HandClock()), Fact.STARTED)
    return await store.report(await store.ask(vm.id, Ask.SUSPEND), Fact.SUSPENDED, snapshot=1)


async def test_a_wake_that_lasts_delays_no_other_and_is_not_begun_twice(tmp_path: Path, store: Store) -> None:
    await built_image(store)
    slow, other = await asleep(store), await asleep(store)
    held = SlowStore(store, slow.id)
    relay = Relay()
    relay.waited_for = [slow.id, slow.id, other.id, slow.id]
    at = hands(tmp_path / "state", Driver(), relay, HandClock())
    agent = Agent(at, cast(Store, held), cast(Workshop, None), {})

    async def asked(vm: MicroVM) -> bool:
        return any(event.by == REQUEST for event in await store.events(vm.id, 9))

    async with asyncio.TaskGroup() as own:
        held.may_answer.set()
        running = own.create_task(agent.run())
        held.may_answer.clear()
        await until_async(lambda: asked(other), 5, "the other one wakes")
        wakes = held.looked - 1  # its keeper looks too
        assert (await asked(slow), wakes) == (False, 1)
        held.may_answer.set()
        await until_async(lambda: asked(slow), 5, "the slow one wakes too")
        running.cancel()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (NoCapacity("The endpoint port is in use"), "No free endpoint port.*"),
        (MachineError("The relay refused it"), "The relay refused it"),
    ],
)
async def test_a_vm_whose_caller_gets_an_error_ends(
    tmp_path: Path, store: Store, broken: RekindleError, reason: str
) -> None:
    relay = Relay()
    relay.broken = broken
    await built_image(store)
    async with at_work(tmp_path / "state", store, relay) as agent:
        vm = await started(store, HandClock())
        with pytest.raises(type(broken)):
            await agent.admit(vm)
        await asyncio.wait_for(agent.empty(), 5)
    row = await store.microvm(vm.id)
    assert row is not None
    assert row.phase is Phase.TERMINATED
    assert row.state_reason is not None
    assert re.fullmatch(reason, row.state_reason)


class UnreadableStore:
    """The store, but that it cannot say once what is owed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.failures = [sqlite3.OperationalError("disk I/O error")]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def owing(self, node: str) -> list[MicroVM]:
        if self.failures:
            raise self.failures.pop()
        return await self._store.owing(node)


async def test_rows_that_cannot_be_read_once_end_no_service(tmp_path: Path, store: Store) -> None:
    await built_image(store)
    async with at_work(tmp_path / "state", cast(Store, UnreadableStore(store)), Relay()) as agent:
        vm = await started(store, HandClock())  # nobody keeps it but who looks at the rows
        await store.ask(vm.id, Ask.TERMINATE)
        agent.kick()

        async def over() -> bool:
            row = await store.microvm(vm.id)
            return row is not None and row.phase is Phase.TERMINATED

        await until_async(over, 10, "its keeper has ended it")


async def test_hundreds_of_ports_in_a_row_that_others_hold_refuse_no_launch(tmp_path: Path, store: Store) -> None:
    relay = Relay()
    relay.others = range(20_000, 20_400)
    await built_image(store)
    async with at_work(tmp_path / "state", store, relay) as agent:
        vm = await agent.admit(await started(store, HandClock()))
        assert vm.endpoint_port not in relay.others
        await store.ask(vm.id, Ask.TERMINATE)
        agent.kick()
        await asyncio.wait_for(agent.empty(), 5)


async def test_a_leftover_that_cannot_be_ended_keeps_nobody_from_starting(tmp_path: Path, store: Store) -> None:
    at = hands(tmp_path / "state", Driver(), Relay(), HandClock())
    broken, plain = at.host.layout.vms / "microvm-broken", at.host.layout.vms / "microvm-plain"
    for home in (broken, plain):
        (home / "run").mkdir(parents=True)
    (broken / "run/vmm").write_text("not a pid")
    await Agent(at, store, cast(Workshop, None), {}).start()
    assert broken.exists()
    assert not plain.exists()


async def test_a_repeated_admission_touches_nothing(tmp_path: Path, store: Store) -> None:
    relay = Relay()
    await built_image(store)
    async with at_work(tmp_path / "state", store, relay) as agent:
        vm = await started(store, HandClock())
        await asyncio.gather(agent.admit(vm), agent.admit(vm))
        assert relay.asked == 1

        async def over() -> bool:
            row = await store.microvm(vm.id)
            return row is not None and row.phase is Phase.TERMINATED

        await until_async(over, 5, "its image folder is not there, so the start fails")


@pytest.mark.parametrize(("host_mib", "woken"), [(511, False), (512, True)])
async def test_a_request_wakes_only_what_the_machine_can_hold(
    tmp_path: Path, store: Store, host_mib: int, woken: bool
) -> None:
    await built_image(store)
    vm = await store.report(await started(store, HandClock()), Fact.STARTED)
    await store.report(await store.ask(vm.id, Ask.SUSPEND), Fact.SUSPENDED, snapshot=1)
    relay = Relay()
    relay.waited_for = [vm.id, vm.id]

    async def told() -> list[str]:
        return [event.what for event in await store.events(vm.id, 9)]

    async def heard() -> bool:
        return ("SUSPENDED -> RESUMING" if woken else REFUSED) in await told()

    async with at_work(tmp_path / "state", store, relay, Memory(host_mib=host_mib, overcommit=1)):
        await asyncio.wait_for(relay.heard.wait(), 5)
        await until_async(heard, 5, "the request was followed")
    assert ("SUSPENDED -> RESUMING" in await told()) is woken
    assert (await told()).count(REFUSED) == (0 if woken else 1)
