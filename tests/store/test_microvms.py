from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from rekindle.core.errors import Invalid, NoCapacity, NotFound, Refused, Stale
from rekindle.core.lifecycle import Ask, Fact, Phase
from rekindle.core.microvm import Event, MicroVM
from rekindle.store.db import Store
from rekindle.store.microvms import place

from .rows import ACCOUNT, OTHER, PORTS, REGION, HandClock, arn, built_image, started, vm_row


@pytest.fixture
async def vm(store: Store, clock: HandClock) -> MicroVM:
    await built_image(store)
    return await started(store, clock)


async def test_rows_come_back_as_they_were(store: Store, vm: MicroVM) -> None:
    assert await store.microvm(vm.id) == vm
    assert vm.endpoint_port in PORTS
    assert await store.microvm("microvm-nobody") is None


async def test_a_life(store: Store, vm: MicroVM, clock: HandClock) -> None:
    vm = await store.note(vm, handle={"pid": 7})
    vm = await store.report(vm, Fact.STARTED)
    vm = await store.ask(vm.id, Ask.SUSPEND)
    vm = await store.report(vm, Fact.SUSPENDED, snapshot=vm.revision, handle=None)
    assert (vm.phase, vm.suspended_at_ms, vm.handle) == (Phase.SUSPENDED, clock(), None)
    vm = await store.ask(vm.id, Ask.RESUME, why="request")
    vm = await store.report(vm, Fact.RESUMED)
    assert (vm.phase, vm.suspended_at_ms) == (Phase.RUNNING, None)
    vm = await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)
    assert (vm.phase, vm.state_reason, vm.terminated_at_ms) == (Phase.TERMINATED, "Success.", clock())
    assert [(event.what, event.why) for event in await store.events(vm.id, 9)] == [
        ("PENDING", "asked to run"),
        ("PENDING -> RUNNING", "started"),
        ("RUNNING -> SUSPENDING", "asked to suspend"),
        ("SUSPENDING -> SUSPENDED", "suspended"),
        ("SUSPENDED -> RESUMING", "request"),
        ("RESUMING -> RUNNING", "resumed"),
        ("RUNNING -> TERMINATING", "asked to terminate"),
        ("TERMINATING -> TERMINATED", "Success."),
    ]


async def test_the_first_reason_stays(store: Store, vm: MicroVM) -> None:
    await store.ask(vm.id, Ask.TERMINATE, why="MicroVM exceeded maximum lifetime.")
    again = await store.ask(vm.id, Ask.TERMINATE)
    assert again.state_reason == "MicroVM exceeded maximum lifetime."
    over = await store.report(again, Fact.STOPPED)
    assert over.state_reason == "MicroVM exceeded maximum lifetime."
    assert await store.ask(vm.id, Ask.TERMINATE) == over


async def test_a_loss_has_a_reason(store: Store, vm: MicroVM, clock: HandClock) -> None:
    assert (await store.report(vm, Fact.LOST)).state_reason == "Internal service error."
    other = await started(store, clock)
    lost = await store.report(other, Fact.LOST, state_reason="Container Stopped with Exit Code: 3")
    assert (await store.report(lost, Fact.STOPPED)).state_reason == "Container Stopped with Exit Code: 3"


async def test_a_late_fact_is_stale_and_writes_nothing(store: Store, vm: MicroVM) -> None:
    moved = await store.ask(vm.id, Ask.TERMINATE)
    for late in (store.report(vm, Fact.STARTED), store.note(vm, snapshot=1), store.change_port(vm, PORTS)):
        with pytest.raises(Stale):
            await late
    assert await store.microvm(vm.id) == moved
    with pytest.raises(Stale):
        await store.report(replace(vm, id="microvm-gone"), Fact.STARTED)


async def test_a_fact_survives_notes_of_others(store: Store, vm: MicroVM) -> None:
    await store.note(vm, handle={"pid": 1})
    running = await store.report(vm, Fact.STARTED)
    assert (running.handle, running.revision) == ({"pid": 1}, 2)


async def test_asks_are_refused_as_the_table_says(store: Store, vm: MicroVM) -> None:
    with pytest.raises(Refused, match=f"Cannot suspend MicroVM {vm.id} while it is PENDING"):
        await store.ask(vm.id, Ask.SUSPEND)
    await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)
    with pytest.raises(Invalid, match="has been terminated and its state cannot be changed"):
        await store.ask(vm.id, Ask.SUSPEND)
    with pytest.raises(NotFound, match="MicroVM not found: microvm-nobody"):
        await store.ask("microvm-nobody", Ask.SUSPEND)


async def test_a_failed_resume_keeps_the_time_of_sleep(store: Store, vm: MicroVM, clock: HandClock) -> None:
    vm = await store.report(vm, Fact.STARTED)
    vm = await store.report(await store.ask(vm.id, Ask.SUSPEND), Fact.SUSPENDED)
    slept = vm.suspended_at_ms
    clock.pass_minutes(5)
    vm = await store.report(await store.ask(vm.id, Ask.RESUME), Fact.RESUME_FAILED, state_reason="no memory")
    assert (vm.phase, vm.suspended_at_ms, vm.state_reason) == (Phase.SUSPENDED, slept, "no memory")
    again = await store.report(await store.ask(vm.id, Ask.RESUME), Fact.RESUMED)
    assert again.state_reason is None


async def test_ports_are_nobody_elses(store: Store, vm: MicroVM, clock: HandClock) -> None:
    two = range(20000, 20002)
    second = await store.run_microvm(vm_row(clock), two, client_token=None, token_digest="")
    assert {vm.endpoint_port, second.endpoint_port} == set(two)
    with pytest.raises(NoCapacity, match="20000 to 20001"):
        await store.run_microvm(vm_row(clock), two, client_token=None, token_digest="")
    await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)
    clock.pass_minutes(60)
    with pytest.raises(NoCapacity):  # a token for the old machine may still live
        await store.run_microvm(vm_row(clock), two, client_token=None, token_digest="")
    clock.pass_minutes(2)
    third = await store.run_microvm(vm_row(clock), two, client_token=None, token_digest="")
    assert third.endpoint_port == vm.endpoint_port


async def test_a_port_that_cannot_be_bound_is_passed_over(store: Store, vm: MicroVM) -> None:
    moved = await store.change_port(vm, PORTS)
    again = await store.change_port(moved, PORTS)
    assert [vm.endpoint_port, moved.endpoint_port, again.endpoint_port] == [20000, 20001, 20002]
    with pytest.raises(NoCapacity):
        await store.change_port(again, range(20002, 20003))


async def test_a_client_token_finds_what_it_made(store: Store, vm: MicroVM, clock: HandClock) -> None:
    first = await store.run_microvm(vm_row(clock), PORTS, client_token="t", token_digest="d")
    assert await store.run_microvm(vm_row(clock), PORTS, client_token="t", token_digest="d") == first
    with pytest.raises(Refused, match="other parameters"):
        await store.run_microvm(vm_row(clock), PORTS, client_token="t", token_digest="e")


async def test_owing_is_read_from_the_phase(store: Store, vm: MicroVM, clock: HandClock) -> None:
    running = await store.report(vm, Fact.STARTED)
    pending = await started(store, clock)
    assert await store.owing("local") == [pending]
    assert await store.all_microvms("local") == sorted([running, pending], key=lambda one: one.id)
    assert await store.owing("elsewhere") == []


async def test_lists_go_on_behind_a_place_and_stay_in_their_account(
    store: Store, vm: MicroVM, clock: HandClock
) -> None:
    await built_image(store, "demo", OTHER)
    await started(store, clock, "demo", OTHER)
    clock.pass_minutes(1)
    newer = await started(store, clock)
    assert await store.microvms(ACCOUNT, REGION) == [newer, vm]
    assert await store.microvms(ACCOUNT, REGION, limit=1) == [newer]
    assert await store.microvms(ACCOUNT, REGION, after=place(newer)) == [vm]
    assert await store.microvms(ACCOUNT, REGION, after=place(vm)) == []
    assert await store.microvms(ACCOUNT, REGION, image_arn=arn("demo"), image_version="1.0") == [newer, vm]
    assert await store.microvms(ACCOUNT, REGION, image_arn=arn("x")) == []


async def test_what_ended_long_ago_is_forgotten(store: Store, vm: MicroVM, clock: HandClock) -> None:
    await store.add_event(Event(subject=vm.id, at_ms=1, what="seen", detail={"n": 1}))
    await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)
    assert await store.forget_terminated(clock() + 1) == []  # its port must rest first
    clock.pass_minutes(62)
    assert await store.forget_terminated(clock()) == [vm.id]
    assert await store.microvm(vm.id) is None
    assert await store.events(vm.id, 9) == []


async def test_broken_rows_are_named(store: Store, vm: MicroVM, clock: HandClock) -> None:
    second = await started(store, clock)
    await store.note(second, endpoint_port=vm.endpoint_port)
    with pytest.raises(AssertionError, match="live_microvms_share_no_port"):
        await store.check_invariants()
    await store.note(second, endpoint_port=20009)


async def test_a_row_of_no_account_is_impossible(store: Store, vm: MicroVM, clock: HandClock) -> None:
    stray = replace(vm_row(clock), account="999999999999")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        await store.run_microvm(stray, PORTS, client_token=None, token_digest="")
    assert await store.microvm(stray.id) is None
