"""The world outside of the guests, for tests: TCP servers and a DNS server of this process.

Guests reach a server by a *stand-in*: an address that a test configuration declares public
(`egress.public_test_addresses`, "198.51.100.7:80=127.0.0.1:PORT"), because a guest's own loopback never leaves it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import queue
import random
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STAND_IN = "198.51.100.7"
STAND_IN_6 = "2001:db8::7"
BIG_BYTES = 20 << 20
WEB, COUNT, HOLD, CLOSED = 80, 81, 82, 83  # ports of the stand-in
TYPE_A, TYPE_AAAA = 1, 28
FLAGS_ANSWER, FLAG_TRUNCATED, CODE_NO_NAME = 0x8180, 0x0200, 3


class Names:
    """A zone: each name has a list of answers; the last one is repeated (an earlier one is given once: rebinding)."""

    def __init__(self, answers: Mapping[str, list[list[str]]]) -> None:
        self._answers = {name: list(turns) for name, turns in answers.items()}
        self._asked: dict[tuple[str, int], int] = {}

    def reply(self, question: bytes, *, limit: int) -> bytes:
        """The answer to a message with one question; cut and marked when it is longer than `limit` bytes."""
        name, end = _read_name(question, 12)
        kind = struct.unpack_from(">H", question, end)[0]
        body = question[12 : end + 4]
        if name not in self._answers:
            return question[:2] + struct.pack(">HHHHH", FLAGS_ANSWER | CODE_NO_NAME, 1, 0, 0, 0) + body
        records = [_record(address) for address in self._turn(name, kind) if _kind(address) == kind]
        answer = question[:2] + struct.pack(">HHHHH", FLAGS_ANSWER, 1, len(records), 0, 0) + body + b"".join(records)
        if len(answer) > limit:
            return question[:2] + struct.pack(">HHHHH", FLAGS_ANSWER | FLAG_TRUNCATED, 1, 0, 0, 0) + body
        return answer

    def _turn(self, name: str, kind: int) -> list[str]:
        turns = self._answers[name]
        asked = self._asked.get((name, kind), 0)
        self._asked[name, kind] = asked + 1
        return turns[min(asked, len(turns) - 1)]


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def _kind(address: str) -> int:
    return TYPE_A if ipaddress.ip_address(address).version == 4 else TYPE_AAAA


def _record(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return struct.pack(">HHHIH", 0xC00C, _kind(address), 1, 0, len(packed)) + packed


@contextmanager
def dns_server(names: Names) -> Iterator[str]:
    """`names` over UDP and TCP on one loopback port, as "address:port"."""

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question, reply_to = self.request
            reply_to.sendto(names.reply(question, limit=512), self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = struct.unpack(">H", self.rfile.read(2))[0]
            answer = names.reply(self.rfile.read(length), limit=65535)
            self.wfile.write(struct.pack(">H", len(answer)) + answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Stream) as tcp:
        port = tcp.server_address[1]
        with socketserver.UDPServer(("127.0.0.1", port), Datagram) as udp, _served(tcp), _served(udp):
            yield f"127.0.0.1:{port}"


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@dataclass
class Outside:
    """The servers that guests reach by the stand-in, and what they saw."""

    web_port: int  #: of *every* address of this machine: it answers whoever is let through
    stand_ins: list[str]
    resolver: str
    ends: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)  #: how held connections ended

    def settings(self) -> str:
        """TOML that lets guests reach these servers and nothing else of this machine."""
        return f'[egress]\npublic_test_addresses = {self.stand_ins}\nresolvers = ["{self.resolver}"]'


def big() -> bytes:
    """The same 20 MB each time."""
    return random.Random(20).randbytes(BIG_BYTES)


@contextmanager
def outside(answers: Mapping[str, list[list[str]]]) -> Iterator[Outside]:
    """All servers of the outside, until the end of the block."""
    ends: queue.SimpleQueue[str] = queue.SimpleQueue()
    with ExitStack() as stack:
        web = stack.enter_context(_tcp(_web, everywhere=True))
        count = stack.enter_context(_tcp(_count))
        hold = stack.enter_context(_tcp(lambda conn: ends.put(_hold(conn))))
        closed = _closed_port()
        resolver = stack.enter_context(dns_server(Names(answers)))
        pairs = {WEB: web, COUNT: count, HOLD: hold, CLOSED: closed}
        stand_ins = [f"{STAND_IN}:{port}=127.0.0.1:{real}" for port, real in pairs.items()]
        stand_ins.append(f"[{STAND_IN_6}]:{WEB}=127.0.0.1:{web}")
        yield Outside(web, stand_ins, resolver, ends)


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


class _DualServer(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


@contextmanager
def _tcp(serve: Callable[[socket.socket], None], *, everywhere: bool = False) -> Iterator[int]:
    """A server whose connections are handled by `serve`; on loopback, or on every address of this machine."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(60)
            serve(self.request)

    kind, address = _Server, "127.0.0.1"
    if everywhere:
        kind, address = (_DualServer, "::") if socket.has_dualstack_ipv6() else (_Server, "0.0.0.0")
    with kind((address, 0), Handler) as server, _served(server):
        yield server.server_address[1]


def _web(conn: socket.socket) -> None:
    """HTTP/1.0: GET / says hello, GET /big is 20 MB, POST answers the SHA-256 of its body."""
    with conn.makefile("rb") as reader:
        head = [reader.readline()]
        while (line := reader.readline()).strip():
            head.append(line)
        length = next((int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length:")), 0)
        body = b"hello from outside"
        if head[0].startswith(b"POST"):
            body = hashlib.sha256(reader.read(length)).hexdigest().encode()
        elif head[0].startswith(b"GET /big"):
            body = big()
    conn.sendall(b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def _count(conn: socket.socket) -> None:
    """Ends its own direction at once after a greeting, reads to the end of the other, and says nothing more; a
    connection that begins with `c` is answered with the number of its bytes after its end instead."""
    first = conn.recv(1)
    if first != b"c":
        conn.sendall(b"greeting")
        conn.shutdown(socket.SHUT_WR)
    total = len(first)
    while data := conn.recv(65536):
        total += len(data)
    if first == b"c":
        conn.sendall(str(total).encode())


def _hold(conn: socket.socket) -> str:
    """Greets and waits for the end of the connection; says what kind of end it was."""
    conn.sendall(b"held")
    try:
        while conn.recv(65536):
            pass
    except OSError as err:
        return type(err).__name__
    return "closed"


def host_addresses() -> list[str]:
    """Every unicast address of this machine that accepts connections, as the kernel tells them."""
    found = {"127.0.0.2"}
    lines = Path("/proc/net/fib_trie").read_text().split("\n")
    for line, following in itertools.pairwise(lines):
        if "|--" in line and "/32 host LOCAL" in following:
            found.add(line.split("|--")[1].strip())
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        found.add(str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))))
    return sorted(found)
