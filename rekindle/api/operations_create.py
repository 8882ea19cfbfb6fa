"""CreateMicrovmImage: checks, then one row each for image, version and build; the node does the rest."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from rekindle.api import connectors, names, notes
from rekindle.api.context import Parsed, Tools
from rekindle.api.operations_images import show_created
from rekindle.api.settings import build_row, settings, version_row
from rekindle.core import tags
from rekindle.core.arn import ImageArn
from rekindle.core.image import Image, ImageState


async def create_image(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    asked = await settings(tools, call.caller, call.params)
    image = _image(call, tools.clock())
    version = version_row(tools, call, image, image.last_number, asked)
    made, version = await tools.store.create_image(
        image,
        version,
        build_row(version, tools.cpu),
        client_token=call.params.get("clientToken"),
        token_digest=names.digest(call),
        ceilings=tools.config.quotas.ceilings(),
        note=notes.of_image(call.params, tools.engine.managed()),
        by=call.caller.key_id,
    )
    if made.id == image.id:  # not an earlier one with the same client token
        await connectors.tell(tools, image.arn, version.egress)
    tools.engine.kick()
    return show_created(made, version)


def _image(call: Parsed, now_ms: int) -> Image:
    name = call.params["name"]
    return Image(
        id=str(uuid.uuid4()),
        arn=str(ImageArn(call.caller.region, call.caller.account, name)),
        account=call.caller.account,
        region=call.caller.region,
        name=name,
        state=ImageState.CREATING,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        tags=tags.check(call.params["tags"]) if "tags" in call.params else None,
    )
