"""The `hooks` member of an image → core hooks, and the service's rules on it (spec §1.4, §1.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.api.validate import missing
from rekindle.config import Build
from rekindle.core.errors import Invalid
from rekindle.core.image import Hook, Hooks

IMAGE_HOOKS = ("ready", "validate")
RUNTIME_HOOKS = ("run", "resume", "suspend", "terminate")


def hooks(given: Mapping[str, Any] | None, defaults: Build) -> Hooks | None:
    """None when none is enabled. Raises Invalid."""
    given = given or {}
    enabled = (
        *_enabled(given.get("microvmImageHooks", {}), IMAGE_HOOKS, defaults),
        *_enabled(given.get("microvmHooks", {}), RUNTIME_HOOKS, defaults),
    )
    if not enabled:
        return None
    if "port" not in given:
        raise missing("hooks.port")
    names = {hook.name for hook in enabled}
    if names.intersection(RUNTIME_HOOKS) and "ready" not in names:
        raise Invalid(
            "The ready (/ready) MicroVM image hook must be enabled when any MicroVM lifecycle hook "
            "(run, resume, suspend, or terminate) is enabled."
        )
    return Hooks(port=given["port"], enabled=enabled)


def _enabled(group: Mapping[str, Any], names: tuple[str, ...], defaults: Build) -> list[Hook]:
    default_s = {"ready": defaults.ready_timeout_s, "validate": defaults.validate_timeout_s}
    return [
        Hook(name=name, timeout_s=group.get(f"{name}TimeoutInSeconds", default_s.get(name, defaults.hook_timeout_s)))
        for name in names
        if group.get(name) == "ENABLED"
    ]
