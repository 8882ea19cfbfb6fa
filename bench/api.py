"""What a call of the API costs: GetMicrovm and a list of 500 microVMs, signed, judged by a policy, from the store.

python -m bench.api [--calls N]

The server is a process of its own, as in production (uvicorn, uvloop, real store, no machines behind it), the client
sends requests that it has signed before the clock starts. A bare Starlette answer is measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvloop
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.figures import median, p95
from rekindle import servers
from rekindle.api import authorize, codec, operations
from rekindle.api.app import Api, make_app
from rekindle.api.context import Raw, Tools
from rekindle.clock import wall_ms
from rekindle.config import Config
from rekindle.store.db import Store
from tests.api.wire import RecordingEngine
from tests.store.rows import ACCOUNT, REGION, HandClock, built_image, vm_row

VMS = 500
PAGE = 50
KEY = ("AKIAAAAAAAAAAAAAAAAA", "a-secret-of-forty-characters-and-no-more")
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "lambda:*", "Resource": "*"},
            {"Effect": "Deny", "Action": "lambda:*", "Resource": f"arn:aws:lambda:{REGION}:*:microvm-image:secret-*"},
        ],
    }
)


# --- the server


async def open_store(folder: Path) -> tuple[Store, list[str]]:
    """A store with one restricted key, an image, and VMS microVMs; their ids."""
    store = await Store.open(folder / "rekindle.db", wall_ms)
    await store.add_account(ACCOUNT, "bench")
    await store.add_access_key(*KEY, ACCOUNT, "bench", POLICY)
    await built_image(store)
    clock, ports = HandClock(wall_ms()), range(20000, 20000 + VMS)
    vms = [await store.run_microvm(vm_row(clock), ports, client_token=None, token_digest="") for _ in range(VMS)]
    return store, [vm.id for vm in vms]


async def bare(_: Request) -> Response:
    return JSONResponse({"microvmId": "microvm", "state": "RUNNING", "n": 1})


async def serve(folder: Path) -> None:
    """Say two ports and the ids in one line, then serve until SIGTERM."""
    store, ids = await open_store(folder)
    config = Config(state=folder, tools_dir=folder)
    apps = [make_app(store, RecordingEngine(), config, wall_ms), Starlette(routes=[Route("/bare", bare)])]
    sockets = [servers.bind("127.0.0.1:0", "the bench") for _ in apps]
    running = [servers.server(app) for app in apps]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, _stop, running)
    async with asyncio.TaskGroup() as own:
        for server, sock in zip(running, sockets, strict=True):
            own.create_task(server.serve([sock]))
        print(json.dumps({"ports": [sock.getsockname()[1] for sock in sockets], "ids": ids}), flush=True)
    await store.close()


def _stop(running: list[servers.Server]) -> None:
    for server in running:
        server.stop()


# --- the client


def signed(port: int, path: str, query: str = "") -> bytes:
    url = f"http://127.0.0.1:{port}{path}" + (f"?{query}" if query else "")
    request = AWSRequest("GET", url)
    SigV4Auth(Credentials(*KEY), "lambda", REGION).add_auth(request)
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    target = path + (f"?{query}" if query else "")
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode()


class Connection:
    """One keep-alive connection with one call at a time on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = b""

    def send(self, request: bytes) -> None:
        self._got = b""
        self.sent_s = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The body when it is whole, else None; call again when there is more to read."""
        self._got += self.socket.recv(1 << 20)
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise AssertionError(self._got[:500])
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return body if len(body) >= int(length[15:]) else None


def one_connection(port: int, request: Callable[[], bytes], calls: int) -> list[float]:
    """Milliseconds of each call, one after the other."""
    connection, ms = Connection(port), []
    for _ in range(calls):
        connection.send(request())
        while connection.receive() is None:
            pass
        ms.append(1000 * (time.perf_counter() - connection.sent_s))
    connection.socket.close()
    return ms


def many_connections(port: int, request: Callable[[], bytes], calls: int, connections: int = 32) -> float:
    """Calls a second."""
    with selectors.DefaultSelector() as ready, ExitStack() as stack:
        begun_s, left = time.perf_counter(), calls
        for _ in range(connections):
            connection = Connection(port)
            stack.enter_context(connection.socket)
            ready.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(request())
        while left > 0:
            for key, _ in ready.select():
                if key.data.receive() is not None:
                    left -= 1
                    key.data.send(request())
        return calls / (time.perf_counter() - begun_s)


def every_page(port: int) -> float:
    """Milliseconds for VMS microVMs in pages of PAGE, signing between the pages not counted."""
    connection, spent_s, token, seen = Connection(port), 0.0, "", 0
    while True:
        query = f"maxResults={PAGE}" + (f"&nextToken={token.replace('=', '%3D')}" if token else "")
        call = signed(port, "/2025-09-09/microvms", query)
        connection.send(call)
        while (body := connection.receive()) is None:
            pass
        spent_s += time.perf_counter() - connection.sent_s
        page = json.loads(body)
        seen, token = seen + len(page["items"]), page["nextToken"]
        if not token:
            connection.socket.close()
            if seen != VMS:
                raise AssertionError(f"{seen} of {VMS} microVMs were listed")
            return 1000 * spent_s


# --- where the time goes


async def steps(folder: Path, calls: int) -> dict[str, float]:
    """Microseconds of each step of one GetMicrovm, without HTTP: medians."""
    folder.mkdir()
    store, ids = await open_store(folder)
    api = Api(
        Tools(
            store=store,
            engine=RecordingEngine(),
            config=Config(state=folder, tools_dir=folder),
            clock=wall_ms,
            host_cpus=2,
        )
    )
    raw = _raw(signed(7070, f"/2025-09-09/microvms/{ids[0]}"))
    series: dict[str, list[float]] = {}
    for _ in range(calls):
        at = [time.perf_counter()]
        signed_by = await api.sign(raw)
        at.append(time.perf_counter())
        routed = api.route(signed_by)
        at.append(time.perf_counter())
        parsed = api.parse(routed)
        at.append(time.perf_counter())
        await authorize.authorize(api.tools, parsed)
        at.append(time.perf_counter())
        result = await operations.find(parsed.operation)(api.tools, parsed)
        at.append(time.perf_counter())
        codec.answer(parsed.operation.model, result)
        at.append(time.perf_counter())
        names = ("signature and key", "route", "parse and validate", "policy", "row and projection", "JSON")
        for name, before, after in zip(names, at, at[1:], strict=False):
            series.setdefault(name, []).append(1e6 * (after - before))
    await store.close()
    return {name: median(us) for name, us in series.items()}


def _raw(request: bytes) -> Raw:
    head, *lines = request.decode().split("\r\n")
    headers = tuple((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines if line))
    return Raw("0", "GET", head.split(" ")[1], "", headers, b"")


# --- the run


def measure(ports: list[int], ids: list[str], calls: int) -> None:
    api, plain = ports
    get = signed(api, f"/2025-09-09/microvms/{ids[0]}")
    nothing = f"GET /bare HTTP/1.1\r\nHost: 127.0.0.1:{plain}\r\n\r\n".encode()
    for port, request in ((api, get), (plain, nothing)):
        one_connection(port, lambda request=request: request, calls // 10)  # type: ignore[misc]
    single, reference = one_connection(api, lambda: get, calls), one_connection(plain, lambda: nothing, calls)
    rate, bare_rate = many_connections(api, lambda: get, calls), many_connections(plain, lambda: nothing, calls)
    pages = [every_page(api) for _ in range(10)]
    print(f"| one connection, {calls} calls | p50 ms | p95 ms | calls/s |\n|---|--:|--:|--:|")
    for name, ms in (("GetMicrovm", single), ("bare Starlette answer", reference)):
        print(f"| {name} | {median(ms):.2f} | {p95(ms):.2f} | {1000 * len(ms) / sum(ms):.0f} |")
    print(f"| ratio | {median(single) / median(reference):.1f} | | |")
    print(f"\n32 connections: GetMicrovm {rate:.0f} calls/s, bare {bare_rate:.0f} calls/s")
    listed = median(pages)
    print(f"{VMS} microVMs in pages of {PAGE}: {listed:.1f} ms, {listed * PAGE / VMS:.2f} a page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        uvloop.run(serve(asked.serve))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "bench.api", "--serve", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            said = json.loads(server.stdout.readline())
            try:
                measure(said["ports"], said["ids"], asked.calls)
            finally:
                server.terminate()
        spent = asyncio.run(steps(folder / "steps", asked.calls))
        print("\n| step of GetMicrovm | µs |\n|---|--:|")
        for name, us in spent.items():
            print(f"| {name} | {us:.0f} |")


if __name__ == "__main__":
    main()
