"""Python's view of the guest agent (docs/contracts.md §3), reached through the relay's unix socket.

Units are converted here: the wire has milliseconds and nanoseconds, callers have seconds and epoch milliseconds.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from rekindle.core.errors import GuestError, MachineError

ANSWER_S = 30.0
WISHES_S = 5.0
MAX_ANSWER_BYTES = 4 << 20  #: the largest is the ring of an app's output, 1 MiB
_MAX_LEASE_MS = 2**53
_MAX_NAME = 64
_MAX_EXIT_CODE = 255
_NO_ROUTE = "rekindle-no-route"  #: the relay's own word; it lets no guest say it


class RelayGone(MachineError):
    """The relay does not answer on its socket: nothing is known about the guest; try again when it is back."""


class NoRoute(RelayGone):
    """The relay answers and has no route to the VM: it is a new one, or the route was dropped as the VM ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HookCall:
    """One call of a lifecycle hook as the guest shall see it (spec §4.1)."""

    name: str
    port: int
    timeout_s: float
    host: str
    body: str | None = None
    user_agent: str | None = None
    request_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        return {
            "name": self.name,
            "port": self.port,
            "timeout_ms": int(self.timeout_s * 1000),
            "body": self.body,
            "host": self.host,
            "user_agent": self.user_agent,
            "request_id": self.request_id,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class HookResult:
    """`status` is the app's answer, or None and `error` says why there was none: refused, timeout, broken."""

    status: int | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Thawed:
    """What a guest says of its thaw. What is missing (an older agent) or of the wrong kind is False or None."""

    seeded: bool
    held: bool = False  #: the app ran no instruction between its freeze and this thaw
    cut: bool = False  #: old connections to the outside were reset
    clock_ns: int | None = None  #: the guest's wall clock after it was set
    hostname: str | None = None
    machine_id: str | None = None
    boot_id: str | None = None
    generation: int | None = None  #: how often this memory has been thawed, as the app was told
    hook: HookResult | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Thawed:
        hook = answer.get("hook")
        return cls(
            seeded=answer.get("seeded") is True,
            held=answer.get("held") is True,
            cut=answer.get("cut") is True,
            clock_ns=_of(int, answer.get("clock_ns")),
            hostname=_of(str, answer.get("hostname")),
            machine_id=_of(str, answer.get("machine_id")),
            boot_id=_of(str, answer.get("boot_id")),
            generation=_of(int, answer.get("generation")),
            hook=_hook_result(hook) if isinstance(hook, Mapping) else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AppEnd:
    exit_code: int
    oom_kills: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The app's word that it has work for so long; its time stands still while the machine is frozen."""

    left_ms: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the app has said of its own machine since the thaw (docs/guest-api.md). It may lie."""

    news: int  #: how often it said something that must be heard at once
    suspend: bool
    lease: Lease | None


@dataclass(frozen=True, kw_only=True, slots=True)
class App:
    """What `start` runs in the container."""

    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    user: str
    all_capabilities: bool


class Guest:
    """The agent of one VM. Every method raises GuestError when the guest does not answer in time or refuses,
    RelayGone when the relay went away meanwhile."""

    def __init__(self, http: httpx.AsyncClient, vm_id: str) -> None:
        self._http = http
        self._base = f"/vms/{vm_id}/agent/v1"
        self._vm_id = vm_id

    async def status(self) -> dict[str, Any]:
        return await self._call("GET", "/status", None, ANSWER_S)

    async def start(self, app: App) -> None:
        body = {
            "argv": list(app.argv),
            "env": dict(app.env),
            "workdir": app.workdir,
            "user": app.user,
            "capabilities": "all" if app.all_capabilities else "default",
            "shm_mib": 64,
            "hostname": "localhost",
        }
        await self._call("POST", "/start", body, ANSWER_S)

    async def hook(self, call: HookCall) -> HookResult:
        answer = await self._call("POST", "/hook", call.to_wire(), call.timeout_s + ANSWER_S)
        return _hook_result(answer)

    async def freeze(self, hook: HookCall | None, *, trim: bool) -> HookResult | None:
        """Make the guest ready for a stop. A failed hook is in the answer, and then nothing was frozen."""
        body = {"hook": hook.to_wire() if hook else None, "trim": trim}
        patience_s = (hook.timeout_s if hook else 0) + ANSWER_S * (4 if trim else 1)
        answer = await self._call("POST", "/freeze", body, patience_s)
        return _hook_result(answer["hook"]) if answer.get("hook") else None

    async def thaw(
        self,
        *,
        entropy: bytes | None,
        now_ns: int,
        hostname: str,
        machine_id: str,
        first: bool,
        hook: HookCall | None,
        about: Mapping[str, object] | None = None,
    ) -> Thawed:
        """`about`: what the app may read about its own microVM; None in a machine that is only being baked."""
        body = {
            "entropy": base64.b64encode(entropy).decode() if entropy else None,
            "now_ns": now_ns,
            "hostname": hostname,
            "machine_id": machine_id,
            "first": first,
            "hook": hook.to_wire() if hook else None,
        }
        query = "?about=" + quote(json.dumps(about)) if about is not None else ""
        answer = await self._call("POST", "/thaw" + query, body, (hook.timeout_s if hook else 0) + ANSWER_S)
        return Thawed.of(answer)

    async def wait(self) -> AppEnd:
        """Return when the app's main process has ended."""
        return _app_end(self._vm_id, await self._call("GET", "/wait", None, None))

    async def listen(self, heard: int) -> AppEnd | Wishes:
        """Return when the app's main process has ended, or when it said something after the first `heard` news."""
        answer = await self._call("GET", f"/wait?news={heard}", None, None)
        return _wishes(self._vm_id, answer) if "news" in answer else _app_end(self._vm_id, answer)

    async def wishes(self) -> Wishes:
        return _wishes(self._vm_id, await self._call("GET", "/wishes", None, WISHES_S))

    async def logs(self, offset: int) -> tuple[bytes, int]:
        """The app's output from byte `offset` on (as far as the guest still has it), and the offset after it."""
        response = await self._send("GET", f"/logs?offset={offset}", None, ANSWER_S)
        return response.content, int(response.headers["rekindle-log-end"])

    async def _call(self, method: str, path: str, body: object, timeout_s: float | None) -> dict[str, Any]:
        response = await self._send(method, path, body, timeout_s)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise GuestError(f"{self._vm_id}: the guest agent's answer to {method} {path} is no JSON object")
        return answer

    async def _send(self, method: str, path: str, body: object, timeout_s: float | None) -> httpx.Response:
        content = json.dumps(body).encode() if body is not None else None
        headers = {"content-type": "application/json"} if content else {}
        sending = self._http.stream(method, self._base + path, content=content, headers=headers, timeout=timeout_s)
        try:
            # For the whole of it: a guest that sends a byte now and then would never be over otherwise.
            async with asyncio.timeout(timeout_s), sending as stream:
                response = await self._whole(stream)
        except (TimeoutError, httpx.TimeoutException) as err:
            raise GuestError(f"{self._vm_id}: the guest agent gave no answer to {method} {path} in time") from err
        except httpx.TransportError as err:
            raise RelayGone(f"The relay went away during {method} {path} of {self._vm_id}") from err
        if _NO_ROUTE in response.headers:
            raise NoRoute(f"The relay that was asked {method} {path} of {self._vm_id} has no route to it")
        if response.status_code >= 400:
            raise GuestError(f"{self._vm_id}: the guest agent refused {method} {path}: {_reason(response)}")
        return response

    async def _whole(self, stream: httpx.Response) -> httpx.Response:
        """The answer with its body, which a guest may make as long as it likes. Raises GuestError."""
        body = bytearray()
        async for chunk in stream.aiter_raw():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise GuestError(f"{self._vm_id}: the guest agent's answer has more than {MAX_ANSWER_BYTES} bytes")
        return httpx.Response(stream.status_code, headers=stream.headers, content=bytes(body))


def _app_end(vm_id: str, answer: Mapping[str, Any]) -> AppEnd:
    code, kills = answer.get("exit_code"), answer.get("oom_kills") or 0
    if type(code) is not int or not 0 <= code <= _MAX_EXIT_CODE or type(kills) is not int:
        raise GuestError(f"{vm_id}: the guest agent does not say how the app ended")
    return AppEnd(exit_code=code, oom_kills=kills)


def _wishes(vm_id: str, answer: Mapping[str, Any]) -> Wishes:
    news, suspend, lease = (answer.get(name) for name in ("news", "suspend", "lease"))
    if type(news) is not int or type(suspend) is not bool or not isinstance(lease, dict | None):
        raise GuestError(f"{vm_id}: the guest agent does not say what the app wishes")
    if lease is not None:
        left_ms, name = lease.get("left_ms"), lease.get("name")
        if type(left_ms) is not int or not 0 <= left_ms <= _MAX_LEASE_MS or not isinstance(name, str):
            raise GuestError(f"{vm_id}: the guest agent does not say how long the app's lease is")
        lease = Lease(left_ms=left_ms, name=name[:_MAX_NAME])
    return Wishes(news=news, suspend=suspend, lease=lease)


T = TypeVar("T")


def _of(kind: type[T], value: object) -> T | None:
    return value if type(value) is kind else None


def _hook_result(answer: Mapping[str, Any]) -> HookResult:
    return HookResult(status=answer.get("status"), error=answer.get("error"))


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.text[:200]}"
