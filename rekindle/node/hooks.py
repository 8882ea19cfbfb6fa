"""Lifecycle hooks as calls and as words: what the guest is sent (spec §4.1) and what a failure reads like (§4.2)."""

from __future__ import annotations

import asyncio
import json
import uuid

from rekindle.core.errors import AppEnded, BuildFailed, GuestError, HookFailed
from rekindle.core.image import Hook, Hooks, Version
from rekindle.core.microvm import MicroVM
from rekindle.guest.client import AppEnd, Guest, HookCall, HookResult
from rekindle.rest import rest

_BUILD_USER_AGENT = "rekindle"
_NAMES = {"ready": "Ready", "validate": "Validate", "run": "Run", "resume": "Resume", "suspend": "Suspend"}
_APP_ENDED = "Container Stopped with Exit Code: "
APP_FAILED = "CONTAINER_BUILD_FAILED"
END_S = 1.0
ASK_AGAIN_S = 0.25


def runtime_call(hooks: Hooks | None, name: str, vm: MicroVM) -> HookCall | None:
    """The call of a runtime hook, or None when the image does not have it. Only `run` has a body with the payload."""
    hook = hooks.get(name) if hooks else None
    if hooks is None or hook is None:
        return None
    body = json.dumps({"microvmId": vm.id, "runHookPayload": vm.run_hook_payload or ""}) if name == "run" else None
    return HookCall(name=name, port=hooks.port, timeout_s=hook.timeout_s, host=f"localhost:{hooks.port}", body=body)


def build_call(hooks: Hooks, hook: Hook, *, host: str, timeout_s: float) -> HookCall:
    """One attempt of `ready` or `validate`; `timeout_s` is what is left of the hook's time."""
    return HookCall(
        name=hook.name,
        port=hooks.port,
        timeout_s=timeout_s,
        host=host,
        user_agent=_BUILD_USER_AGENT,
        request_id=str(uuid.uuid4()),
    )


async def check(guest: Guest, vm_id: str, call: HookCall | None, result: HookResult | None) -> None:
    """Raises GuestError for a hook of which the guest says nothing, HookFailed for one that did not answer 200, and
    AppEnded when there was no answer because the app's main process ended."""
    if call is None or (result is not None and result.ok):
        return
    if result is None:
        raise GuestError(f"{vm_id} did not say how its {call.name} hook went")
    end = None if result.status is not None else await _end_of(guest)
    if end is not None:
        raise AppEnded(app_ended(end.exit_code))
    raise HookFailed(runtime_failure(call.name, result))


async def _end_of(guest: Guest) -> AppEnd | None:
    """How the app ended. Its connections break before the kernel has told its parent."""
    try:
        async with asyncio.timeout(END_S):
            return await guest.wait()
    except (GuestError, TimeoutError):
        return None


def app_ended(exit_code: int) -> str:
    """The state reason of a VM whose main process has ended (spec §1.7)."""
    return f"{_APP_ENDED}{exit_code}"


def tells_app_end(reason: str | None) -> bool:
    return reason is not None and reason.startswith(_APP_ENDED)


def farewell(result: HookResult) -> str:
    """How the terminate hook went, for the story: nothing depends on it."""
    return "answered 200" if result.ok else runtime_failure("terminate", result)


def runtime_failure(name: str, result: HookResult) -> str:
    """The state reason of a runtime hook that did not answer 200."""
    hook = _NAMES.get(name, name.capitalize())
    hint = "Please check your hook endpoint and application logs for more details."
    if result.status is not None:
        return f"{hook} lifecycle hook returned HTTP status {result.status}. {hint}"
    if result.error == "timeout":
        return f"{hook} lifecycle hook timed out. {hint}"
    return f"{hook} lifecycle hook could not be reached. {hint}"


async def poll(guest: Guest, version: Version, hook: Hook) -> None:
    """Ask `hook` until it answers 200. 503 means not yet; a port that does not listen yet, too. Raises BuildFailed."""
    hook_set = version.hooks
    if hook_set is None:
        raise BuildFailed("INTERNAL_PLATFORM_ERROR", f"{version.image_arn} has no hooks")
    loop = asyncio.get_running_loop()
    ends_at_s = loop.time() + hook.timeout_s
    while (left_s := ends_at_s - loop.time()) > 0:
        call = build_call(hook_set, hook, host=f"localhost:{hook_set.port}", timeout_s=left_s)
        result = await guest.hook(call)
        if result.ok:
            return
        if result.status is not None and result.status != 503:
            raise BuildFailed(APP_FAILED, build_failure(hook, result))
        await rest(ASK_AGAIN_S)  # nothing in the guest could tell us earlier
    raise BuildFailed(APP_FAILED, build_timeout(hook))


def build_failure(hook: Hook, result: HookResult) -> str:
    """The state reason of a build hook that failed on a call (not 503, which is asked again)."""
    name = _NAMES[hook.name]
    if result.status is None:
        return build_timeout(hook)
    kind = "a server error (HTTP 5xx)" if result.status >= 500 else "a client error (HTTP 4xx)"
    if result.status < 400:
        return f"{name} hook check failed: the application returned HTTP status {result.status} instead of 200."
    return f"{name} hook check failed: the application returned {kind} response."


def build_timeout(hook: Hook) -> str:
    """The state reason of a build hook that never said 200 in its time."""
    return f"{_NAMES[hook.name]} hook invocation timed out after {_iso_duration(hook.timeout_s)}"


def _iso_duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return "PT" + (f"{minutes}M" if minutes else "") + (f"{rest}S" if rest or not minutes else "")
