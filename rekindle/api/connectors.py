"""VPC connectors that a request names, looked up; nothing is asked of the store when it names none."""

from __future__ import annotations

from collections.abc import Sequence

from rekindle.api import names
from rekindle.api.context import Caller, Tools
from rekindle.core import connectors
from rekindle.core.connector import Connector, ConnectorState
from rekindle.core.errors import Invalid, NotFound, Refused
from rekindle.core.microvm import Event

COMPUTE_TYPE = "MicroVm"


async def egress(
    tools: Tools, caller: Caller, requested: Sequence[str], inherited: Sequence[str] = ()
) -> tuple[str, ...]:
    """The egress connector in force: the one requested, else the image's, else the internet.

    Raises Invalid, NotFound, Denied for one of another account or region, or Refused for one that is being deleted.
    """
    in_force = connectors.egress(caller.region, requested, inherited)
    if requested:
        await _check(tools, caller, requested)
    return in_force


async def tell(tools: Tools, subject: str, egress: Sequence[str]) -> None:
    """Say in the story of a microVM or image what its VPC connector means on this machine; without one, nothing."""
    named = connectors.vpc(egress)
    if named is None:
        return
    reach = "the internet" if tools.config.egress.vpc == "internet" else "nothing outside of itself"
    why = (
        f"{named.arn}: there is no VPC on this machine; egress.vpc is {tools.config.egress.vpc}, so it reaches {reach}"
    )
    await tools.store.add_event(Event(subject=subject, at_ms=tools.clock(), what="VPC connector", why=why))


async def _check(tools: Tools, caller: Caller, requested: Sequence[str]) -> None:
    named = connectors.vpc(requested)
    if named is None:
        return
    names.check_own(caller, "PassNetworkConnector", named.account, named.region, requested[0])
    connector = await tools.store.connector(named.arn)
    if connector is None:
        raise NotFound(f"Network connector not found for: {requested[0]}")
    if named.version is not None and await tools.store.connector_version(connector, named.version) is None:
        raise NotFound(f"Network connector not found for: {requested[0]}")
    if connector.state is ConnectorState.DELETING:
        raise Refused(f"Network connector {connector.arn} is being deleted")
    if COMPUTE_TYPE not in compute_types(connector):
        raise Invalid(f"Network connector {connector.arn} is not for {COMPUTE_TYPE}")


def compute_types(connector: Connector) -> Sequence[str]:
    configuration = connector.configuration["VpcEgressConfiguration"]
    return list(configuration["AssociatedComputeResourceTypes"]) if isinstance(configuration, dict) else []
