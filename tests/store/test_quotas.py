"""Ceilings: what is counted, for whom, and that a refusal leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rekindle.core.errors import Invalid, NoCapacity, OverQuota, Refused
from rekindle.core.lifecycle import Ask, Fact, Phase
from rekindle.core.microvm import MicroVM
from rekindle.core.quota import Ceilings, Room
from rekindle.store import quotas
from rekindle.store.db import Store

from .rows import (
    ACCOUNT,
    OTHER,
    PORTS,
    HandClock,
    arn,
    built_image,
    connector_row,
    image_rows,
    settled_connector,
    vm_row,
)

SMALL = 512  #: memory of the rows


async def launch(
    store: Store,
    clock: HandClock,
    account: str = ACCOUNT,
    token: str | None = None,
    ceilings: Ceilings = Ceilings(),
    room: Room = Room(),
) -> MicroVM:
    vm = vm_row(clock, account=account)
    return await store.run_microvm(vm, PORTS, client_token=token, token_digest="d", ceilings=ceilings, room=room)


async def awake(store: Store, clock: HandClock, account: str = ACCOUNT) -> MicroVM:
    return await store.report(await launch(store, clock, account), Fact.STARTED)


async def asleep(store: Store, clock: HandClock) -> MicroVM:
    vm = await store.ask((await awake(store, clock)).id, Ask.SUSPEND)
    return await store.report(vm, Fact.SUSPENDED, snapshot=1, handle=None)


async def test_memory_of_an_account_counts_until_terminated(store: Store, clock: HandClock) -> None:
    await built_image(store)
    ceilings = Ceilings(memory_mib=2 * SMALL)
    sleeper = await asleep(store, clock)
    await launch(store, clock, ceilings=ceilings)
    with pytest.raises(OverQuota) as refused:
        await launch(store, clock, ceilings=ceilings)
    assert refused.value.message == quotas.MEMORY
    ending = await store.ask(sleeper.id, Ask.TERMINATE)
    with pytest.raises(OverQuota):
        await launch(store, clock, ceilings=ceilings)
    await store.report(ending, Fact.STOPPED)
    await launch(store, clock, ceilings=ceilings)


async def test_a_ceiling_is_each_accounts_own(store: Store, clock: HandClock) -> None:
    for account in (ACCOUNT, OTHER):
        await built_image(store, account=account)
    await launch(store, clock, ceilings=Ceilings(memory_mib=SMALL))
    await launch(store, clock, OTHER, ceilings=Ceilings(memory_mib=SMALL))
    with pytest.raises(OverQuota):
        await launch(store, clock, OTHER, ceilings=Ceilings(microvms=1))


async def test_a_refused_launch_leaves_nothing(store: Store, clock: HandClock) -> None:
    await built_image(store)
    for limits in ({"ceilings": Ceilings(memory_mib=SMALL - 1)}, {"room": Room(guest_mib=SMALL - 1)}):
        with pytest.raises((OverQuota, NoCapacity)):
            await launch(store, clock, token="t", **limits)
    assert await store.all_microvms("local") == []
    made = await launch(store, clock, token="t", ceilings=Ceilings(memory_mib=SMALL), room=Room(guest_mib=SMALL))
    assert (await store.all_microvms("local"))[0].id == made.id
    assert made.endpoint_port == PORTS.start


async def test_a_repeated_client_token_is_answered_at_the_ceiling(store: Store, clock: HandClock) -> None:
    await built_image(store)
    limits = {"ceilings": Ceilings(memory_mib=SMALL), "room": Room(guest_mib=SMALL)}
    first = await launch(store, clock, token="t", **limits)  # type: ignore[arg-type]
    assert (await launch(store, clock, token="t", **limits)).id == first.id  # type: ignore[arg-type]


async def test_the_machine_holds_what_has_a_process(store: Store, clock: HandClock) -> None:
    for account in (ACCOUNT, OTHER):
        await built_image(store, account=account)
    room = Room(guest_mib=2 * SMALL * 4, peak_factor=4)
    sleeper = await asleep(store, clock)
    told = [event.what for event in await store.events(sleeper.id, 9)]
    await awake(store, clock)
    ending = await store.ask((await launch(store, clock, OTHER, room=room)).id, Ask.TERMINATE)
    with pytest.raises(NoCapacity, match="4096 MiB"):
        await launch(store, clock, room=room)
    with pytest.raises(NoCapacity):
        await store.ask(sleeper.id, Ask.RESUME, room=room)
    still = await store.microvm(sleeper.id)
    assert still == sleeper
    assert [event.what for event in await store.events(sleeper.id, 9)] == told
    await store.report(ending, Fact.STOPPED)
    assert (await store.ask(sleeper.id, Ask.RESUME, room=room)).phase is Phase.RESUMING


async def test_one_that_is_awake_resumes_in_a_full_machine(store: Store, clock: HandClock) -> None:
    await built_image(store)
    vm = await awake(store, clock)
    assert await store.ask(vm.id, Ask.RESUME, room=Room(guest_mib=1)) == vm
    assert (await store.ask(vm.id, Ask.SUSPEND, room=Room(guest_mib=1))).phase is Phase.SUSPENDING


async def test_images_of_an_account(store: Store) -> None:
    one = Ceilings(images=1)
    await store.create_image(*image_rows("a"), client_token="t", token_digest="d", ceilings=one)
    with pytest.raises(OverQuota, match=r"number of MicroVM images \(1\)"):
        await store.create_image(*image_rows("b"), client_token=None, token_digest="d", ceilings=one)
    assert await store.image(arn("b")) is None
    with pytest.raises(Invalid, match="already exists"):
        await store.create_image(*image_rows("a"), client_token=None, token_digest="d", ceilings=one)
    image, _ = await store.create_image(*image_rows("a"), client_token="t", token_digest="d", ceilings=one)
    assert image.arn == arn("a")
    await store.create_image(*image_rows("b", OTHER), client_token=None, token_digest="d", ceilings=one)


async def test_builds_of_an_account_count_until_they_end(store: Store) -> None:
    two = Ceilings(concurrent_builds=2)
    versions = []
    for name in ("a", "b"):
        rows = image_rows(name)
        versions.append((await store.create_image(*rows, client_token=None, token_digest="", ceilings=two))[1])
    running = await store.building(versions[0])
    with pytest.raises(OverQuota, match=r"maximum number of concurrent builds \(2\)"):
        await store.create_image(*image_rows("c"), client_token=None, token_digest="", ceilings=two)
    await store.create_image(*image_rows("c", OTHER), client_token=None, token_digest="", ceilings=two)
    await store.build_failed(running, reason="x")
    await store.create_image(*image_rows("c"), client_token=None, token_digest="", ceilings=two)


async def test_versions_of_an_image(store: Store) -> None:
    await built_image(store)
    await store.create_image(*image_rows("busy"), client_token=None, token_digest="")

    async def update(ceilings: Ceilings) -> str:
        _, version, build = image_rows()
        _, made = await store.update_image(version, build, client_token="t", token_digest="", ceilings=ceilings)
        return made.version

    with pytest.raises(OverQuota, match=r"number of versions \(1\)"):
        await update(Ceilings(versions_per_image=1))
    with pytest.raises(OverQuota, match="concurrent builds"):
        await update(Ceilings(concurrent_builds=1))
    assert [one.version for one in await store.versions(arn("demo"), after=None, limit=9)] == ["1.0"]
    assert await update(Ceilings(versions_per_image=2, concurrent_builds=2)) == "2.0"
    assert await update(Ceilings(versions_per_image=1)) == "2.0"


async def test_connectors_of_an_account_and_versions_of_one(store: Store) -> None:
    one = Ceilings(connectors=1, versions_per_connector=1)
    connector = await settled_connector(store, "a")
    with pytest.raises(OverQuota, match=r"network connectors \(1\)"):
        await store.create_connector(connector_row("b"), client_token="b", token_digest="d", ceilings=one)
    with pytest.raises(Refused, match="already exists"):
        await store.create_connector(connector_row("a"), client_token="x", token_digest="d", ceilings=one)
    await store.create_connector(connector_row("b", OTHER), client_token="b", token_digest="d", ceilings=one)
    change = {"configuration": None, "client_token": None, "token_digest": ""}
    with pytest.raises(OverQuota, match=r"versions \(1\)"):
        await store.update_connector(connector.arn, operator_role="r", ceilings=one, **change)  # type: ignore[arg-type]
    assert await store.connector(connector.arn) == connector
    more = replace(one, versions_per_connector=2)
    changed = await store.update_connector(connector.arn, operator_role="r", ceilings=more, **change)  # type: ignore[arg-type]
    assert changed.number == 2


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("live_of_account", "COVERING INDEX microvm_live (account=?)"),
        ("awake_memory", "COVERING INDEX microvm_node (node=? AND phase=?)"),
        ("count_builds_owed", "COVERING INDEX version_owing (account=? AND state=?)"),
        ("count_images", "COVERING INDEX sqlite_autoindex_image_3 (account=?)"),
        ("count_all_versions", "COVERING INDEX sqlite_autoindex_version_1 (image_arn=?)"),
        ("count_connectors", "COVERING INDEX sqlite_autoindex_connector_3 (account=?)"),
        ("count_connector_versions", "COVERING INDEX sqlite_autoindex_connector_version_1 (connector=?)"),
    ],
)
async def test_what_is_counted_is_in_an_index(store: Store, query: str, index: str) -> None:
    """TERMINATED microVMs are kept for a day and images for ever: no count may read their rows."""
    values = dict.fromkeys(("account", "node", "image_arn", "connector"), "x")
    plan = store._db._connection.execute(f"EXPLAIN QUERY PLAN {store._db.queries[query]}", values)
    [step] = [row["detail"] for row in plan]
    assert step.endswith(f"USING {index}")
