"""The soak's guest: a buffer in memory and a file on the disk, both rewritten step by step from a seed.

What stands where after which step is fixed by the seed alone, so a host that knows the seed knows every byte
(bench/walk.py says it in its own words; bench/guests/static-walker in Go's). Standard library only. Runs in two ways:
as a server (`walker.py serve`), whose child processes do the writing, in memory that they share with it; or sent to
the example interpreter as a snippet, which then holds a `Walker`.

    POST /begin?seed=S    ->  {"counter", "memory", "disk"}: how many steps were made, and SHA-256 of buffer and file
    POST /step?to=N       the step to N is made if N-1 were made, else nothing; the answer is the same as above
    GET  /state
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

PAGE = 4096
PIECE = 1 << 20


class Plan(NamedTuple):
    """Pages at the beginning, pages that each step adds, the most there may be, pages rewritten by each step."""

    kind: str
    first: int
    more: int
    most: int
    touched: int

    def size(self, step: int) -> int:
        return min(self.first + step * self.more, self.most)

    def written(self, seed: str, step: int) -> set[int]:
        if step == 0:
            return set(range(self.first))
        size = self.size(step)
        picked = {self._pick(seed, step, number) % size for number in range(self.touched)}
        return picked | set(range(self.size(step - 1), size))

    def _pick(self, seed: str, step: int, number: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}/{self.kind}/{step}/pick/{number}".encode()).digest()[:8], "big")

    def page(self, seed: str, step: int, number: int) -> bytes:
        return hashlib.sha256(f"{seed}/{self.kind}/{step}/{number}".encode()).digest() * (PAGE // 32)


MEMORY = Plan("memory", 1024, 32, 2048, 64)
DISK = Plan("disk", 256, 16, 768, 16)


class Walker:
    """One buffer, one file. `fork`: every step is made by a child process."""

    def __init__(self, seed: str, path: str = "walk", *, fork: bool = False) -> None:
        self._seed = seed
        self._fork = fork
        self._lock = threading.Lock()
        self._memory: mmap.mmap | bytearray = mmap.mmap(-1, MEMORY.most * PAGE) if fork else bytearray()
        self._disk = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._write(0)
        self._counter = 0

    def step(self, to: int) -> dict[str, object]:
        with self._lock:
            if to == self._counter + 1:
                self._in_a_child(to) if self._fork else self._write(to)
                self._counter = to
            return self._sums()

    def state(self) -> dict[str, object]:
        with self._lock:
            return self._sums()

    def _in_a_child(self, step: int) -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self._write(step)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise RuntimeError(f"the child that made step {step} ended with {status}")

    def _write(self, step: int) -> None:
        if isinstance(self._memory, bytearray):
            self._memory.extend(bytes(MEMORY.size(step) * PAGE - len(self._memory)))
        for page in MEMORY.written(self._seed, step):
            self._memory[page * PAGE : (page + 1) * PAGE] = MEMORY.page(self._seed, step, page)
        for page in DISK.written(self._seed, step):
            os.pwrite(self._disk, DISK.page(self._seed, step, page), page * PAGE)
        os.fsync(self._disk)

    def _sums(self) -> dict[str, object]:
        memory = hashlib.sha256(memoryview(self._memory)[: MEMORY.size(self._counter) * PAGE]).hexdigest()
        return {"counter": self._counter, "memory": memory, "disk": self._disk_sum()}

    def _disk_sum(self) -> str:
        """Of what the disk has, not of the page cache, which is memory."""
        os.posix_fadvise(self._disk, 0, 0, os.POSIX_FADV_DONTNEED)
        digest, at = hashlib.sha256(), 0
        while piece := os.pread(self._disk, PIECE, at):
            digest.update(piece)
            at += len(piece)
        return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    walker: Walker | None = None
    beginning = threading.Lock()

    def do_GET(self) -> None:
        self._answer(None if Handler.walker is None else Handler.walker.state())

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/begin":
            with Handler.beginning:
                Handler.walker = Handler.walker or Walker(query["seed"], fork=True)
        if url.path == "/step" and Handler.walker is not None:
            self._answer(Handler.walker.step(int(query["to"])))
        elif url.path.startswith("/aws/"):
            self._answer({})
        else:
            self.do_GET()

    def _answer(self, value: dict[str, object] | None) -> None:
        body = json.dumps(value or {"error": "not begun"}).encode()
        self.send_response(409 if value is None else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if sys.argv[1:] == ["serve"]:
    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
