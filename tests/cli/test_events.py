"""`rekindle events`: whose story it finds, from when on, for people and for programs, read once and followed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from rekindle.cli.session import CallFailed, Session
from rekindle.clock import wall_ms
from rekindle.core.lifecycle import Ask, Fact
from rekindle.core.microvm import OPERATOR, Event, MicroVM
from tests.cli.ground import KEY, Ground
from tests.store.rows import HandClock, arn, built_image, vm_row
from tests.waiting import until_async

PORTS = range(20000, 20010)


@pytest.fixture
async def vm(here: Ground) -> MicroVM:
    await built_image(here.store)
    row = vm_row(HandClock(wall_ms()))
    vm = await here.store.run_microvm(row, PORTS, client_token=None, token_digest="", by=KEY.key_id)
    return await here.store.report(vm, Fact.STARTED)


async def told(here: Ground, *words: str) -> list[tuple[str, str]]:
    """Subject and what of each event."""
    lines = (await here.cli("events", "--json", *words)).out.splitlines()
    return [(event["subject"], event["what"]) for event in map(json.loads, lines)]


async def test_a_story_is_found_by_the_beginning_of_an_id_and_by_an_images_name(here: Ground, vm: MicroVM) -> None:
    own = [(vm.id, "PENDING"), (vm.id, "PENDING -> RUNNING")]
    for name in (vm.id, vm.id[:16], vm.id.removeprefix("microvm-")[:8]):
        assert await told(here, name) == own
    image = await told(here, "demo")
    assert {subject for subject, _ in image} == {arn("demo")}
    assert (image[0][1], image[-1][1]) == ("image CREATING", "image CREATED")
    assert await told(here, arn("demo")) == image
    assert await told(here) == image + own
    assert await told(here, "--last", "1") == own[-1:]


async def test_people_read_when_what_by_whom_and_why(here: Ground, vm: MicroVM) -> None:
    await here.store.ask(vm.id, Ask.TERMINATE, why="MicroVM exceeded maximum lifetime.")
    [first, _, last] = (await here.cli("events", vm.id)).out.splitlines()
    assert first.endswith(f"  PENDING (by {KEY.key_id}): asked to run")
    assert last.endswith("  RUNNING -> TERMINATING (by service): MicroVM exceeded maximum lifetime.")
    everything = (await here.cli("events")).out.splitlines()
    assert f"  {vm.id}  PENDING (by" in everything[-3]
    assert "  microvm-image demo  image CREATING (by service): asked to create" in everything[0]


async def test_programs_read_one_event_a_line(here: Ground, vm: MicroVM) -> None:
    event = json.loads((await here.cli("events", vm.id, "--json")).out.splitlines()[0])
    assert event.pop("number") > 0
    assert abs(event.pop("at_ms") - wall_ms()) < 3_600_000
    assert event == {"subject": vm.id, "what": "PENDING", "why": "asked to run", "by": KEY.key_id, "detail": {}}


async def test_since_leaves_out_what_is_older(here: Ground, vm: MicroVM) -> None:
    for minutes in (180, 30):
        at_ms = wall_ms() - minutes * 60_000
        await here.store.add_event(Event(subject="microvm-old", at_ms=at_ms, what=f"{minutes} minutes ago"))
    assert await told(here, "arn:old") == []
    old = [("microvm-old", "180 minutes ago"), ("microvm-old", "30 minutes ago")]
    assert [one for one in await told(here, "--since", "1d") if one[0] == "microvm-old"] == old
    assert [one for one in await told(here, "--since", "1h") if one[0] == "microvm-old"] == old[1:]
    assert [one for one in await told(here, "--since", "2001-01-01T00:00") if one[0] == "microvm-old"] == old
    assert await told(here, "--since", "2100-01-01") == []
    wrong = await here.cli("events", "--since", "yesterday")
    assert (wrong.code, "--since yesterday: must be as 10m" in wrong.err) == (2, True)


async def test_a_follower_sees_what_comes_once_and_in_order(here: Ground, vm: MicroVM) -> None:
    log = here.config.state / "followed"
    with log.open("wb") as out:
        process = await here.open_cli("events", vm.id, "--follow", "--json", out=out)

    async def lines(count: int) -> bool:
        return len(log.read_text().splitlines()) >= count

    try:
        await until_async(lambda: lines(2), 20, "what was there is told")
        await here.store.ask(vm.id, Ask.SUSPEND, by=KEY.key_id)
        other = replace(vm_row(HandClock(wall_ms())))
        await here.store.run_microvm(other, PORTS, client_token=None, token_digest="")
        suspending = await here.store.microvm(vm.id)
        assert suspending is not None
        await here.store.report(suspending, Fact.SUSPENDED, snapshot=1)
        await until_async(lambda: lines(4), 20, "what came is told")
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["what"] for event in events] == [
        "PENDING",
        "PENDING -> RUNNING",
        "RUNNING -> SUSPENDING",
        "SUSPENDING -> SUSPENDED",
    ]
    assert events[2]["by"] == KEY.key_id


async def test_the_story_of_a_deleted_image_is_still_told(here: Ground) -> None:
    await built_image(here.store)
    assert (await here.cli("image", "rm", "demo")).code == 0
    assert [what for _, what in await told(here, "demo")][-2:] == ["version 1.0 DELETED", "image DELETED"]


async def test_a_name_that_nothing_has_is_an_error(here: Ground, vm: MicroVM) -> None:
    none = await here.cli("events", "nobody")
    assert (none.code, none.err) == (1, "error: Nothing is told of a microVM or image 'nobody'\n")
    wrong = await here.cli("events", "microvm-zzz")
    assert (wrong.code, "No microVM begins with 'microvm-zzz'" in wrong.err) == (1, True)


async def test_a_refused_command_shows_how_it_came_to_that(here: Ground, vm: MicroVM) -> None:
    await here.store.report(await here.store.ask(vm.id, Ask.TERMINATE, by=OPERATOR), Fact.STOPPED)
    for words in (("suspend", vm.id), ("token", vm.id), ("curl", vm.id)):
        refused = await here.cli(*words)
        assert refused.code == 1
        assert "has been terminated" in refused.err.splitlines()[0]
        assert "RUNNING -> TERMINATING (by operator): asked to terminate" in refused.err


@pytest.mark.parametrize("query", ["since_ms=x", "limit=-1", "limit=1" + "0" * 20])
async def test_a_query_that_is_no_number_is_refused(here: Ground, query: str) -> None:
    name, _, text = query.partition("=")
    session = Session(lambda _: here.config)
    with pytest.raises(CallFailed, match=f"{name} must be a number"):
        await asyncio.to_thread(lambda: b"".join(session.stream("/v1/events", **{name: text})))
