"""Managed base images: there is one, Rekindle's own, in every region and for every account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.api.context import Parsed, Tools
from rekindle.api.cursor import page
from rekindle.core.arn import image_arn
from rekindle.core.errors import NotFound
from rekindle.core.managed import Managed


async def list_images(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    def show(base: Managed) -> dict[str, Any]:
        return {"createdAt": base.made_at_ms, "imageArn": base.arn(call.caller.region), "updatedAt": base.made_at_ms}

    return await _the_one(tools, call, show)


async def list_versions(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    arn = str(image_arn(call.params["imageIdentifier"]))
    if arn != tools.engine.managed().arn(call.caller.region):
        raise NotFound(f"MicroVMImage not found for MicroVMImageID: {arn}")

    def show(base: Managed) -> dict[str, Any]:
        return {
            "createdAt": base.made_at_ms,
            "imageArn": arn,
            "imageVersion": base.version,
            "status": "AVAILABLE",
            "supportedCpuConfigurations": [{"architecture": tools.cpu.architecture}],
            "updatedAt": base.made_at_ms,
        }

    return await _the_one(tools, call, show)


async def _the_one(tools: Tools, call: Parsed, show: Any) -> dict[str, Any]:
    async def fetch(after: str | None, limit: int) -> list[Managed]:
        del limit  # never less than one
        return [] if after else [tools.engine.managed()]

    return await page(tools.store, call, fetch, lambda base: base.version, show)
