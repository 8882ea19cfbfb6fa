"""A code interpreter for an AI agent: snippets of Python in, results out; variables, files and threads stay.

    POST /run     body: Python source -> {"stdout", "result", "error", "took_ms"}
    GET  /state   what this machine is and what it remembers

There is no database and no session id: the microVM *is* the session. Its memory holds the variables, and Rekindle
freezes and thaws that memory. Only the standard library is used.
"""

import ast
import contextlib
import io
import json
import linecache
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

APP_PORT = int(os.environ.get("APP_PORT", "8080"))
HOOK_PORT = int(os.environ.get("HOOK_PORT", "9000"))
RUN_LIMIT_S = float(os.environ.get("RUN_LIMIT_S", "30"))
HOOKS = "/aws/lambda-microvms/runtime/v1/"
MAX_SOURCE_BYTES = 1 << 20
MAX_OUTPUT_CHARS = 1 << 20
TICK_S = 0.25


class TimeIsUp(BaseException):
    """Not an Exception: a snippet's own `except Exception` must not swallow it."""


class Interpreter:
    """One namespace for all snippets. They run one at a time in the main thread, where a signal can stop them."""

    def __init__(self) -> None:
        self.variables: dict = {"__name__": "__main__"}
        self.count = 0
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()

    def run(self, source: str) -> dict:
        """Called by any other thread: run `source`, return when it is done."""
        done: Future = Future()
        self._waiting.put((source, done))
        return done.result()

    def serve(self) -> None:
        """The main thread's life."""
        signal.signal(signal.SIGALRM, _time_is_up)
        while True:
            source, done = self._waiting.get()
            done.set_result(self._run(source))

    def _run(self, source: str) -> dict:
        self.count += 1
        started, output, result, error = time.monotonic(), io.StringIO(), None, None
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                signal.setitimer(signal.ITIMER_REAL, RUN_LIMIT_S)
                try:
                    result = self._evaluate(source, f"<snippet {self.count}>")
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException:  # exit(), Ctrl-C, TimeIsUp: whatever a snippet raises ends the snippet, never the session
            error = _traceback()
        took_ms = round((time.monotonic() - started) * 1000, 1)
        return {"stdout": output.getvalue()[:MAX_OUTPUT_CHARS], "result": result, "error": error, "took_ms": took_ms}

    def _evaluate(self, source: str, name: str) -> str | None:
        """Run all statements; the value of a last expression is the result, as in a notebook."""
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for tracebacks
        tree = ast.parse(source, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), self.variables)
        if last is None:
            return None
        value = eval(compile(ast.Expression(last.value), name, "eval"), self.variables)
        return None if value is None else repr(value)[:MAX_OUTPUT_CHARS]


def _time_is_up(*_: object) -> None:
    raise TimeIsUp(f"stopped after {RUN_LIMIT_S:g} s")


def _traceback() -> str:
    """The snippet's part of the traceback: our own frames say nothing to the caller."""
    kind, error, trace = sys.exc_info()
    while trace and not trace.tb_frame.f_code.co_filename.startswith("<snippet"):
        trace = trace.tb_next
    return "".join(traceback.format_exception(kind, error, trace))


class Session:
    """What a freeze and a thaw must keep: an open file, a running thread, what the hooks said."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.journal = Path("journal.txt").open("a+")  # noqa: SIM115 - held open for the whole life of the microVM
        self.ticks = 0
        self.hooks: dict = {}
        self.run_body: dict | None = None
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_S)
            self.ticks += 1

    def run(self, source: str) -> dict:
        answer = self.interpreter.run(source)
        print(f"snippet {self.interpreter.count}: {answer['took_ms']} ms", file=self.journal, flush=True)
        return answer

    def state(self) -> dict:
        variables = dict(self.interpreter.variables)  # a copy: a snippet may be running
        system = os.uname()
        return {
            "variables": {name: _short(value) for name, value in variables.items() if not name.startswith("__")},
            "snippets": self.interpreter.count,
            "open_file": {"name": self.journal.name, "fd": self.journal.fileno(), "position": self.journal.tell()},
            "ticks": self.ticks,
            "hooks": self.hooks,
            "run": self.run_body,
            "pid": os.getpid(),
            "kernel": system.release,
            "kernel_build": system.version,
            "hostname": system.nodename,
            "boot_id": _first_line("/proc/sys/kernel/random/boot_id"),
            "machine_id": _first_line("/etc/machine-id"),
            "random": os.urandom(16).hex(),
            "python_random": f"{random.getrandbits(64):016x}",
            "now": time.time(),
        }

    def hook(self, name: str, body: bytes) -> int:
        """Answer a lifecycle hook with an HTTP status; anything but 200 tells Rekindle that we are not ready for it."""
        if name not in ("ready", "validate", "run", "resume", "suspend", "terminate"):
            return 404
        self.hooks[name] = self.hooks.get(name, 0) + 1
        if name in ("ready", "validate"):  # also warms the interpreter up: what it touches now is in the snapshot
            return 200 if self.interpreter.run("6 * 7")["result"] == "42" else 503
        if name == "run":
            self.run_body = json.loads(body)  # {"microvmId", "runHookPayload"}: the only way to learn one's own id
        if name in ("run", "resume"):
            random.seed()  # from the kernel's generator, which Rekindle has just reseeded; clones would agree otherwise
        if name in ("suspend", "terminate"):
            os.fsync(self.journal.fileno())
        return 200


def _short(value: object) -> str:
    try:
        return repr(value)[:200]
    except Exception as error:  # a __repr__ of a snippet's own class
        return f"<{type(value).__name__}: {error}>"


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except FileNotFoundError:
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    session: Session

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # a thaw cuts the connections that were open at the freeze
            super().handle()

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def log_message(self, form: str, *values: object) -> None:
        print(form % values, file=sys.__stderr__)  # sys.stderr may belong to a snippet at this moment


class App(Handler):
    def do_GET(self) -> None:
        if self.path in ("/", "/state"):
            self.answer(200, self.session.state())
        else:
            self.answer(404, {"error": "try GET /state or POST /run"})

    def do_POST(self) -> None:
        if self.path != "/run":
            self.answer(404, {"error": "try GET /state or POST /run"})
        elif int(self.headers.get("content-length") or 0) > MAX_SOURCE_BYTES:
            self.close_connection = True  # the body stays unread
            self.answer(413, {"error": f"a snippet may have {MAX_SOURCE_BYTES} bytes"})
        else:
            self.answer(200, self.session.run(self.body().decode()))


class Hooks(Handler):
    def do_POST(self) -> None:
        body = self.body()
        known = self.path.startswith(HOOKS)
        status = self.session.hook(self.path.removeprefix(HOOKS), body) if known else 404
        self.answer(status, {})


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # PID 1 has no default action
    interpreter = Interpreter()
    Handler.session = Session(interpreter)
    for port, handler in ((APP_PORT, App), (HOOK_PORT, Hooks)):
        server = ThreadingHTTPServer(("0.0.0.0", port), handler)
        print(f"listening on {server.server_port}", file=sys.__stderr__, flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    interpreter.serve()


if __name__ == "__main__":
    main()
