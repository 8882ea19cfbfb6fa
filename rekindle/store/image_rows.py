"""Rows of images, versions and builds to and from what core calls them."""

from __future__ import annotations

import json
from typing import Any

from rekindle.core.image import Build, Hook, Hooks, Image, ImageState, Version, VersionState, VersionStatus
from rekindle.store.database import Row, columns


def number_of(version: str) -> int:
    """ "2.0" is the second version."""
    return int(version.partition(".")[0])


def image_row(image: Image) -> dict[str, Any]:
    tags = None if image.tags is None else json.dumps(dict(image.tags))
    return columns(image) | {"state": image.state.value, "tags": tags}


def read_image(row: Row) -> Image:
    values = dict(row)
    values["state"] = ImageState(values["state"])
    values["tags"] = None if values["tags"] is None else json.loads(values["tags"])
    return Image(**values)


def version_row(version: Version) -> dict[str, Any]:
    hooks = version.hooks and [version.hooks.port, [[hook.name, hook.timeout_s] for hook in version.hooks.enabled]]
    return columns(version) | {
        "number": number_of(version.version),
        "state": version.state.value,
        "status": version.status.value,
        "request": json.dumps(dict(version.request)),
        "environment": json.dumps(dict(version.environment)),
        "hooks": hooks and json.dumps(hooks),
        "egress": json.dumps(version.egress),
    }


def read_version(row: Row) -> Version:
    values = dict(row)
    del values["number"]
    values["state"] = VersionState(values["state"])
    values["status"] = VersionStatus(values["status"])
    values["request"] = json.loads(values["request"])
    values["environment"] = json.loads(values["environment"])
    values["hooks"] = _hooks(values["hooks"])
    values["egress"] = tuple(json.loads(values["egress"]))
    values["os_capabilities_all"] = bool(values["os_capabilities_all"])
    return Version(**values)


def _hooks(text: str | None) -> Hooks | None:
    if text is None:
        return None
    port, enabled = json.loads(text)
    return Hooks(port=port, enabled=tuple(Hook(name=name, timeout_s=timeout_s) for name, timeout_s in enabled))


def build_row(build: Build) -> dict[str, Any]:
    return columns(build) | {"state": build.state.value}


def read_build(row: Row) -> Build:
    values = dict(row)
    values["state"] = VersionState(values["state"])
    return Build(**values)
