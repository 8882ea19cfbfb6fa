"""The relay as the node sees it: its process, its control API, its events (docs/contracts.md §4).

One owner of the relay process: `Relay`. It outlives this service; a running one is taken up through its socket.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from rekindle.core.errors import MachineError, NoCapacity
from rekindle.driver.process import until_readable
from rekindle.guest.client import Guest, RelayGone
from rekindle.node import sockets
from rekindle.node.layout import Layout
from rekindle.seal import TokenKey

LOG = logging.getLogger(__name__)
CONTROL_S = 15.0
START_S = 10.0


class Relay:
    """Create with `async with Relay(...)`; nothing is started before `ensure`."""

    def __init__(self, layout: Layout, binary: Path) -> None:
        self._layout = layout
        self._binary = binary
        self._folder = os.open(layout.run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        transport = httpx.AsyncHTTPTransport(
            uds=f"/proc/self/fd/{self._folder}/{layout.relay_socket.name}",
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
        )
        self._http = httpx.AsyncClient(transport=transport, base_url="http://relay", timeout=CONTROL_S)
        self._child: subprocess.Popen[bytes] | None = None
        self.listeners: Mapping[str, socket.socket] = {}  #: what the relay shall keep for the next service

    async def __aenter__(self) -> Relay:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
        os.close(self._folder)
        if self._child is not None:
            self._child.returncode = self._child.poll() or 0  # it stays, in a session of its own

    def guest(self, vm_id: str) -> Guest:
        return Guest(self._http, vm_id)

    async def ensure(self, config: Mapping[str, object]) -> bool:
        """A relay that answers and has `config`; returns True when it had to be started."""
        started = not await self._answers()
        if started:
            await self._start()
        await self.configure(config)
        await asyncio.to_thread(self._let_keep)
        return started

    async def configure(self, config: Mapping[str, object]) -> None:
        """Give the relay that is there its configuration; it reads the files that this names again."""
        await self._call("PUT", "/v1/config", config)

    def _let_keep(self) -> None:
        """A relay that does not keep them (an older one) is no fault: then a restart refuses calls while it lasts."""
        try:
            sockets.keep(self._layout.run, self.listeners)
        except (OSError, sockets.Refused) as err:
            LOG.warning("the relay does not keep the listening sockets over a restart: %s", err)

    async def stop(self) -> None:
        """End the relay in order and return when it is gone; nothing happens when there is none."""
        try:
            pid = (await self._call("GET", "/v1/health"))["pid"]
        except RelayGone:
            return
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            await until_readable(pidfd, START_S, "end of the relay")
        finally:
            os.close(pidfd)
        if self._child is not None and self._child.pid == pid:
            self._child.wait()
            self._child = None

    async def put_route(self, vm_id: str, route: Mapping[str, object]) -> None:
        """Raises NoCapacity when the endpoint port is taken by somebody else."""
        response = await self._send("PUT", f"/vms/{vm_id}", route)
        if "quiet" in route and _does_not_know(response, "quiet"):
            LOG.warning("the relay is an older one: it does not know quiet traffic, and every request counts")
            rest = {name: value for name, value in route.items() if name != "quiet"}
            response = await self._send("PUT", f"/vms/{vm_id}", rest)
        if response.status_code == httpx.codes.CONFLICT:
            raise NoCapacity(f"Endpoint port {route['endpoint_port']} of {vm_id} is in use on this machine")
        _checked(response)

    async def drop_route(self, vm_id: str) -> None:
        await self._call("DELETE", f"/vms/{vm_id}")

    async def connect(self, vm_id: str, *, timeout_s: float, ready: bool = False) -> None:
        """Open the guest channel; with `ready`, return only when the guest has answered."""
        path = f"/vms/{vm_id}/connect" + ("?ready=1" if ready else "")
        await self._call("POST", path, {"timeout_ms": int(timeout_s * 1000)}, timeout_s=timeout_s + CONTROL_S)

    async def disconnect(self, vm_id: str) -> None:
        await self._call("POST", f"/vms/{vm_id}/disconnect", {})

    async def put_state(self, vm_id: str, state: str) -> None:
        await self._call("PUT", f"/vms/{vm_id}/state", {"state": state})

    async def vms(self) -> dict[str, dict[str, Any]]:
        return await self._call("GET", "/vms")

    async def vm(self, vm_id: str) -> dict[str, Any]:
        """What the relay counts of one VM, and since when it has counted."""
        response = await self._send("GET", f"/vms/{vm_id}")
        if response.status_code != httpx.codes.METHOD_NOT_ALLOWED:
            return _checked(response)
        counted = (await self.vms()).get(vm_id)  # an older relay tells of all at once
        if counted is None:
            raise RelayGone(f"The relay does not know {vm_id}: it is a new one")
        return counted | {"relay_started_at_ms": (await self._call("GET", "/v1/health"))["started_at_ms"]}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The relay's events; ends with RelayGone when the relay does."""
        try:
            async with self._http.stream("GET", "/v1/events", timeout=None) as response:
                async for line in response.aiter_lines():
                    if line.strip():
                        yield json.loads(line)
        except httpx.HTTPError as err:
            raise RelayGone("The relay's event stream ended") from err
        raise RelayGone("The relay's event stream ended")

    async def _answers(self) -> bool:
        try:
            await self._call("GET", "/v1/health", timeout_s=START_S)  # where none listens that is refused at once
        except RelayGone:
            return False
        return True

    async def _start(self) -> None:
        """Start the relay in a session of its own; it says on descriptor 1 that it listens."""
        if self._child is not None:
            self._child.poll()
        self._layout.relay_log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ready, ready_child = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._child = self._spawn(ready_child)
            os.close(ready_child)
            ready_child = -1
            await until_readable(ready, START_S, "start of the relay")
            if not os.read(ready, 16):
                raise MachineError(f"The relay did not start; see {self._layout.relay_log}")
        finally:
            os.close(ready)
            if ready_child >= 0:
                os.close(ready_child)

    def _spawn(self, ready: int) -> subprocess.Popen[bytes]:
        try:
            with self._layout.relay_log.open("ab") as log:
                return subprocess.Popen(
                    [self._binary, "--socket", self._layout.relay_socket, "--log", self._layout.relay_log],
                    stdin=subprocess.DEVNULL,
                    stdout=ready,
                    stderr=log,
                    start_new_session=True,
                    cwd="/",
                )
        except OSError as err:
            raise MachineError(f"The relay {self._binary} could not be started: {err.strerror}") from err

    async def _call(
        self, method: str, path: str, body: object = None, *, timeout_s: float = CONTROL_S
    ) -> dict[str, Any]:
        return _checked(await self._send(method, path, body, timeout_s=timeout_s))

    async def _send(
        self, method: str, path: str, body: object = None, *, timeout_s: float = CONTROL_S
    ) -> httpx.Response:
        try:
            return await self._http.request(method, path, json=body, timeout=timeout_s)
        except httpx.HTTPError as err:
            raise RelayGone(f"The relay gave no answer to {method} {path}") from err


def relay_config(
    *,
    token_key: TokenKey,
    certificate: Path,
    private_key: Path,
    ingress_host: str,
    domain: str,
    hold_s: int,
    public_test_addresses: tuple[str, ...],
    resolvers: tuple[str, ...],
) -> dict[str, object]:
    """The body of `PUT /v1/config`."""
    return {
        "token_keys": [{"kid": token_key.kid, "key": base64.b64encode(token_key.secret).decode()}],
        "certificate": str(certificate),
        "private_key": str(private_key),
        "domain": domain,
        "ingress_host": ingress_host,
        "hold_s": hold_s,
        "egress": {"public_test_addresses": list(public_test_addresses), "resolvers": list(resolvers)},
    }


def _does_not_know(response: httpx.Response, member: str) -> bool:
    """Whether a relay of an earlier version refused this member of a body."""
    refused: bool = response.status_code == httpx.codes.BAD_REQUEST
    return refused and f'unknown field "{member}"' in str(response.json().get("error"))


def _checked(response: httpx.Response) -> dict[str, Any]:
    request = response.request
    if response.status_code == httpx.codes.NOT_FOUND:
        raise RelayGone(f"The relay does not know the VM of {request.method} {request.url.path}: it is a new one")
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise RelayGone(f"The relay has no configuration yet for {request.method} {request.url.path}: it is a new one")
    if response.status_code >= 400:
        raise MachineError(f"The relay refused {request.method} {request.url.path}: {response.text[:300]}")
    answer: dict[str, Any] = response.json() if response.content else {}
    return answer
