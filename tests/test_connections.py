"""The service's own HTTP connections over real sockets: answers in one piece, a stop that breaks off no call."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import pytest
import uvloop

from rekindle import servers
from tests.waiting import until

REQUEST = b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n"
_DATA_SEGMENTS_IN = 152  #: offset of tcpi_data_segs_in in struct tcp_info (linux/tcp.h)


class Service:
    """A server in a thread of its own; its app answers `size` bytes to `/<size>`, once `go` allows it."""

    def __init__(self, sock: socket.socket) -> None:
        self.address = sock.getsockname()
        self.seen = 0
        self.server = servers.server(self._app)
        self._sock = sock
        self.loop = uvloop.new_event_loop()
        self.go = asyncio.Event()
        self.go.set()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self.server.serve([self._sock]))

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server.stop)

    def connections(self) -> list[object]:
        return list(self.server.server_state.connections)

    def hold(self) -> None:
        self.loop.call_soon_threadsafe(self.go.clear)

    def release(self) -> None:
        self.loop.call_soon_threadsafe(self.go.set)

    async def _app(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.seen += 1
        await self.go.wait()
        size = int(scope["path"][1:])
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})


@contextmanager
def serving() -> Iterator[tuple[Service, Future[None]]]:
    service = Service(servers.bind("127.0.0.1:0", "a test"))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(service.run)
        try:
            until(lambda: service.server.started, 10, "it serves")
            yield service, running
        finally:
            if not running.done():
                service.release()
                service.stop()
            running.result(timeout=30)


@contextmanager
def connected(service: Service) -> Iterator[tuple[socket.socket, BinaryIO]]:
    with socket.create_connection(service.address, timeout=10) as client, client.makefile("rb") as stream:
        yield client, stream


def answer(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Header and body of one answer; raises when it is cut off."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (line := stream.readline()):
            raise ConnectionError("no answer, or half a header")
        head += line
    length = next(int(line[15:]) for line in head.splitlines() if line.startswith(b"content-length:"))
    body = stream.read(length)
    if len(body) < length:
        raise ConnectionError("the answer was cut off")
    return head, body


def is_over(stream: BinaryIO) -> bool:
    return stream.read(1) == b""


def data_segments(client: socket.socket) -> int:
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("I", info, _DATA_SEGMENTS_IN)[0])


@pytest.mark.parametrize("size", [0, 800, 30_000])
def test_an_answer_is_one_write(size: int) -> None:
    """Each write of a server with TCP_NODELAY is a segment of its own (loopback segments hold 64 KiB)."""
    with serving() as (service, _), connected(service) as (client, stream):
        for number in range(1, 21):
            client.sendall(REQUEST % str(size).encode())
            assert answer(stream)[1] == b"x" * size
            assert data_segments(client) == number


def test_a_long_answer_comes_whole_and_in_order() -> None:
    with serving() as (service, _), connected(service) as (client, stream):
        client.sendall(REQUEST % b"5000000" + REQUEST % b"3")
        assert len(answer(stream)[1]) == 5_000_000
        assert answer(stream)[1] == b"xxx"


def test_a_call_in_flight_is_answered_and_then_the_connection_ends() -> None:
    with serving() as (service, running), connected(service) as (client, stream):
        service.hold()
        client.sendall(REQUEST % b"5")
        until(lambda: service.seen == 1, 10, "the call is there")
        service.stop()
        until(lambda: not listens(service), 10, "the stop is under way")
        service.release()
        head, body = answer(stream)
        assert body == b"xxxxx"
        assert b"connection: close" in head
        assert is_over(stream)
        running.result(timeout=10)


def listens(service: Service) -> bool:
    try:
        socket.create_connection(service.address, timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_stop_closes_idle_connections() -> None:
    with serving() as (service, running), connected(service) as (client, stream):
        client.sendall(REQUEST % b"5")
        answer(stream)
        service.stop()
        assert is_over(stream)
        running.result(timeout=10)


def test_a_request_half_sent_at_the_stop_is_answered() -> None:
    with serving() as (service, running), connected(service) as (client, stream):
        client.sendall(REQUEST % b"5")
        answer(stream)
        whole = REQUEST % b"7"
        client.sendall(whole[:8])
        until(lambda: any(getattr(one, "_receiving", False) for one in service.connections()), 10, "it was read")
        service.stop()
        until(lambda: not listens(service), 10, "the stop is under way")
        client.sendall(whole[8:])
        head, body = answer(stream)
        assert body == b"x" * 7
        assert b"connection: close" in head
        running.result(timeout=10)


def test_a_new_connection_at_the_stop_may_still_send_its_request() -> None:
    with serving() as (service, running), connected(service) as (client, stream):
        until(service.connections, 10, "it was accepted")
        service.stop()
        until(lambda: not listens(service), 10, "the stop is under way")
        client.sendall(REQUEST % b"5")
        head, _ = answer(stream)
        assert b"connection: close" in head
        running.result(timeout=10)
