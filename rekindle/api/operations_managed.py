"""Managed base images: there is one, Rekindle's own, in every region and for every account, under two names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.api.context import Parsed, Tools
from rekindle.api.cursor import page
from rekindle.core.arn import image_arn
from rekindle.core.errors import NotFound


async def list_images(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    base = tools.engine.managed()

    def show(arn: str) -> dict[str, Any]:
        return {"createdAt": base.made_at_ms, "imageArn": arn, "updatedAt": base.made_at_ms}

    return await _page_of(tools, call, base.arns(call.caller.region), show)


async def list_versions(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    base, arn = tools.engine.managed(), call.params["imageIdentifier"]
    versions = base.versions(arn)
    if not versions:
        raise NotFound(f"MicroVMImage not found for MicroVMImageID: {image_arn(arn)}")

    def show(version: str) -> dict[str, Any]:
        return {
            "createdAt": base.made_at_ms,
            "imageArn": arn,
            "imageVersion": version,
            "status": "AVAILABLE",
            "supportedCpuConfigurations": [{"architecture": tools.cpu.architecture}],
            "updatedAt": base.made_at_ms,
        }

    return await _page_of(tools, call, versions, show)


async def _page_of(tools: Tools, call: Parsed, names: Sequence[str], show: Any) -> dict[str, Any]:
    async def fetch(after: str | None, limit: int) -> Sequence[str]:
        start = 0 if after is None else names.index(after) + 1
        return names[start : start + limit]

    return await page(tools.store, call, fetch, str, show)
