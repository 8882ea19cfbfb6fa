"""Stories: append-only by the schema, by whom, kept as long as what they tell of, and read on from a place."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rekindle.core.lifecycle import Ask, Fact, Phase
from rekindle.core.microvm import OPERATOR, REQUEST, SERVICE, Event, MicroVM
from rekindle.store import database, sql
from rekindle.store.db import Store

from .rows import HandClock, arn, built_image, image_rows, settled_connector, started, updated_image

ARN = arn("demo")
KEY = "AKIAAAAAAAAAAAAAAAAA"


@pytest.fixture
async def vm(store: Store, clock: HandClock) -> MicroVM:
    await built_image(store)
    return await started(store, clock)


def changed(store: Store, statement: str) -> int:
    """What the store itself never asks for."""
    return store._db._connection.execute(statement).rowcount


async def gone(store: Store) -> None:
    """The demo image, deleted and removed."""
    await store.delete_image(ARN, by=KEY)
    for going in await store.versions_deleting():
        await store.version_removed(going)


async def test_each_move_says_by_whom(store: Store, vm: MicroVM) -> None:
    vm = await store.report(vm, Fact.STARTED)
    vm = await store.report(await store.ask(vm.id, Ask.SUSPEND, by=KEY), Fact.SUSPENDED, snapshot=2)
    vm = await store.report(await store.ask(vm.id, Ask.RESUME, why="a request waits", by=REQUEST), Fact.RESUMED)
    await store.ask(vm.id, Ask.TERMINATE, by=OPERATOR)
    told = [(event.what, event.why, event.by) for event in await store.events(vm.id, 4)]
    assert told == [
        ("SUSPENDING -> SUSPENDED", "suspended", SERVICE),
        ("SUSPENDED -> RESUMING", "a request waits", REQUEST),
        ("RESUMING -> RUNNING", "resumed", SERVICE),
        ("RUNNING -> TERMINATING", "asked to terminate", OPERATOR),
    ]


async def test_a_refused_or_empty_ask_leaves_no_event(store: Store, vm: MicroVM) -> None:
    vm = await store.report(vm, Fact.STARTED)
    told = await store.events(vm.id, 9)
    await store.ask(vm.id, Ask.RESUME, by=KEY)
    assert await store.events(vm.id, 9) == told


async def test_no_event_is_ever_changed(store: Store, vm: MicroVM) -> None:
    for column in ("at_ms", "what", "why", "by_whom", "subject"):
        with pytest.raises(sqlite3.IntegrityError, match="events are never changed"):
            changed(store, f"UPDATE event SET {column} = 1 WHERE subject = '{vm.id}'")
    assert [event.what for event in await store.events(vm.id, 9)] == ["PENDING"]


async def test_no_event_is_deleted_while_its_subject_is_there(store: Store, vm: MicroVM) -> None:
    connector = await settled_connector(store)
    for subject in (vm.id, ARN, connector.arn):
        with pytest.raises(sqlite3.IntegrityError, match="events stay as long as what they tell of"):
            changed(store, f"DELETE FROM event WHERE subject = '{subject}'")
        assert await store.events(subject, 1)


async def test_a_story_outlives_its_image(store: Store, clock: HandClock) -> None:
    await built_image(store)
    await gone(store)
    ended_at_ms = clock()
    with pytest.raises(sqlite3.IntegrityError, match="events stay"):
        changed(store, f"DELETE FROM event WHERE subject = '{ARN}'")
    clock.pass_minutes(60)
    assert await store.forget_ended(ended_at_ms) == []
    [last] = await store.events(ARN, 1)
    assert (last.what, last.by, last.at_ms) == ("image DELETED", SERVICE, ended_at_ms)
    assert ("image DELETING", KEY) in [(event.what, event.by) for event in await store.events(ARN, 9)]
    assert await store.forget_ended(clock()) == [ARN]
    assert await store.events(ARN, 9) == []


async def test_an_image_of_the_same_name_goes_on_with_the_story(store: Store, clock: HandClock) -> None:
    await built_image(store)
    await gone(store)
    await store.create_image(*image_rows(), client_token=None, token_digest="", by=KEY)
    clock.pass_minutes(600)
    assert await store.forget_ended(clock()) == []
    told = [event.what for event in await store.events(ARN, 3)]
    assert told == ["image DELETED", "image CREATING", "version 1.0 PENDING"]


async def test_a_connectors_story_is_kept_too(store: Store, clock: HandClock) -> None:
    connector = await settled_connector(store)
    await store.delete_connector(connector.arn, by=KEY)
    await store.settle_connectors()
    told = [(event.what, event.by) for event in await store.events(connector.arn, 2)]
    assert told == [("ACTIVE -> DELETING", KEY), ("DELETED", SERVICE)]
    clock.pass_minutes(1)
    assert await store.forget_ended(clock()) == [connector.arn]


async def test_a_reader_goes_on_where_it_was(store: Store, vm: MicroVM, clock: HandClock) -> None:
    [first] = await store.events(vm.id, 9)
    assert first.number is not None
    clock.pass_minutes(1)
    vm = await store.report(vm, Fact.STARTED)
    await updated_image(store)
    assert [event.what for event in await store.events_after(vm.id, first.number, limit=9)] == ["PENDING -> RUNNING"]
    everything = await store.events_after(None, first.number, limit=99)
    assert {event.subject for event in everything} == {vm.id, ARN}
    assert [event.number for event in everything] == sorted(event.number or 0 for event in everything)
    assert await store.events_after(None, 0, since_ms=clock(), limit=99) == everything
    assert await store.events(None, 1) == everything[-1:]


async def test_a_number_is_never_given_twice(store: Store, vm: MicroVM, clock: HandClock) -> None:
    """A follower that has read the newest event must see the next one, whatever was forgotten between."""
    await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)
    [last] = await store.events(None, 1)
    assert (last.subject, last.number is not None) == (vm.id, True)
    clock.pass_minutes(62)
    assert await store.forget_terminated(clock()) == [vm.id]
    await store.add_event(Event(subject=ARN, at_ms=clock(), what="later"))
    assert [event.what for event in await store.events_after(None, last.number or 0, limit=9)] == ["later"]


async def test_a_host_that_was_restarted_has_lost_what_ran(store: Store, vm: MicroVM, clock: HandClock) -> None:
    assert await store.host_booted("local", "one") == []  # nothing is known of earlier boots
    fresh = await store.report(vm, Fact.STARTED, handle={"pid": 7})
    slept = await store.report(await started(store, clock), Fact.STARTED, handle={"pid": 8})
    slept = await store.report(await store.ask(slept.id, Ask.SUSPEND), Fact.SUSPENDED, snapshot=2, handle=None)
    woken = await store.report(await store.ask(slept.id, Ask.RESUME), Fact.RESUMED, handle={"pid": 9})
    asleep = await store.report(await started(store, clock), Fact.STARTED, handle={"pid": 10})
    asleep = await store.report(await store.ask(asleep.id, Ask.SUSPEND), Fact.SUSPENDED, snapshot=2, handle=None)
    half = await store.report(await started(store, clock), Fact.STARTED, handle={"pid": 11})
    half = await store.ask(half.id, Ask.SUSPEND)
    assert await store.host_booted("local", "one") == []
    assert {one.id for one in await store.host_booted("local", "two")} == {fresh.id, woken.id, half.id}
    rows = [await store.microvm(one.id) for one in (fresh, woken, asleep, half)]
    assert [(row.phase, row.state_reason, row.handle) for row in rows if row] == [
        (Phase.TERMINATING, "The host was restarted.", None),
        (Phase.SUSPENDED, "The host was restarted; the MicroVM is back at its last suspended state.", None),
        (Phase.SUSPENDED, None, None),
        (Phase.SUSPENDING, None, None),  # its snapshot may be whole: the work looks, under the row's number
    ]
    assert rows[-1] is not None
    assert rows[-1].revision == half.revision
    told = [(await store.events(one.id, 1))[0] for one in (fresh, woken, half)]
    assert [(event.what, event.why) for event in told] == [
        ("RUNNING -> TERMINATING", "The host was restarted."),
        ("RUNNING -> SUSPENDED", "The host was restarted; the MicroVM is back at its last suspended state."),
        ("its process is gone", "The host was restarted."),
    ]
    assert await store.host_booted("local", "two") == []


def test_stories_from_before_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path, isolation_level=None)
    for script in sql.migrations()[:2]:
        old.executescript(script)
    old.execute("PRAGMA user_version = 2")
    old.execute("INSERT INTO event (id, subject, at_ms, what, why, detail) VALUES (7, 's', 1, 'a', NULL, '{}')")
    old.close()
    db = database.connect(path)
    assert [tuple(row) for row in db.all("events", subject="s", limit=9)] == [(7, "s", 1, "a", None, "unknown", "{}")]
    db.close()
