"""QMP, the control protocol of QEMU: JSON lines, one answer for every command, events in between.

`Parser` takes bytes and returns messages, without I/O. `Link` is the thin shell around it: one owner of one socket. It
needs no task of its own: asyncio calls it when bytes arrive.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from rekindle.core.errors import MachineError

MESSAGE_MAX_BYTES = 16 * 1024**2
ANSWER_S = 20.0
FLUSH_S = 120.0  #: of a command that flushes disks: many VMs may do that to one disk at the same time
EVENTS_KEPT = 1000
SAID_MAX_BYTES = 4096

Message = dict[str, Any]


class ProtocolError(MachineError):
    """The peer sent something that is not QMP."""


class Refusal(MachineError):
    """QEMU refused a command; `kind` is its error class."""

    def __init__(self, command: str, kind: str, text: str) -> None:
        super().__init__(f"QEMU refused {command}: {text}")
        self.kind = kind


class Lost(MachineError):
    """The control connection ended: QEMU is gone, or nearly."""


class Parser:
    """Bytes in, messages out. Any bytes give messages or ProtocolError, nothing else."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Message | None:
        """The next whole message, or None when more bytes are needed. Raises ProtocolError, for good."""
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            if line:
                return _message(line)
        if len(self._buffer) > MESSAGE_MAX_BYTES:
            raise ProtocolError(f"QEMU sent a message of more than {MESSAGE_MAX_BYTES} bytes")
        return None

    def __iter__(self) -> Iterator[Message]:
        while (message := self.next()) is not None:
            yield message


def _message(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise ProtocolError("QEMU sent a line that is not JSON") from err
    if not isinstance(message, dict):
        raise ProtocolError("QEMU sent JSON that is not an object")
    return message


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Link(asyncio.Protocol):
    """One control connection. Made by `attach`; usable by one caller after another."""

    def __init__(self, said: int = -1) -> None:
        self.version = ""
        self._said = said
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)  # a guest can cause some without end
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._sock: socket.socket | None = None
        self._lost: MachineError | None = None
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._listeners: list[Callable[[Event | None], None]] = []
        self._last_id = 0
        self._ended = asyncio.Event()

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        try:
            for message in self._parser:
                self._take(message)
        except ProtocolError as err:
            self._fail(err)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Lost("The control connection of the VMM ended"))
        if self._sock is not None:
            self._sock.close()
        self._ended.set()

    def _take(self, message: Message) -> None:
        if "QMP" in message:
            self.version = _version(message)
            if not self._greeted.done():
                self._greeted.set_result(None)
        elif "event" in message:
            self._happened(Event(str(message["event"]), message.get("data") or {}))
        else:
            waiting = self._answers.pop(message.get("id", -1), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    def _happened(self, event: Event) -> None:
        self.events.append(event)
        for listener in tuple(self._listeners):
            listener(event)

    def _fail(self, why: MachineError) -> None:
        self._lost = self._lost or why
        pending: list[asyncio.Future[Any]] = [self._greeted, *self._answers.values()]
        for waiting in pending:
            if not waiting.done():
                waiting.set_exception(why)
                waiting.exception()  # whoever waits gets it; nobody need
        self._answers.clear()
        for listener in tuple(self._listeners):
            listener(None)

    # -- the driver's side

    @property
    def alive(self) -> bool:
        return self._lost is None

    async def greet(self, within_s: float) -> None:
        """Wait for QEMU's greeting and agree on capabilities. Raises Lost, MachineError."""
        try:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self._greeted)
        except TimeoutError as err:
            raise MachineError(f"The VMM did not greet within {within_s} s") from err
        await self.ask("qmp_capabilities")

    async def ask(self, command: str, *, within_s: float = ANSWER_S, **arguments: object) -> Any:
        """Send one command and return its answer. Raises Refusal, Lost, or MachineError after `within_s`."""
        waiting = self._send(command, arguments)
        try:
            async with asyncio.timeout(within_s):
                answer = await waiting
        except TimeoutError as err:
            raise MachineError(f"The VMM did not answer {command} within {within_s} s") from err
        if "error" in answer:
            raise Refusal(command, str(answer["error"].get("class")), str(answer["error"].get("desc")))
        return answer.get("return")

    def _send(self, command: str, arguments: Mapping[str, object]) -> asyncio.Future[Message]:
        if self._lost is not None or self._transport is None:
            raise Lost("The control connection of the VMM ended") from self._lost
        self._last_id += 1
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[self._last_id] = waiting
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = {"execute": command, "arguments": named, "id": self._last_id}
        self._transport.write(json.dumps(message).encode() + b"\n")
        return waiting

    async def add_fd(self, descriptor: int, fdset: int) -> None:
        """Hand QEMU a descriptor, to be opened as /dev/fdset/<fdset>. It travels with the first byte of the command."""
        if self._sock is None or self._lost is not None:
            raise Lost("The control connection of the VMM ended")
        self._sock.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
        await self.ask("add-fd", fdset_id=fdset)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Queue[Event | None]]:
        """Events from here on; None when the connection has ended."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners.append(queue.put_nowait)
        if self._lost is not None:
            queue.put_nowait(None)
        try:
            yield queue
        finally:
            self._listeners.remove(queue.put_nowait)

    async def last_events(self) -> list[Event]:
        """All events of a VMM that is gone: what it had sent is read to the end first."""
        await self._ended.wait()
        return list(self.events)

    def last_words(self) -> str:
        """What the VMM has written to its standard error since the last call."""
        if self._said < 0:
            return ""
        try:
            return os.read(self._said, SAID_MAX_BYTES).decode(errors="replace").strip()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._said >= 0:
            os.close(self._said)
            self._said = -1


def _version(message: Message) -> str:
    try:
        version = message["QMP"]["version"]["qemu"]
        return f"{version['major']}.{version['minor']}.{version['micro']}"
    except (KeyError, TypeError) as err:
        raise ProtocolError("QEMU's greeting names no version") from err


async def attach(sock: socket.socket, said: int = -1) -> Link:
    """A link on a connected, non-blocking socket; takes it over, and `said`, the read end of the VMM's output."""
    link = Link(said)
    _, link = await asyncio.get_running_loop().create_connection(lambda: link, sock=sock)
    link._sock = sock.dup()  # asyncio's transport cannot send descriptors
    return link
