"""Network connectors and their versions: names, tokens, updates, who uses one, and what the node settles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rekindle.core.connector import Connector, ConnectorState, ConnectorVersion, UpdateStatus
from rekindle.core.errors import NotFound, Refused
from rekindle.core.image import Version
from rekindle.core.lifecycle import Ask, Fact
from rekindle.store.db import Store
from rekindle.store.tokens import LIFE_MS

from .rows import (
    ACCOUNT,
    OTHER,
    PORTS,
    REGION,
    HandClock,
    built_image,
    connector_row,
    image_rows,
    settled_connector,
    vm_row,
)

OTHER_ROLE = "arn:aws:iam::000000000000:role/another"


async def changed(store: Store, connector: Connector, token: str | None = None, **subnets: object) -> Connector:
    configuration = {"VpcEgressConfiguration": {"SubnetIds": ["subnet-2"]} | subnets}
    return await store.update_connector(
        connector.arn, configuration=configuration, operator_role=None, client_token=token, token_digest="d"
    )


async def words(store: Store, connector: Connector) -> list[tuple[str, str | None]]:
    return [(event.what, event.why) for event in await store.events(connector.arn, 20)]


async def test_a_new_connector_is_pending_until_the_node_has_looked(store: Store) -> None:
    made = connector_row("a")
    assert await store.create_connector(made, client_token="t", token_digest="d") == made
    assert await store.connector(made.arn) == made
    assert await store.settle_connectors() == [f"{made.arn} version 1 is ACTIVE"]
    assert await store.settle_connectors() == []
    active = await store.connector(made.arn)
    assert active == replace(made, state=ConnectorState.ACTIVE)
    assert await words(store, made) == [("PENDING", "asked to create"), ("PENDING -> ACTIVE", None)]


async def test_a_name_is_one_connectors_in_its_account_and_region(store: Store) -> None:
    await settled_connector(store, "a")
    with pytest.raises(Refused, match="A network connector with the name 'a' already exists in this account"):
        await store.create_connector(connector_row("a"), client_token="2", token_digest="d")
    await settled_connector(store, "a", OTHER)
    elsewhere = replace(connector_row("a"), region="eu-west-1")
    assert await store.create_connector(elsewhere, client_token="3", token_digest="d") == elsewhere


async def test_a_client_token_makes_one_connector_for_a_day(store: Store, clock: HandClock) -> None:
    first = await store.create_connector(connector_row("a"), client_token="t", token_digest="d")
    assert await store.create_connector(connector_row("b"), client_token="t", token_digest="d") == first
    with pytest.raises(Refused, match="with other parameters"):
        await store.create_connector(connector_row("b"), client_token="t", token_digest="other")
    clock.now_ms += LIFE_MS
    later = await store.create_connector(connector_row("b"), client_token="t", token_digest="other")
    assert later.id != first.id


async def test_an_id_goes_before_a_name_like_it(store: Store) -> None:
    made = await settled_connector(store, "a")
    disguised = await settled_connector(store, made.id)
    assert await store.find_connector(ACCOUNT, REGION, made.id) == made
    assert await store.find_connector(ACCOUNT, REGION, disguised.id) == disguised
    assert await store.find_connector(ACCOUNT, REGION, "a") == made
    assert await store.find_connector(OTHER, REGION, "a") is None
    assert await store.find_connector(ACCOUNT, "eu-west-1", made.id) is None


async def test_a_change_is_a_new_version_and_the_old_one_stays_what_it_was(store: Store, clock: HandClock) -> None:
    made = await settled_connector(store)
    clock.pass_minutes(1)
    new = await changed(store, made)
    assert (new.number, new.updated_at_ms, new.last_update_status) == (2, clock(), UpdateStatus.IN_PROGRESS)
    assert (new.version_state(1), new.version_state(2)) == (ConnectorState.ACTIVE, ConnectorState.PENDING)
    with pytest.raises(Refused, match="is being updated"):
        await changed(store, made, SecurityGroupIds=["sg-1"])
    await store.settle_connectors()
    done = await store.connector(made.arn)
    assert done == replace(new, last_update_status=UpdateStatus.SUCCESSFUL)
    old = ConnectorVersion(
        connector=made.id,
        number=1,
        configuration=made.configuration,
        operator_role=made.operator_role,
        created_at_ms=made.created_at_ms,
    )
    assert [one.number for one in await store.connector_versions(made)] == [2, 1]
    assert await store.connector_version(made, 1) == old
    assert (await words(store, made))[2:] == [
        ("update to version 2 InProgress", "asked to update"),
        ("update to version 2 Successful", None),
    ]


async def test_a_role_alone_is_a_change(store: Store) -> None:
    made = await settled_connector(store)
    new = await store.update_connector(
        made.arn, configuration=None, operator_role=OTHER_ROLE, client_token=None, token_digest="d"
    )
    assert (new.number, new.operator_role, new.configuration) == (2, OTHER_ROLE, made.configuration)


async def test_no_change_makes_no_version(store: Store, clock: HandClock) -> None:
    made = await settled_connector(store)
    clock.pass_minutes(1)
    same = await store.update_connector(
        made.arn,
        configuration=made.configuration,
        operator_role=made.operator_role,
        client_token=None,
        token_digest="d",
    )
    assert same == replace(
        made, last_update_status=UpdateStatus.SUCCESSFUL, last_update_reason="No configuration changes detected"
    )
    assert await store.connector(made.arn) == same
    assert len(await store.connector_versions(made)) == 1


async def test_the_same_token_updates_once(store: Store) -> None:
    made = await settled_connector(store)
    await changed(store, made, "t")
    await store.settle_connectors()
    again = await store.update_connector(
        made.arn, configuration=made.configuration, operator_role=None, client_token="t", token_digest="d"
    )
    assert (again.number, again.configuration) == (2, {"VpcEgressConfiguration": {"SubnetIds": ["subnet-2"]}})
    with pytest.raises(Refused, match="with other parameters"):
        await store.update_connector(
            made.arn, configuration=None, operator_role=None, client_token="t", token_digest="other"
        )


async def test_only_an_active_connector_is_updated_or_deleted(store: Store) -> None:
    made = await store.create_connector(connector_row("a"), client_token="t", token_digest="d")
    with pytest.raises(Refused, match="cannot be updated while it is PENDING"):
        await changed(store, made)
    with pytest.raises(Refused, match="cannot be deleted while it is PENDING"):
        await store.delete_connector(made.arn)
    await store.settle_connectors()
    await store.delete_connector(made.arn)
    with pytest.raises(Refused, match="cannot be updated while it is DELETING"):
        await changed(store, made)


async def test_a_deleted_connector_goes_with_all_that_is_its(store: Store) -> None:
    made = await settled_connector(store)
    await changed(store, made, "t")
    await store.settle_connectors()
    deleting = await store.delete_connector(made.arn)
    assert (deleting.state, deleting.version_state(1)) == (ConnectorState.DELETING, ConnectorState.DELETING)
    assert await store.delete_connector(made.arn) == deleting
    assert await store.settle_connectors() == [f"{made.arn} is gone"]
    assert await store.connector(made.arn) is None
    assert await store.connector_versions(made) == []
    assert (await words(store, made))[-1] == ("DELETED", "nothing of it is left")
    with pytest.raises(NotFound, match=f"Network connector not found for: {made.arn}"):
        await store.delete_connector(made.arn)
    again = await store.create_connector(connector_row(), client_token=made.name, token_digest="d")
    assert again.id != made.id, "the token went with what it made"


async def test_an_update_that_a_crash_cut_off_is_done_after_it(store: Store) -> None:
    made = await settled_connector(store)
    await changed(store, made)
    await store.delete_connector(made.arn)
    assert await store.settle_connectors() == [f"{made.arn} is gone"]


@pytest.mark.parametrize("suffix", ["", ":1"])
async def test_a_microvm_that_is_not_over_keeps_its_connector(store: Store, clock: HandClock, suffix: str) -> None:
    made = await settled_connector(store)
    await built_image(store)
    vm = replace(vm_row(clock), egress=(made.arn + suffix,))
    vm = await store.run_microvm(vm, PORTS, client_token=None, token_digest="")
    with pytest.raises(Refused, match=f"Network connector {made.arn} is used by MicroVM {vm.id}"):
        await store.delete_connector(made.arn)
    ending = await store.ask(vm.id, Ask.TERMINATE)
    with pytest.raises(Refused, match=f"is used by MicroVM {vm.id}"):
        await store.delete_connector(made.arn)
    await store.report(ending, Fact.STOPPED)
    assert (await store.delete_connector(made.arn)).state is ConnectorState.DELETING


async def with_connector(store: Store, arn: str) -> Version:
    image, version, build = image_rows()
    version = replace(version, egress=(arn,))
    await store.create_image(image, version, build, client_token=None, token_digest="")
    return version


async def test_an_image_version_keeps_its_connector(store: Store) -> None:
    made = await settled_connector(store)
    version = await with_connector(store, made.arn)
    with pytest.raises(Refused, match=f"is used by MicroVM image {version.image_arn} version 1.0"):
        await store.delete_connector(made.arn)


async def test_another_connector_is_not_kept(store: Store) -> None:
    used, free = await settled_connector(store, "used"), await settled_connector(store, "free")
    await with_connector(store, used.arn)
    assert (await store.delete_connector(free.arn)).state is ConnectorState.DELETING


async def test_one_old_version_can_go(store: Store) -> None:
    made = await settled_connector(store)
    for subnet in range(11):
        await changed(store, made, SubnetIds=[f"subnet-{subnet}"])
        await store.settle_connectors()
    await with_connector(store, f"{made.arn}:11")
    with pytest.raises(Refused, match=f"{made.arn}:12 is the latest version"):
        await store.delete_connector_version(made, 12)
    with pytest.raises(Refused, match=f"{made.arn}:11 is used by MicroVM image"):
        await store.delete_connector_version(made, 11)
    assert (await store.delete_connector_version(made, 1)).number == 1, "version 11 is not version 1"
    with pytest.raises(NotFound, match=f"Network connector not found for: {made.arn}:1$"):
        await store.delete_connector_version(made, 1)
    assert [one.number for one in await store.connector_versions(made)] == list(range(12, 1, -1))
    assert (await words(store, made))[-1] == ("version 1 deleted", "asked to delete")


async def test_lists_are_by_name_and_of_one_account(store: Store) -> None:
    for name in ("c", "a", "b"):
        await settled_connector(store, name)
    await settled_connector(store, "z", OTHER)
    pending = await store.create_connector(connector_row("d"), client_token="d", token_digest="d")

    async def names(after: str | None = None, limit: int = 9, state: str | None = None) -> list[str]:
        found = await store.connectors(ACCOUNT, REGION, after=after, limit=limit, state=state)
        return [one.name for one in found]

    assert await names() == ["a", "b", "c", "d"]
    assert await names(after="a", limit=2) == ["b", "c"]
    assert await names(state="PENDING") == [pending.name]
    assert await names(state="FAILED") == []
