"""A page of JupyterLab as its server sees it: what JupyterLab 4.6 sends by itself and at a cell, read from its sources.

Its polls go on at their interval whatever they are answered; the real page doubles its pauses after failures.
"""

from __future__ import annotations

import itertools
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import websockets.exceptions
import websockets.sync.client

from rekindle.clock import wall_ms
from tests.e2e.cloud import Vm
from tests.waiting import until

Socket = websockets.sync.client.ClientConnection
NOTEBOOK = "work.ipynb"
KERNEL_PROTOCOL = "v1.kernel.websocket.jupyter.org"
#: Seconds between two polls (packages/services, filebrowser, workspaces): path, query.
POLLS = (
    (10, "/api/kernels", ""),
    (10, "/api/sessions", ""),
    (10, "/api/terminals", ""),
    (10, "/api/contents", "content=1&hash=0&"),
    (10, "/lab/api/workspaces", ""),
    (61, "/api/kernelspecs", ""),
    (61, "/api/me", ""),
)
ANSWER_S = 120


@dataclass
class Page:
    """One page with one notebook and one terminal. Made by `opened`."""

    vm: Vm
    http: httpx.Client
    kernel: Socket
    events: Socket
    terminal: Socket
    session_id: str
    closed: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[int, str, int]] = field(default_factory=list)  #: of the polls: wall clock, path, status
    told: list[str] = field(default_factory=list)  #: what ended a WebSocket or a poll by itself
    dirty: bool = False

    def execute(self, code: str) -> str:
        """Run a cell; returns the text of its result or what it printed. The notebook is changed by it."""
        asked = _message("execute_request", self.session_id, _cell(code))
        self.kernel.send(_packed("shell", asked))
        self.dirty = True
        result = ""
        for message in self._replies(asked["header"]["msg_id"]):
            content = message["content"]
            match message["header"]["msg_type"]:
                case "execute_result":
                    result += content["data"]["text/plain"]
                case "stream":
                    result += content["text"]
                case "error":
                    raise AssertionError(content)
        return result

    def type_in_terminal(self, line: str, wanted: str) -> None:
        """Type a line and read until the terminal shows `wanted`."""
        self.terminal.send(json.dumps(["stdin", line + "\r"]))
        shown = ""
        while wanted not in shown:
            kind, *rest = json.loads(self.terminal.recv(ANSWER_S))
            shown += rest[0] if kind == "stdout" else ""

    def save(self) -> int:
        """What the timer does: look whether somebody else has changed the file, then write it."""
        path = f"/api/contents/{NOTEBOOK}"
        self.http.get(path, params={"content": 0, "hash": 1, str(wall_ms()): ""}).raise_for_status()
        written = self.http.put(path, json=_notebook()).raise_for_status()
        self.dirty = False
        return written.status_code

    def _replies(self, msg_id: str) -> Iterator[Any]:
        """Until the reply and the kernel's `idle` are both there."""
        missing = {"execute_reply", "idle"}
        while missing:
            message = _unpacked(self.kernel.recv(ANSWER_S))
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            missing -= {message["header"]["msg_type"], message["content"].get("execution_state")}
            yield message

    # -- what it does with nobody at it --------------------------------------------------------------------------------

    def left_open(self, autosave_s: int) -> list[Callable[[], None]]:
        """Everything that runs beside: each to be given a thread; all end when `closed` is set."""
        polls: list[Callable[[], None]] = [lambda one=one: self._poll(*one) for one in POLLS]  # type: ignore[misc]
        return [*polls, lambda: self._autosave(autosave_s), self._listen]

    def _poll(self, every_s: int, path: str, query: str) -> None:
        while not self.closed.wait(every_s):
            self._note(path, lambda: self.http.get(f"{path}?{query}{wall_ms()}").status_code)

    def _autosave(self, every_s: int) -> None:
        while not self.closed.wait(every_s):
            if self.dirty:
                self._note("autosave", self.save)

    def _note(self, what: str, ask: Callable[[], int]) -> None:
        try:
            self.answers.append((wall_ms(), what, ask()))
        except httpx.HTTPError as err:
            self.told.append(f"{what}: {err!r}")

    def _listen(self) -> None:
        """The events' WebSocket says nothing here; that it stays open is what matters."""
        try:
            while not self.closed.is_set():
                try:
                    self.events.recv(1)
                except TimeoutError:
                    continue
        except websockets.exceptions.ConnectionClosed as err:
            self.told.append(f"events: {err!r}")


@contextmanager
def opened(vm: Vm) -> Iterator[Page]:
    """Load the page, open a new notebook and a terminal in it, and leave it open."""
    with ExitStack() as stack:
        http = stack.enter_context(vm.http())
        http.timeout = httpx.Timeout(ANSWER_S)
        until(lambda: http.get("/api").status_code == 200, ANSWER_S, "Jupyter's server answers")
        http.get("/lab").raise_for_status()
        http.headers["X-XSRFToken"] = http.cookies["_xsrf"]
        settings = http.get("/lab/api/settings/@jupyterlab/docmanager-extension:plugin").raise_for_status().json()
        http.put(f"/api/contents/{NOTEBOOK}", json=_notebook()).raise_for_status()
        model = {"path": NOTEBOOK, "type": "notebook", "name": NOTEBOOK, "kernel": {"name": "python3"}}
        kernel_id = http.post("/api/sessions", json=model).raise_for_status().json()["kernel"]["id"]
        terminal = http.post("/api/terminals").raise_for_status().json()["name"]
        session_id = str(uuid.uuid4())

        def socket(path: str, *protocols: str) -> Socket:
            return stack.enter_context(_socket(vm, http, path, protocols))

        page = Page(
            vm=vm,
            http=http,
            kernel=socket(f"/api/kernels/{kernel_id}/channels?session_id={session_id}", KERNEL_PROTOCOL),
            events=socket("/api/events/subscribe"),
            terminal=socket(f"/terminals/websocket/{terminal}"),
            session_id=session_id,
        )
        page.kernel.send(_packed("shell", _message("kernel_info_request", session_id, {})))
        interval_s = settings["schema"]["properties"]["autosaveInterval"]["default"]  # of overrides.json
        autosave_s = settings["settings"].get("autosaveInterval", interval_s)
        threads = [threading.Thread(target=work) for work in page.left_open(autosave_s)]
        for thread in threads:
            thread.start()
        try:
            yield page
        finally:
            page.closed.set()
            for thread in threads:
                thread.join()


def _socket(vm: Vm, http: httpx.Client, path: str, protocols: tuple[str, ...]) -> Socket:
    """As a browser does: it answers pings and sends none; cookies and origin go with it."""
    cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    made = websockets.sync.client.connect(
        f"wss://{vm.endpoint}{path}",
        ssl=ssl.create_default_context(cafile=vm.cloud.env()["REKINDLE_CA"]),
        origin=websockets.Origin(f"https://{vm.endpoint}"),
        additional_headers=vm.headers | {"Cookie": cookies},
        subprotocols=[websockets.Subprotocol(one) for one in protocols] or None,
        ping_interval=None,
        max_size=None,
        open_timeout=ANSWER_S,
        proxy=None,
    )
    assert isinstance(made, websockets.sync.client.ClientConnection)
    return made


def _notebook() -> dict[str, Any]:
    return {
        "type": "notebook",
        "format": "json",
        "content": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
    }


def _cell(code: str) -> dict[str, Any]:
    return {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": True,
        "stop_on_error": True,
    }


def _message(kind: str, session_id: str, content: dict[str, Any]) -> dict[str, Any]:
    header = {
        "msg_id": str(uuid.uuid4()),
        "msg_type": kind,
        "session": session_id,
        "username": "",
        "version": "5.3",
        "date": "2026-01-01T00:00:00.000Z",
    }
    return {"header": header, "parent_header": {}, "metadata": {}, "content": content}


def _packed(channel: str, message: dict[str, Any]) -> bytes:
    """One message in Jupyter's binary protocol: how many offsets, the offsets, then what lies between them."""
    names = ("header", "parent_header", "metadata", "content")
    parts = [channel.encode(), *(json.dumps(message[name]).encode() for name in names)]
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return b"".join([number.to_bytes(8, "little") for number in (len(offsets), *offsets)] + parts)


def _unpacked(data: str | bytes) -> dict[str, Any]:
    assert isinstance(data, bytes)
    count = int.from_bytes(data[:8], "little")
    offsets = [int.from_bytes(data[8 * at : 8 * at + 8], "little") for at in range(1, count + 1)]
    parts = [data[start:end] for start, end in itertools.pairwise(offsets)]
    names = ("header", "parent_header", "metadata", "content")
    return {name: json.loads(part) for name, part in zip(names, parts[1:5], strict=True)}
