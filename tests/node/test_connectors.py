"""Network connectors on the node: settled by its loop, also after a restart; and what routes let through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rekindle.config import Egress
from rekindle.core.arn import managed_connector
from rekindle.core.connector import ConnectorState
from rekindle.node.machine import route_of
from rekindle.store.db import Store
from tests.node.ground import Driver, FakeRelay, hands
from tests.node.test_agent import Relay as AgentsRelay
from tests.node.test_agent import at_work
from tests.store.rows import REGION, HandClock, connector_row, vm_row
from tests.waiting import until_async

VPC = connector_row().arn


async def settled(store: Store, arn: str, state: ConnectorState | None) -> None:
    async def seen() -> bool:
        found = await store.connector(arn)
        return (None if found is None else found.state) is state

    await until_async(seen, 5, f"{arn} is {state}")


async def test_a_connector_lives_and_goes(tmp_path: Path, store: Store) -> None:
    async with at_work(tmp_path / "state", store, AgentsRelay()) as agent:
        made = await store.create_connector(connector_row(), client_token="t", token_digest="d")
        agent.kick()
        await settled(store, made.arn, ConnectorState.ACTIVE)
        await store.delete_connector(made.arn)
        agent.kick()
        await settled(store, made.arn, None)


async def test_what_was_owed_before_a_restart_is_done_after_it(tmp_path: Path, store: Store) -> None:
    new = await store.create_connector(connector_row("new"), client_token="n", token_digest="d")
    old = await store.create_connector(connector_row("old"), client_token="o", token_digest="d")
    async with at_work(tmp_path / "1", store, AgentsRelay()):
        await settled(store, old.arn, ConnectorState.ACTIVE)
    await store.delete_connector(old.arn)
    async with at_work(tmp_path / "2", store, AgentsRelay()):
        await settled(store, old.arn, None)
        await settled(store, new.arn, ConnectorState.ACTIVE)


def route(state: Path, through_vpc: str, *, egress: str, ingress: list[str]) -> tuple[object, object]:
    at = hands(state, Driver(), FakeRelay(), HandClock())
    host = replace(at.host, config=replace(at.host.config, egress=Egress(vpc=through_vpc)))
    vm = replace(
        vm_row(HandClock()), egress=(egress,), ingress=tuple(managed_connector(REGION, one) for one in ingress)
    )
    made = route_of(host, vm, "running")
    return made["egress"], made["ingress"]


async def test_routes_let_through_what_the_connectors_say(tmp_path: Path) -> None:
    internet, none = (managed_connector(REGION, name) for name in ("INTERNET_EGRESS", "NO_EGRESS"))
    assert route(tmp_path, "none", egress=VPC, ingress=["HTTP_INGRESS"]) == ("none", True)
    assert route(tmp_path, "internet", egress=VPC + ":3", ingress=["HTTP_INGRESS"]) == ("internet", True)
    assert route(tmp_path, "internet", egress=none, ingress=["SHELL_INGRESS"]) == ("none", False)
    assert route(tmp_path, "none", egress=internet, ingress=["ALL_INGRESS", "SHELL_INGRESS"]) == ("internet", True)
