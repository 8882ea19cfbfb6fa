"""Images, versions and builds as the wire shows them (spec §1.6): every member, null when unset."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rekindle.api import names
from rekindle.api.context import Parsed, Tools
from rekindle.api.cursor import page
from rekindle.core.errors import NotFound
from rekindle.core.image import Build, Image, Version


async def get_image(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return _show_image(await own_image(tools, call))


async def list_images(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    """`nameFilter` selects before the page is cut: no page is empty and yet not the last, as AWS's may be."""

    async def fetch(after: str | None, limit: int) -> list[Image]:
        name_contains = call.params.get("nameFilter")
        account, region = call.caller.account, call.caller.region
        return await tools.store.images(account, region, after=after, limit=limit, name_contains=name_contains)

    return await page(tools.store, call, fetch, lambda image: image.arn, _show_item)


async def get_version(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return show_version(await _own_version(tools, call))


async def list_versions(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    image = await own_image(tools, call)

    async def fetch(after: str | None, limit: int) -> list[Version]:
        return await tools.store.versions(image.arn, after=after, limit=limit)

    return await page(tools.store, call, fetch, lambda version: version.version, show_version)


async def get_build(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    version = await _own_version(tools, call)
    build = await tools.store.build(call.params["buildId"])
    if build is None or (build.image_arn, build.version) != (version.image_arn, version.version):
        raise NotFound(
            f"MicroVMImageBuild not found for MicroVMImage: {version.image_arn}, Version: {version.version}, "
            f"BuildId: {call.params['buildId']}"
        )
    return _show_build(build) | {"snapshotBuild": _show_sizes(build)}


async def list_builds(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    version = await _own_version(tools, call)

    async def fetch(after: str | None, limit: int) -> list[Build]:
        return await tools.store.builds(
            version.image_arn,
            version.version,
            after=after,
            limit=limit,
            architecture=call.params.get("architecture"),
            chipset=call.params.get("chipset"),
            chipset_generation=call.params.get("chipsetGeneration"),
        )

    return await page(tools.store, call, fetch, lambda build: build.id, _show_build)


async def own_image(tools: Tools, call: Parsed) -> Image:
    """The image in `imageIdentifier`. Raises NotFound, Invalid or Denied."""
    arn = names.own_image_arn(call)
    image = await tools.store.image(arn)
    if image is None:
        raise NotFound(f"MicroVMImage not found for MicroVMImageID: {arn}")
    return image


async def _own_version(tools: Tools, call: Parsed) -> Version:
    arn = names.own_image_arn(call)
    version = await tools.store.version(arn, call.params["imageVersion"])
    if version is None:
        raise NotFound(f"MicroVMImage not found for MicroVMImage: {arn}, Version: {call.params['imageVersion']}")
    return version


# --- projections


def show_created(image: Image, version: Version) -> dict[str, Any]:
    return _show_settings(version) | {
        "buildPhaseOverrides": None,
        "createdAt": image.created_at_ms,
        "id": image.id,
        "imageArn": image.arn,
        "imageVersion": version.version,
        "latestActiveImageVersion": image.latest_active_version,
        "latestFailedImageVersion": image.latest_failed_version,
        "name": image.name,
        "roleConfiguration": None,
        "state": image.state.value,
        "tags": None,
        "updatedAt": image.updated_at_ms,
    }


def _show_settings(version: Version) -> dict[str, Any]:
    return dict(version.request) | {
        "baseImageVersion": version.base_image_version,
        "egressNetworkConnectors": list(version.egress),
    }


def _show_item(image: Image) -> dict[str, Any]:
    return {
        "createdAt": image.created_at_ms,
        "id": image.id,
        "imageArn": image.arn,
        "latestActiveImageVersion": image.latest_active_version,
        "latestFailedImageVersion": image.latest_failed_version,
        "name": image.name,
        "state": image.state.value,
    }


def _show_image(image: Image) -> dict[str, Any]:
    return _show_item(image) | {"tags": dict(image.tags or {}), "updatedAt": image.updated_at_ms}


def show_version(version: Version) -> dict[str, Any]:
    hour = datetime.fromtimestamp(version.updated_at_ms / 1000, UTC).strftime("%y%m%d%H")
    return _show_settings(version) | {
        "createdAt": version.created_at_ms,
        "imageArn": version.image_arn,
        "imageVersion": version.version,
        "state": version.state.value,
        "stateReason": version.state_reason,
        "status": version.status.value,
        "tags": None,
        "updatedAt": version.updated_at_ms,
        "versionStateTimeBucket": f"{version.state.value}#{hour}",
    }


def _show_build(build: Build) -> dict[str, Any]:
    return {
        "architecture": build.architecture,
        "buildId": build.id,
        "buildState": build.state.value,
        "chipset": build.chipset,
        "chipsetGeneration": build.chipset_generation,
        "createdAt": build.created_at_ms,
        "imageArn": build.image_arn,
        "imageVersion": build.version,
        "stateReason": build.state_reason,
        "terminationReasonCode": None,
    }


def _show_sizes(build: Build) -> dict[str, Any] | None:
    """Null when the build ended before anything was made (spec §7)."""
    sizes = {
        "codeInstallSizeInBytes": build.code_install_bytes,
        "diskSnapshotSizeInBytes": build.disk_snapshot_bytes,
        "memorySnapshotSizeInBytes": build.memory_snapshot_bytes,
    }
    return None if all(size is None for size in sizes.values()) else sizes
