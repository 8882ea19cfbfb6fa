"""UpdateMicrovmImage (a full replace that makes a new version, spec §1.9) and the status of a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rekindle.api import connectors, names, notes
from rekindle.api.context import Parsed, Tools
from rekindle.api.operations_images import own_image, show_created, show_version
from rekindle.api.settings import build_row, settings, version_row
from rekindle.core.image import VersionStatus


async def update_image(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    """What the request leaves out is dropped, not kept. Answers as a create does, without `tags` (spec §1.6)."""
    image = await own_image(tools, call)
    asked = await settings(tools, call.caller, call.params)
    row = version_row(tools, call, replace(image, updated_at_ms=tools.clock()), image.last_number + 1, asked)
    image, version = await tools.store.update_image(
        row,
        build_row(row, tools.cpu),
        client_token=call.params.get("clientToken"),
        token_digest=names.digest(call),
        by=call.caller.key_id,
        ceilings=tools.config.quotas.ceilings(),
        note=notes.of_image(call.params, tools.engine.managed()),
    )
    if version.version == row.version:  # not an earlier one with the same client token
        await connectors.tell(tools, image.arn, version.egress)
    tools.engine.kick()
    answer = show_created(image, version)
    del answer["tags"]
    return answer


async def update_version(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    status = VersionStatus(call.params["status"])
    version = await tools.store.set_version_status(
        names.own_image_arn(call), call.params["imageVersion"], status, by=call.caller.key_id
    )
    return show_version(version)
