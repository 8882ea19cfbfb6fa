"""The operator's own API, on `<state>/run/operator.sock` (folder 0700): all accounts, and what AWS does not tell.

Read-only but for `down` and the removal of images. JSON; an error is `{"error": "<sentence>"}`. The CLI is its client.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rekindle import doctor, vitals
from rekindle.api import logs
from rekindle.clock import Clock
from rekindle.config import Config
from rekindle.core.arn import image_arn
from rekindle.core.errors import Denied, Invalid, MachineError, NotFound, Refused, RekindleError
from rekindle.core.lifecycle import OWES, Phase
from rekindle.core.microvm import MicroVM
from rekindle.driver import reserve
from rekindle.image import toolbox
from rekindle.jsonable import jsonable
from rekindle.node.layout import Layout
from rekindle.operator_accounts import Accounts, Renew
from rekindle.operator_events import EVENTS_SHOWN, Events
from rekindle.operator_images import Images, text
from rekindle.rest import rest
from rekindle.store.db import Store

TERMINATED_SHOWN = 500
#: The guest keeps its output in a ring and cannot call us: how often a follower looks.
OUTPUT_EVERY_S = 0.5
#: A change of a row wakes nobody who waits here: how often `settled` looks.
SETTLED_EVERY_S = 0.02
_STATUS: dict[type[RekindleError], int] = {NotFound: 404, Invalid: 400, Refused: 409, Denied: 403}


class Operator(Protocol):
    """What the store does not know; `serve.py` gives it."""

    node: str

    def facts(self) -> Mapping[str, object]:
        """This service: pid, version, started_at_ms, addresses, accel, mode, toolbox; JSON-able."""

    def endpoint(self, vm: MicroVM) -> str:
        """The authority of a VM's endpoint."""

    async def relay_counters(self) -> Mapping[str, Mapping[str, object]]:
        """By microVM id (docs/contracts.md §4, `GET /vms`). Raises MachineError when the relay is away."""

    async def app_output(self, vm: MicroVM, offset: int) -> tuple[bytes, int]:
        """The app's output from `offset` on, and the offset after it; nothing while the VM sleeps."""

    async def remove_image(self, arn: str, version: str | None = None) -> None:
        """Delete an image or one version of it; returns when it is gone. Raises NotFound, Invalid, Refused."""

    async def down(self) -> int:
        """Terminate every microVM, then have the service and the relay stop behind this answer; how many there were."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Everything a handler needs; one value, kept in `app.state.desk`."""

    store: Store
    operator: Operator
    config: Config
    layout: Layout
    clock: Clock
    renew: Renew  #: write again what tells clients of this machine their key
    #: what a VM's driver is busy with: `{"work", "done_bytes", "of_bytes"}`
    progress: Callable[[str], Mapping[str, object] | None] = lambda _: None


def app(desk: Desk) -> Starlette:
    """The ASGI application; the socket's folder is its only access control."""
    made = Starlette(
        routes=[
            Route("/v1/status", _status),
            Route("/v1/microvms", _microvms),
            Route("/v1/microvms/{id}", _microvm),
            Route("/v1/microvms/{id}/settled", _settled),
            Route("/v1/microvms/{id}/logs", _logs),
            Route("/v1/doctor", _doctor),
            Route("/v1/tools", _tools),
            Route("/v1/down", _down, methods=["POST"]),
            *Events(desk.store).routes(),
            *Images(desk.store, desk.layout, desk.operator.remove_image).routes(),
            *Accounts(desk.store, desk.config.account, desk.renew).routes(),
        ],
        exception_handlers={RekindleError: _failed},
    )
    made.state.desk = desk
    return made


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


async def _failed(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status)


async def _status(request: Request) -> Response:
    desk = _desk(request)
    live = await desk.store.all_microvms(desk.operator.node)
    phases = {phase.value: sum(vm.phase is phase for vm in live) for phase in Phase}
    return JSONResponse({**desk.operator.facts(), "microvms": {name: n for name, n in phases.items() if n}})


async def _down(request: Request) -> Response:
    return JSONResponse({"terminated": await _desk(request).operator.down()})


# -- microVMs ----------------------------------------------------------------------------------------------------------


async def _microvms(request: Request) -> Response:
    """Every microVM of this node and every account; with `?all=1` the TERMINATED ones too."""
    desk = _desk(request)
    vms = await desk.store.all_microvms(desk.operator.node)
    if request.query_params.get("all"):
        vms += await _terminated(desk)
    counters = await _counters(desk)
    return JSONResponse({"items": [_short(desk, vm, counters.get(vm.id)) for vm in vms]})


async def _terminated(desk: Desk) -> list[MicroVM]:
    found = []
    for account in await desk.store.accounts():
        vms = await desk.store.microvms(account, desk.config.region, limit=TERMINATED_SHOWN)
        found += [vm for vm in vms if vm.phase is Phase.TERMINATED]
    return found


def _short(desk: Desk, vm: MicroVM, counters: Mapping[str, object] | None) -> dict[str, object]:
    """One line of `rekindle ps`."""
    process = _process(vm)
    return {
        "id": vm.id,
        "account": vm.account,
        "region": vm.region,
        "image": image_arn(vm.image_arn).name,
        "image_version": vm.image_version,
        "phase": vm.phase.value,
        "uptime_s": ((vm.terminated_at_ms or desk.clock()) - vm.started_at_ms) // 1000,
        "memory_mib": vm.memory_mib,
        "memory": process and process["memory"],
        "endpoint": desk.operator.endpoint(vm),
        "last_byte_ms": (counters or {}).get("last_byte_ms"),
        "state_reason": vm.state_reason,
        "log_stream": logs.of_microvm(vm).stream,
    }


async def _microvm(request: Request) -> Response:
    """Everything about one: its row, story, process and jail, what it has on disk, what the relay counted."""
    desk = _desk(request)
    vm = await _find(desk, request)
    home, names = desk.layout.home(vm.id), logs.of_microvm(vm)
    counters = await _counters(desk)
    events = await desk.store.events(vm.id, EVENTS_SHOWN)
    more = {
        "endpoint": desk.operator.endpoint(vm),
        "uptime_s": _short(desk, vm, None)["uptime_s"],
        "guest_memory_mib": vm.memory_mib * desk.config.memory.peak_factor,
        "log_group": names.group,
        "log_stream": names.stream,
        "home": str(home),
        **await asyncio.to_thread(_on_disk, home),
        "progress": desk.progress(vm.id),
        "snapshots": await asyncio.to_thread(_snapshots, home),
        "process": _process(vm),
        "relay": counters.get(vm.id),
        "events": [jsonable(event) for event in events],
    }
    return JSONResponse(jsonable(vm) | more)


def _on_disk(home: Path) -> dict[str, int]:
    """What a microVM has written, and what is set aside for its next sleep."""
    reserved_bytes = vitals.allocated_bytes(home / reserve.FOLDER)
    return {"disk_bytes": vitals.allocated_bytes(home) - reserved_bytes, "reserved_bytes": reserved_bytes}


async def _settled(request: Request) -> Response:
    """The answer of `_short`, held until the microVM owes no work: RUNNING, SUSPENDED or TERMINATED."""
    desk = _desk(request)
    while (vm := await _find(desk, request)).phase in OWES:
        await rest(SETTLED_EVERY_S)
    return JSONResponse(_short(desk, vm, None))


async def _find(desk: Desk, request: Request) -> MicroVM:
    vm_id = request.path_params["id"]
    vm = await desk.store.microvm(vm_id)
    if vm is None:
        raise NotFound(f"There is no microVM {vm_id}; `rekindle ps --all` lists them")
    return vm


async def _counters(desk: Desk) -> Mapping[str, Mapping[str, object]]:
    """Nothing while the relay is being started again: what the rows say is still worth an answer."""
    try:
        return await desk.operator.relay_counters()
    except MachineError:
        return {}


def _process(vm: MicroVM) -> dict[str, object] | None:
    if vm.handle is None:
        return None
    return vitals.process(int(str(vm.handle["pid"])), int(str(vm.handle["started_ticks"])))


def _snapshots(home: Path) -> list[dict[str, object]]:
    """Newest first; one without a manifest is not whole."""
    folder = home / "snapshots"
    found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True) if folder.is_dir() else []
    return [
        {"name": path.name, "bytes": vitals.allocated_bytes(path), "whole": (path / "manifest.json").exists()}
        for path in found
    ]


async def _logs(request: Request) -> Response:
    """The app's output; with `?follow=1` until the microVM is TERMINATED or the client leaves."""
    desk = _desk(request)
    vm = await _find(desk, request)
    return text(_output(desk, vm, follow="follow" in request.query_params))


async def _output(desk: Desk, vm: MicroVM, *, follow: bool) -> AsyncIterator[bytes]:
    offset = 0
    while True:
        data, offset = await desk.operator.app_output(vm, offset)
        if data:
            yield data
        if not follow or vm.phase is Phase.TERMINATED:
            return
        await rest(OUTPUT_EVERY_S)
        now = await desk.store.microvm(vm.id)
        if now is None:
            return
        vm = now


# -- this machine ------------------------------------------------------------------------------------------------------


async def _doctor(request: Request) -> Response:
    checks = await doctor.examine(_desk(request).config)
    return JSONResponse({"checks": [jsonable(check) for check in checks]})


async def _tools(request: Request) -> Response:
    trees = await asyncio.to_thread(toolbox.installed, _desk(request).config.tools_dir)
    return JSONResponse({"items": [jsonable(tree) for tree in trees]})
