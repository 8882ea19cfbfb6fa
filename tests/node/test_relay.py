"""The node's side of the relay's control API, against a relay of an earlier version."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rekindle.guest.client import RelayGone
from rekindle.node.layout import Layout
from rekindle.node.relay import Relay

ROUTE: dict[str, Any] = {"endpoint_port": 20000, "quiet": [{"effect": "ignore"}]}


class Older:
    """A relay that knows neither the route's `quiet` nor `GET /vms/<id>`."""

    def __init__(self) -> None:
        self.vms: dict[str, Any] = {}

    def answer(self, method: str, path: str, body: Any) -> tuple[str, Any]:
        match method, path.strip("/").split("/"):
            case "PUT", ["vms", vm_id]:
                if "quiet" in body:
                    return "400 Bad Request", {"error": 'body: json: unknown field "quiet"'}
                self.vms[vm_id] = body
                return "200 OK", {}
            case "GET", ["vms"]:
                return "200 OK", self.vms
            case "POST", _:
                return "503 Service Unavailable", {"error": "no configuration yet: PUT /v1/config comes first"}
            case "GET", ["v1", "health"]:
                return "200 OK", {"started_at_ms": 7}
        return "405 Method Not Allowed", None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = json.loads(await reader.readexactly(length)) if length else None
        status, answer = self.answer(method, path, body)
        data = b"Method Not Allowed\n" if answer is None else json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def asked(folder: Path, older: Older) -> AsyncIterator[Relay]:
    layout = Layout(folder)
    layout.run.mkdir(parents=True)
    async with (
        await asyncio.start_unix_server(older.serve, layout.relay_socket),
        Relay(layout, Path("none")) as relay,
    ):
        yield relay


async def test_an_older_relay_gets_the_route_without_quiet_traffic(tmp_path: Path) -> None:
    older = Older()
    async with asked(tmp_path, older) as relay:
        await relay.put_route("microvm-1", ROUTE)
    assert older.vms == {"microvm-1": {"endpoint_port": 20000}}


async def test_an_older_relay_is_asked_for_all_vms_when_it_cannot_tell_of_one(tmp_path: Path) -> None:
    older = Older()
    older.vms["microvm-1"] = {"last_byte_ms": 5}
    async with asked(tmp_path, older) as relay:
        assert await relay.vm("microvm-1") == {"last_byte_ms": 5, "relay_started_at_ms": 7}
        with pytest.raises(RelayGone, match="does not know microvm-2"):
            await relay.vm("microvm-2")


async def test_a_relay_without_its_configuration_is_a_new_one(tmp_path: Path) -> None:
    async with asked(tmp_path, Older()) as relay:
        with pytest.raises(RelayGone, match="no configuration yet"):
            await relay.disconnect("microvm-1")
