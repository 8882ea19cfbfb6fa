"""Deletion of images and versions: asked for here, done by the node; the answer does not wait for it (spec §1.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.api import names
from rekindle.api.context import Parsed, Tools


async def delete_image(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    image = await tools.store.delete_image(names.own_image_arn(call), by=call.caller.key_id)
    tools.engine.kick()
    return {"imageIdentifier": image.arn, "state": image.state.value}


async def delete_version(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    version = await tools.store.delete_version(
        names.own_image_arn(call), call.params["imageVersion"], by=call.caller.key_id
    )
    tools.engine.kick()
    return {
        "imageIdentifier": version.image_arn,
        "imageVersion": version.version,
        "state": version.state.value,
    }
