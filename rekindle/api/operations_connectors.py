"""The network-connector operations of lambda-core (spec §5.2), and their projections (spec §1.6).

There is no VPC behind a connector: it is a row that microVMs and images name. Members that are not set are left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from rekindle.api import names
from rekindle.api.context import Parsed, Tools
from rekindle.api.cursor import page
from rekindle.core import tags
from rekindle.core.arn import connector_arn, own_connector
from rekindle.core.connector import Connector, ConnectorState, ConnectorVersion
from rekindle.core.errors import Invalid, NotFound

TYPE = "VPC_EGRESS"
CREATED = "Initial creation"
_CONFIGURATION = "VpcEgressConfiguration"


async def create(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    params = call.params
    if "ClientToken" not in params:
        raise Invalid("ClientToken is a required field")
    _check_configuration(params["Configuration"])
    if not params.get("OperatorRole"):
        raise Invalid(f"NetworkConnectorOperatorRole is required for {TYPE} connector type")
    connector = await tools.store.create_connector(
        _new(tools, call),
        client_token=params["ClientToken"],
        token_digest=names.digest(call),
        ceilings=tools.config.quotas.ceilings(),
        by=call.caller.key_id,
    )
    tools.engine.kick()
    return _show(connector)


async def get(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    connector, number = await _own(tools, call)
    return _show_got(connector) if number is None else await _show_version(tools, connector, number)


async def list_all(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    async def fetch(after: str | None, limit: int) -> list[Connector]:
        caller, state = call.caller, call.params.get("State")
        return await tools.store.connectors(caller.account, caller.region, after=after, limit=limit, state=state)

    return await page(tools.store, call, fetch, lambda connector: connector.name, _show_item)


async def list_versions(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    connector = await _unqualified(tools, call)
    state = call.params.get("State")

    async def fetch(after: str | None, limit: int) -> list[ConnectorVersion]:
        found = await tools.store.connector_versions(connector)
        behind = [one for one in found if after is None or one.number < int(after)]
        return [one for one in behind if state in (None, connector.version_state(one.number).value)][:limit]

    def show(version: ConnectorVersion) -> dict[str, Any]:
        return _qualified(connector, version.number) | {
            "Arn": connector.arn,
            "Id": connector.id,
            "LastModified": version.created_at_ms,
            "Name": connector.name,
            "State": connector.version_state(version.number).value,
        }

    return await page(tools.store, call, fetch, lambda version: str(version.number), show)


async def update(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    """Everything of the configuration is replaced; what it is for cannot be changed."""
    connector = await _unqualified(tools, call)
    configuration = call.params.get("Configuration")
    if configuration is not None:
        _check_configuration(configuration)
        _check_same_use(connector, configuration)
    connector = await tools.store.update_connector(
        connector.arn,
        configuration=configuration,
        operator_role=call.params.get("OperatorRole"),
        client_token=call.params.get("ClientToken"),
        token_digest=names.digest(call),
        ceilings=tools.config.quotas.ceilings(),
        by=call.caller.key_id,
    )
    tools.engine.kick()
    versions = {} if connector.number == 1 else _qualified(connector, connector.number)
    return _show(connector) | _show_update(connector) | versions | {"LastModified": connector.updated_at_ms}


async def delete(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    """A version-qualified ARN takes that version away and nothing else."""
    connector, number = await _own(tools, call)
    if number is None:
        connector = await tools.store.delete_connector(connector.arn, by=call.caller.key_id)
        tools.engine.kick()
        return _show(connector)
    version = await tools.store.delete_connector_version(connector, number, by=call.caller.key_id)
    return _show_old(connector, version) | {"State": ConnectorState.DELETING.value}


# --- what is asked


def _new(tools: Tools, call: Parsed) -> Connector:
    caller, now_ms = call.caller, tools.clock()
    if call.params["Name"].startswith("arn:"):  # the pattern of the model lets it pass
        raise Invalid("Name must be a name, not an ARN")
    connector_id = f"nc-{uuid.uuid4()}"
    return Connector(
        id=connector_id,
        arn=own_connector(caller.region, caller.account, connector_id),
        account=caller.account,
        region=caller.region,
        name=call.params["Name"],
        state=ConnectorState.PENDING,
        state_reason=CREATED,
        number=1,
        configuration=call.params["Configuration"],
        operator_role=call.params["OperatorRole"],
        tags=tags.check(call.params.get("Tags", {})),
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


def _check_configuration(configuration: Mapping[str, Any]) -> None:
    """Members that the model calls optional and the service demands (spec §1.8)."""
    vpc = configuration[_CONFIGURATION]
    for member in ("NetworkProtocol", "AssociatedComputeResourceTypes", "SubnetIds"):
        if not vpc.get(member):
            raise Invalid(f"{member} cannot be null or empty")


def _check_same_use(connector: Connector, configuration: Mapping[str, Any]) -> None:
    member = "AssociatedComputeResourceTypes"
    was: Any = connector.configuration[_CONFIGURATION]
    if was[member] != configuration[_CONFIGURATION][member]:
        raise Invalid(f"{member} of a network connector cannot be changed")


async def _own(tools: Tools, call: Parsed) -> tuple[Connector, int | None]:
    """The connector that `Identifier` (id, name or ARN) names, and the version if it names one.

    Raises Invalid for a broken ARN, Denied for another account's or region's, NotFound.
    """
    text: str = call.params["Identifier"]
    if not text.startswith("arn:"):
        connector = await tools.store.find_connector(call.caller.account, call.caller.region, text)
        if connector is None:
            raise _not_found(own_connector(call.caller.region, call.caller.account, text))
        return connector, None
    arn = connector_arn(text)
    if arn is None:
        raise Invalid(f"Malformed network connector ARN: {text}")
    names.check_own(call.caller, call.operation.name, arn.account, arn.region, text)
    connector = await tools.store.connector(arn.arn)
    if connector is None:
        raise _not_found(text)
    return connector, arn.version


async def _unqualified(tools: Tools, call: Parsed) -> Connector:
    connector, number = await _own(tools, call)
    if number is not None:
        raise Invalid(f"Identifier must not name a version: {call.params['Identifier']}")
    return connector


def _not_found(arn: str) -> NotFound:
    return NotFound(f"Network connector not found for: {arn}")


# --- projections


def _show(connector: Connector) -> dict[str, Any]:
    return {
        "Arn": connector.arn,
        "Configuration": connector.configuration,
        "Id": connector.id,
        "Name": connector.name,
        "OperatorRole": connector.operator_role,
        "State": connector.state.value,
    }


def _show_got(connector: Connector) -> dict[str, Any]:
    return (
        _show(connector)
        | _show_update(connector)
        | _show_latest(connector)
        | {
            "LastModified": connector.updated_at_ms,
            "StateReason": connector.state_reason,
        }
    )


async def _show_version(tools: Tools, connector: Connector, number: int) -> dict[str, Any]:
    version = await tools.store.connector_version(connector, number)
    if version is None:
        raise _not_found(f"{connector.arn}:{number}")
    return _show_old(connector, version) | {
        "LastModified": version.created_at_ms,
        "State": connector.version_state(number).value,
        "StateReason": connector.state_reason,
    }


def _show_old(connector: Connector, version: ConnectorVersion) -> dict[str, Any]:
    shown = {"Configuration": version.configuration, "OperatorRole": version.operator_role}
    return _show(connector) | _qualified(connector, version.number) | shown


def _show_item(connector: Connector) -> dict[str, Any]:
    latest = {name: value for name, value in _show_latest(connector).items() if name.startswith("Latest")}
    return latest | {
        "Arn": connector.arn,
        "Id": connector.id,
        "LastModified": connector.updated_at_ms,
        "Name": connector.name,
        "State": connector.state.value,
        "Type": TYPE,
    }


def _show_update(connector: Connector) -> dict[str, Any]:
    status = connector.last_update_status
    return {
        "LastUpdateStatus": None if status is None else status.value,
        "LastUpdateStatusReason": connector.last_update_reason,
    }


def _show_latest(connector: Connector) -> dict[str, Any]:
    """Nothing until there is a second version: recorded answers of such a connector have no member of versions."""
    if connector.number == 1:
        return {}
    latest = _qualified(connector, connector.number)
    return {"LatestVersion": connector.number, "LatestVersionArn": latest["VersionArn"], "Version": connector.number}


def _qualified(connector: Connector, number: int) -> dict[str, Any]:
    return {"Version": number, "VersionArn": f"{connector.arn}:{number}"}
