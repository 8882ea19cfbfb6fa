"""The endpoint in reality: streams, WebSockets, HTTP/2, large and many requests, tokens; real apps in real guests."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.exceptions
import websockets.sync.client

from rekindle.clock import wall_ms
from rekindle.core.token import Claims
from rekindle.identity.keys import ensure_token_key
from rekindle.seal import seal
from tests.e2e.cloud import Cloud, Vm
from tests.waiting import until

BIG_BYTES = 20 << 20
APP, SOCKETS = 8081, 8082
PORT = "X-aws-proxy-port"
AUTH = "X-aws-proxy-auth"
#: Two servers more in the guest: HTTP with streams on 8081, a WebSocket echo on 8082.
SERVERS = r"""
import base64, hashlib, http.server, random, socketserver, struct, threading
gate = threading.Semaphore(0)
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def chunk(self, data):
        self.wfile.write(b'%x\r\n%s\r\n' % (len(data), data))
    def whole(self, body):
        self.send_response(200); self.send_header('content-length', str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == '/big':
            return self.whole(random.Random(20).randbytes(20 << 20))
        if self.path != '/events':
            return self.whole(self.path.encode())
        self.send_response(200)
        self.send_header('content-type', 'text/event-stream'); self.send_header('transfer-encoding', 'chunked')
        self.end_headers()
        for number in range(3):
            self.chunk(b'data: %d\n\n' % number)
            if not gate.acquire(timeout=20):
                break
        self.chunk(b'')
    def do_POST(self):
        left, digest = int(self.headers['content-length']), hashlib.sha256()
        while left:
            data = self.rfile.read(min(left, 65536)); digest.update(data); left -= len(data)
        self.whole(digest.hexdigest().encode())
class Socket(socketserver.StreamRequestHandler):
    def frame(self, kind, data):
        size = bytes([len(data)]) if len(data) < 126 else struct.pack('>BH', 126, len(data))
        self.wfile.write(bytes([0x80 | kind]) + size + data)
    def read_frame(self):
        kind, length = self.rfile.read(2)
        length &= 127
        if length == 126:
            length, = struct.unpack('>H', self.rfile.read(2))
        mask, data = self.rfile.read(4), bytearray(self.rfile.read(length))
        for at in range(length):
            data[at] ^= mask[at % 4]
        return kind & 15, bytes(data)
    def handle(self):
        headers = {}
        self.rfile.readline()
        while line := self.rfile.readline().strip():
            name, _, value = line.decode().partition(':')
            headers[name.lower()] = value.strip()
        guid = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
        accept = base64.b64encode(hashlib.sha1(headers['sec-websocket-key'].encode() + guid).digest()).decode()
        offered = headers.get('sec-websocket-protocol', '')
        chosen = 'sec-websocket-protocol: chat\r\n' if 'chat' in offered else ''
        self.wfile.write(('HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n'
                          f'sec-websocket-accept: {accept}\r\n{chosen}\r\n').encode())
        self.frame(1, ('offered: ' + offered).encode())
        while True:
            kind, data = self.read_frame()
            if kind == 8:
                return self.frame(8, data)
            self.frame(kind, data)
for port, handler in ((8081, App), (8082, Socket)):
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer(('0.0.0.0', port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
"""


@pytest.fixture(scope="module")
def served(cloud: Cloud, image: str) -> Iterator[Vm]:
    """One VM with the servers; its token is good for their ports and the interpreter's."""
    vm = cloud.run(image)
    vm.headers = vm.token(8080, APP, SOCKETS)
    vm.snippet(SERVERS)
    yield vm
    vm.terminate()


@pytest.fixture
def own_served(launch: Callable[..., Vm]) -> Vm:
    vm = launch()
    vm.headers = vm.token(8080, APP, SOCKETS)
    vm.snippet(SERVERS)
    return vm


def tls_of(vm: Vm) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=vm.cloud.env()["REKINDLE_CA"])


def websocket(
    vm: Vm, headers: dict[str, str], path: str = "/chat", **options: Any
) -> websockets.sync.client.ClientConnection:
    made = websockets.sync.client.connect(
        f"wss://{vm.endpoint}{path}", ssl=tls_of(vm), additional_headers=headers, proxy=None, **options
    )
    assert isinstance(made, websockets.sync.client.ClientConnection)
    return made


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_events_arrive_one_by_one(served: Vm) -> None:
    """The second event is released only after the first was read: a proxy that collects would never get it."""
    with served.http() as session, session.stream("GET", "/events", headers={PORT: str(APP)}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        parts = response.iter_text()
        for number in range(3):
            assert next(parts) == f"data: {number}\n\n"
            served.snippet("gate.release()")
        assert "".join(parts) == ""


def test_large_bodies_are_whole_both_ways(served: Vm) -> None:
    data = random.Random(20).randbytes(BIG_BYTES)
    with served.http(**{PORT: str(APP)}) as session:
        assert session.get("/big").content == data
        assert session.post("/", content=data).text == hashlib.sha256(data).hexdigest()


def test_fifty_requests_at_once(served: Vm) -> None:
    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(
            base_url=f"https://{served.endpoint}",
            verify=tls_of(served),
            headers=served.headers | {PORT: str(APP)},
            limits=limits,
            timeout=60,
            trust_env=False,
        ) as session:
            answers = await asyncio.gather(*(session.get(f"/{number}") for number in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        return [answer.text for answer in answers]

    assert asyncio.run(all_of_them()) == [f"/{number}" for number in range(50)]


def test_http2_speaks_to_an_http1_app(served: Vm, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None or "HTTP2" not in subprocess.run([curl, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("this machine's curl has no HTTP/2")
    data = random.Random(2).randbytes(1 << 20)
    (tmp_path / "data").write_bytes(data)
    base = f"https://{served.endpoint}"
    common = ["-sS", "--http2", "--noproxy", "*", "--cacert", served.cloud.env()["REKINDLE_CA"]]
    for name, value in (served.headers | {PORT: str(APP)}).items():
        common += ["-H", f"{name}: {value}"]
    gets = [*common, "-w", " %{http_version} %{num_connects}\n", f"{base}/one", f"{base}/two"]
    post = [*common, "-w", " %{http_version}\n", "--data-binary", f"@{tmp_path / 'data'}", f"{base}/"]
    done = subprocess.run([curl, *gets, "--next", *post], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["/one 2 1", "/two 2 0", f"{hashlib.sha256(data).hexdigest()} 2"]


# -- WebSockets --------------------------------------------------------------------------------------------------------


def test_a_websocket_echoes(served: Vm) -> None:
    with websocket(served, served.headers | {PORT: str(SOCKETS)}) as chat:
        assert chat.recv(10) == "offered: "
        chat.send("hello")
        assert chat.recv(10) == "hello"
        blob = random.Random(1).randbytes(60_000)
        chat.send(blob)
        assert chat.recv(10) == blob


def test_a_browser_puts_its_token_into_the_subprotocols(served: Vm) -> None:
    ours = [
        "lambda-microvms",
        f"lambda-microvms.authentication.{served.headers[AUTH]}",
        f"lambda-microvms.port.{SOCKETS}",
    ]
    with websocket(served, {}, subprotocols=[*ours, "chat"]) as chat:
        assert chat.recv(10) == "offered: chat"
        assert chat.subprotocol == "chat"
    with websocket(served, {}, subprotocols=ours) as chat:
        assert chat.recv(10) == "offered: "
        assert chat.subprotocol == "lambda-microvms"


def test_a_websocket_without_a_token_is_refused(served: Vm) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        websocket(served, {PORT: str(SOCKETS)})
    assert refused.value.response.status_code == 403


# -- sleep -------------------------------------------------------------------------------------------------------------


def test_a_clients_connection_outlives_the_sleep(own_served: Vm) -> None:
    with own_served.http(**{PORT: str(APP)}) as session:
        before = session.get("/before").extensions["network_stream"].get_extra_info("client_addr")
        own_served.suspend()
        answer = session.get("/after")
        assert answer.text == "/after"
        assert answer.extensions["network_stream"].get_extra_info("client_addr") == before


def test_an_open_websocket_and_an_open_stream_end_with_the_sleep(own_served: Vm) -> None:
    with (
        websocket(own_served, own_served.headers | {PORT: str(SOCKETS)}) as chat,
        own_served.http() as session,
        session.stream("GET", "/events", headers={PORT: str(APP)}) as response,
    ):
        assert chat.recv(10) == "offered: "
        parts = response.iter_text()
        assert next(parts) == "data: 0\n\n"
        own_served.suspend()
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            chat.recv(10)
        with pytest.raises(httpx.HTTPError):
            next(parts)
    with websocket(own_served, own_served.headers | {PORT: str(SOCKETS)}) as chat:
        assert chat.recv(10) == "offered: "


def test_a_page_left_open_lets_its_vm_sleep_and_is_still_there_after_it(own_served: Vm) -> None:
    """The rules of `tests/e2e/cloud.py`: /quiet/* is ignored, WebSockets at /parked/* are parked."""
    with (
        websocket(own_served, own_served.headers | {PORT: str(SOCKETS)}, "/parked/1") as chat,
        own_served.http(**{PORT: str(APP)}) as session,
    ):
        assert chat.recv(10) == "offered: "
        spoken_ms = own_served.cloud.relays_word(own_served.id)["last_byte_ms"]
        assert session.get("/quiet/1").text == "/quiet/1"
        assert chat.ping().wait(10)
        assert own_served.cloud.relays_word(own_served.id)["last_byte_ms"] == spoken_ms
        until(lambda: wall_ms() > spoken_ms + 1100, 10, "what was said has settled")
        own_served.suspend()
        answer = session.get("/quiet/1")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert chat.ping().wait(10)
        assert own_served.row()["state"] == "SUSPENDED"
        chat.send("good morning")
        assert chat.recv(60) == "offered: "  # what this app says to every new connection
        assert chat.recv(10) == "good morning"
        assert session.get("/quiet/1").text == "/quiet/1"


def test_all_requests_that_wait_for_one_sleeper_are_answered(own_served: Vm) -> None:
    own_served.suspend()
    answers: list[str] = []

    def ask(number: int) -> None:
        with own_served.http(**{PORT: str(APP)}) as session:
            answers.append(session.get(f"/{number}").text)

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(answers) == sorted(f"/{number}" for number in range(20))


# -- tokens ------------------------------------------------------------------------------------------------------------


def minted(vm: Vm, **changes: Any) -> str:
    """A token sealed with the service's own key, with claims that its API would not give."""
    claims: dict[str, Any] = {
        "vm_id": vm.id,
        "generation": 1,
        "ports": ((8080, 8080),),
        "expires_at_s": wall_ms() // 1000 + 60,
    }
    return seal(ensure_token_key(vm.cloud.state / "keys/token.json"), Claims(**(claims | changes)))


def status_of(vm: Vm, token: str, **headers: str) -> tuple[int, str]:
    with httpx.Client(verify=tls_of(vm), trust_env=False, timeout=30) as session:
        answer = session.get(f"https://{vm.endpoint}/state", headers={AUTH: token} | headers)
        return answer.status_code, answer.text if answer.status_code != 200 else ""


def test_a_token_reaches_its_ports_and_no_other(served: Vm) -> None:
    token = served.token(APP, 9000)[AUTH]
    assert status_of(served, token, **{PORT: str(APP)}) == (200, "")
    assert status_of(served, token, **{PORT: "9000"})[0] != 403
    assert status_of(served, token) == (403, "Access to port denied")
    assert status_of(served, token, **{PORT: str(SOCKETS)}) == (403, "Access to port denied")


def test_tokens_are_bound_to_time_machine_and_life(served: Vm, launch: Callable[..., Vm]) -> None:
    other = launch()
    former = launch()
    old = former.token()[AUTH]
    former.terminate()
    failed = (403, "Token authentication failed")
    assert status_of(served, minted(served)) == (200, "")
    assert status_of(served, minted(served, expires_at_s=wall_ms() // 1000 - 1)) == failed
    assert status_of(served, minted(other)) == failed
    assert status_of(served, minted(served, generation=2)) == failed
    assert status_of(other, old) == failed
    with pytest.raises(httpx.ConnectError):
        status_of(former, old)


def test_a_token_that_was_tampered_with_is_none(served: Vm) -> None:
    head, key, iv, sealed, tag = minted(served).split(".")
    flipped = ("A" if sealed[0] != "A" else "B") + sealed[1:]
    assert status_of(served, ".".join((head, key, iv, flipped, tag))) == (403, "Request missing authentication")
    assert status_of(served, ".".join((head, key, iv, sealed, tag[:-4]))) == (403, "Request missing authentication")
