"""Tags of images and network connectors: the old tag routes of Lambda, of which `Resource` decides (spec §1.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.api import names
from rekindle.api.context import Parsed, Tools
from rekindle.core.arn import connector_arn
from rekindle.core.errors import NotFound

_IMAGE, _CONNECTOR = "microvm-image", "network-connector"


async def list_tags(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    arn = _own(call)
    read = tools.store.image_tags if _kind(arn) == _IMAGE else tools.store.connector_tags
    return {"Tags": await read(arn)}


async def tag(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return await _change(tools, call, call.params["Tags"], [])


async def untag(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return await _change(tools, call, {}, call.params["TagKeys"])


async def _change(tools: Tools, call: Parsed, add: Mapping[str, str], remove: list[str]) -> Mapping[str, Any]:
    arn = _own(call)
    change = tools.store.change_image_tags if _kind(arn) == _IMAGE else tools.store.change_connector_tags
    await change(arn, add, remove)
    return {}


def _own(call: Parsed) -> str:
    """Raises NotFound for a kind of thing that this service has not, Denied for one of another account or region."""
    arn: str = call.params["Resource"]
    if _kind(arn) == _IMAGE:
        return names.own_image_arn(call, "Resource")
    connector = connector_arn(arn)
    if connector is None:
        raise NotFound(f"Resource not found: {arn}")
    names.check_own(call.caller, call.operation.name, connector.account, connector.region, arn)
    return arn


def _kind(arn: str) -> str:
    return arn.split(":")[5]
