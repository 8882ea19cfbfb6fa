"""QMP: any bytes are messages or ProtocolError; the link answers, times out and ends as it promises."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.core.errors import MachineError
from rekindle.driver import qmp

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 13}}, "capabilities": []}}


@given(st.binary())
def test_any_bytes_are_messages_or_an_error(data: bytes) -> None:
    whole, bytewise = qmp.Parser(), qmp.Parser()
    whole.feed(data)
    assert _drain(whole) == _feed_bytewise(bytewise, data)


def _drain(parser: qmp.Parser) -> list[object]:
    found: list[object] = []
    try:
        found.extend(parser)
    except qmp.ProtocolError:
        found.append("error")
    return found


def _feed_bytewise(parser: qmp.Parser, data: bytes) -> list[object]:
    found: list[object] = []
    for number in range(len(data)):
        parser.feed(data[number : number + 1])
        found.extend(_drain(parser))
        if found and found[-1] == "error":
            break
    return _until_error(found)


def _until_error(found: list[object]) -> list[object]:
    return found[: found.index("error") + 1] if "error" in found else found


@given(
    st.lists(st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9), max_size=3), max_size=4),
    st.integers(1, 7),
)
def test_messages_survive_any_cutting(messages: list[dict[str, object]], step: int) -> None:
    wire = b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)
    parser = qmp.Parser()
    found: list[object] = []
    for at in range(0, len(wire), step):
        parser.feed(wire[at : at + step])
        found.extend(parser)
    assert found == messages


def test_a_message_without_end_is_refused() -> None:
    parser = qmp.Parser()
    parser.feed(b"[" * (qmp.MESSAGE_MAX_BYTES + 1))
    with pytest.raises(qmp.ProtocolError):
        parser.next()


class Peer:
    """QEMU's end of the wire, in the test's hands."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def send(self, *messages: object) -> None:
        self.sock.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))

    async def command(self) -> dict[str, object]:
        while b"\n" not in self._buffer:
            self._buffer += await asyncio.get_running_loop().sock_recv(self.sock, 4096)
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, object] = json.loads(line)
        return message


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[qmp.Link, Peer]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    link = await qmp.attach(ours)
    try:
        with theirs:
            yield link, Peer(theirs)
            link.close()
            await link.last_events()
    finally:
        link.close()


async def _answer(peer: Peer, *between: object, **answer: object) -> dict[str, object]:
    command = await peer.command()
    peer.send(*between, {**answer, "id": command["id"]})
    return command


async def test_greeting_commands_and_events() -> None:
    async with linked() as (link, peer), asyncio.TaskGroup() as own:
        peer.send(GREETING)
        own.create_task(_answer(peer, **{"return": {}}), name="capabilities")
        await link.greet(5)
        assert link.version == "10.0.13"
        event = {"event": "STOP", "data": {"a": 1}, "timestamp": {}}
        sent = own.create_task(_answer(peer, event, **{"return": {"running": False}}), name="status")
        assert await link.ask("query-status", fdset_id=1) == {"running": False}
        assert (await sent)["arguments"] == {"fdset-id": 1}
        assert list(link.events) == [qmp.Event("STOP", {"a": 1})]


async def test_a_refusal_names_command_and_reason() -> None:
    async with linked() as (link, peer), asyncio.TaskGroup() as own:
        own.create_task(_answer(peer, error={"class": "GenericError", "desc": "no such thing"}), name="peer")
        with pytest.raises(qmp.Refusal, match="QEMU refused cont: no such thing"):
            await link.ask("cont")
        assert link.alive


async def test_silence_is_an_error_and_a_late_answer_is_nobodys() -> None:
    async with linked() as (link, peer), asyncio.TaskGroup() as own:
        with pytest.raises(MachineError, match="did not answer stop"):
            await link.ask("stop", within_s=0.01)
        late = await peer.command()
        peer.send({"return": "late", "id": late["id"]})
        own.create_task(_answer(peer, **{"return": "right"}), name="peer")
        assert await link.ask("stop") == "right"


async def test_the_end_of_the_connection_reaches_everybody() -> None:
    async with linked() as (link, peer), asyncio.TaskGroup() as own:
        own.create_task(_hang_up(peer), name="peer")
        with link.listening() as events:
            with pytest.raises(qmp.Lost):
                await link.ask("stop")
            assert await events.get() == qmp.Event("SHUTDOWN", {"reason": "guest-shutdown"})
            assert await events.get() is None
        with pytest.raises(qmp.Lost):
            await link.ask("cont")
        assert [event.name for event in await link.last_events()] == ["SHUTDOWN"]


async def _hang_up(peer: Peer) -> None:
    await peer.command()
    peer.send({"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}})
    peer.sock.shutdown(socket.SHUT_RDWR)


async def test_nonsense_ends_the_link() -> None:
    async with linked() as (link, peer):
        peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        with pytest.raises(qmp.ProtocolError):
            await link.greet(5)
        assert not link.alive
