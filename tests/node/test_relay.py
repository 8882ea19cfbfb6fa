"""The node's side of the relay's control API, against a relay of an earlier version."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from rekindle.node.layout import Layout
from rekindle.node.relay import Relay

ROUTE = {"endpoint_port": 20000, "quiet": [{"effect": "ignore"}]}


async def test_an_older_relay_gets_the_route_without_quiet_traffic(tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What a relay without that member says: it refuses what it does not know."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        seen.append(json.loads(await reader.readexactly(length)))
        refused = "quiet" in seen[-1]
        body = json.dumps({"error": 'body: json: unknown field "quiet"'} if refused else {}).encode()
        status = "400 Bad Request" if refused else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    layout = Layout(tmp_path)
    layout.run.mkdir(parents=True)
    async with await asyncio.start_unix_server(answer, layout.relay_socket), Relay(layout, Path("none")) as relay:
        await relay.put_route("microvm-1", ROUTE)
    assert seen == [ROUTE, {"endpoint_port": 20000}]
