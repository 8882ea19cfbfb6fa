"""What a guest says is checked before anything is built on it: a guest may send whatever it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from rekindle.core.errors import GuestError
from rekindle.guest import client
from rekindle.guest.client import MAX_ANSWER_BYTES, AppEnd, Guest, Lease, NoRoute, RelayGone, Wishes

Say = Callable[[asyncio.StreamWriter], None]
WISHES: dict[str, Any] = {"news": 2, "suspend": True, "lease": {"left_ms": 5, "name": "train"}}


def says(value: object) -> Say:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()

    def say(out: asyncio.StreamWriter) -> None:
        out.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    return say


def never_ends(out: asyncio.StreamWriter) -> None:
    out.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(MAX_ANSWER_BYTES // 65536 + 2):
        out.write(b"10000\r\n" + bytes(65536) + b"\r\n")


def trickles(out: asyncio.StreamWriter) -> None:
    def more() -> None:
        if not out.transport.is_closing():
            out.write(b"1\r\n \r\n")
            asyncio.get_running_loop().call_later(0.02, more)

    out.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    more()


def breaks_off(out: asyncio.StreamWriter) -> None:
    out.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    out.close()


@asynccontextmanager
async def guest(say: Say) -> AsyncIterator[tuple[Guest, list[str]]]:
    """A relay behind which the guest answers one request as `say` has it; the requests that came."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.decode().split("\r\n")[0])
        try:
            say(writer)
            await reader.read()  # until the client has had enough
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            over.set()

    over = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            yield Guest(http, "microvm-1"), asked
        await over.wait()


async def test_wishes_as_the_agent_tells_them() -> None:
    async with guest(says(WISHES)) as (one, asked):
        heard = await one.listen(1)
        assert heard == Wishes(news=2, suspend=True, lease=Lease(left_ms=5, name="train"))
        assert asked == ["GET /vms/microvm-1/agent/v1/wait?news=1 HTTP/1.1"]
    async with guest(says({"news": 0, "suspend": False, "lease": None})) as (one, asked):
        assert await one.wishes() == Wishes(news=0, suspend=False, lease=None)


async def test_the_end_of_the_app_is_heard_by_the_same_question() -> None:
    async with guest(says({"exit_code": 137, "signal": 9, "oom_kills": 1})) as (one, _):
        assert await one.listen(0) == AppEnd(exit_code=137, oom_kills=1)


@pytest.mark.parametrize(
    "lie",
    [
        b"not json",
        b"[]",
        b"null",
        WISHES | {"news": "2"},
        WISHES | {"news": None},
        WISHES | {"suspend": 1},
        WISHES | {"lease": "long"},
        WISHES | {"lease": {"left_ms": -1, "name": ""}},
        WISHES | {"lease": {"left_ms": 1e300, "name": ""}},
        WISHES | {"lease": {"left_ms": 10**30, "name": ""}},
        WISHES | {"lease": {"left_ms": 1, "name": 7}},
        {"exit_code": "0; all is well"},
        {"exit_code": 256},
        {"exit_code": True},
        {},
    ],
)
async def test_a_lie_is_an_error(lie: object) -> None:
    async with guest(says(lie)) as (one, _):
        with pytest.raises(GuestError):
            await one.listen(0)


async def test_a_long_name_is_cut() -> None:
    async with guest(says(WISHES | {"lease": {"left_ms": 1, "name": "n" * 10_000}})) as (one, _):
        lease = (await one.wishes()).lease
        assert lease is not None
        assert lease.name == "n" * 64


async def test_an_answer_without_end_is_not_kept() -> None:
    async with guest(never_ends) as (one, _):
        with pytest.raises(GuestError, match="more than"):
            await one.wishes()


async def test_an_answer_that_trickles_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the answer never: a guest must not keep its VM from being suspended or ended."""
    monkeypatch.setattr(client, "WISHES_S", 0.3)
    async with guest(trickles) as (one, _):
        with pytest.raises(GuestError, match="in time"):
            await one.wishes()


async def test_an_answer_that_breaks_off_is_no_answer() -> None:
    async with guest(breaks_off) as (one, _):
        with pytest.raises(RelayGone):
            await one.wishes()


def refuses(*headers: bytes) -> Say:
    head = b"".join(header + b"\r\n" for header in (b"HTTP/1.1 404 Not Found", b"content-length: 2", *headers))
    return lambda out: out.write(head + b"\r\n{}")


async def test_a_relay_that_is_new_is_told_from_a_guest_that_refuses() -> None:
    """Between the end of a relay and its routes in the next one: the work is done again, not given up."""
    async with guest(refuses(b"rekindle-no-route: 1")) as (one, _):
        with pytest.raises(NoRoute, match="has no route to it"):
            await one.wishes()
    async with guest(refuses()) as (one, _):
        with pytest.raises(GuestError, match="refused"):
            await one.wishes()


async def test_what_the_app_may_read_about_itself_goes_in_the_query() -> None:
    async with guest(says({"seeded": True})) as (one, asked):
        await one.thaw(
            entropy=None, now_ns=0, hostname="h", machine_id="m", first=True, hook=None, about={"microvm_id": "a&b"}
        )
        assert asked == ["POST /vms/microvm-1/agent/v1/thaw?about=%7B%22microvm_id%22%3A%20%22a%26b%22%7D HTTP/1.1"]
