"""The example app as a real process on loopback: what a snippet leaves behind, and what the hooks do."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import until

APP = Path(__file__).parents[2] / "examples/interpreter/app.py"
HOOKS = "/aws/lambda-microvms/runtime/v1"
RUN_LIMIT_S = 0.3


@dataclass(frozen=True, slots=True)
class Running:
    app: httpx.Client
    hooks: httpx.Client

    def run(self, source: str) -> dict[str, Any]:
        answer = self.app.post("/run", content=source)
        assert answer.status_code == 200
        return dict(answer.json())

    def state(self) -> dict[str, Any]:
        return dict(self.app.get("/state").json())

    def hook(self, name: str, body: object = None) -> int:
        return self.hooks.post(f"{HOOKS}/{name}", json=body).status_code


@pytest.fixture
def interpreter(tmp_path: Path) -> Iterator[Running]:
    env = os.environ | {"APP_PORT": "0", "HOOK_PORT": "0", "RUN_LIMIT_S": str(RUN_LIMIT_S)}
    command = [sys.executable, "-W", "error", str(APP)]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            ports = [process.stderr.readline().removeprefix("listening on ").strip() for _ in range(2)]
            app, hooks = (httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) for port in ports)
            with app, hooks:
                yield Running(app, hooks)
            process.terminate()
            assert process.wait(5) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_snippet_builds_on_the_one_before(interpreter: Running) -> None:
    assert interpreter.run("import math\nx = 40")["error"] is None
    assert interpreter.run("print('hello')\nx + math.floor(2.5)") | {"took_ms": 0} == {
        "stdout": "hello\n",
        "result": "42",
        "error": None,
        "took_ms": 0,
    }
    assert interpreter.state()["variables"]["x"] == "40"


def test_an_error_is_the_snippets_own_traceback_and_the_session_goes_on(interpreter: Running) -> None:
    interpreter.run("def f():\n    return 1 / 0")
    error = interpreter.run("f()")["error"]
    assert error.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in error
    assert "app.py" not in error
    assert "SyntaxError" in interpreter.run("1 +")["error"]
    assert "SystemExit" in interpreter.run("exit(3)")["error"]
    assert interpreter.run("'still here'")["result"] == "'still here'"


def test_a_snippet_that_takes_too_long_is_stopped_even_when_it_catches_everything(interpreter: Running) -> None:
    source = "while True:\n    try:\n        while True: pass\n    except Exception: pass"
    assert f"TimeIsUp: stopped after {RUN_LIMIT_S:g} s" in interpreter.run(source)["error"]
    assert interpreter.run("1 + 1")["result"] == "2"


def test_snippets_sent_at_once_run_one_after_the_other(interpreter: Running) -> None:
    interpreter.run("n = 0")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(interpreter.run, ["m = n\nn = m + 1\nn"] * 8))
    assert sorted(int(answer["result"]) for answer in answers) == list(range(1, 9))


def test_files_stay_and_the_journal_is_held_open(interpreter: Running, tmp_path: Path) -> None:
    before = interpreter.state()["open_file"]
    interpreter.run("open('notes.txt', 'w').write('kept')")
    after = interpreter.state()["open_file"]
    assert (tmp_path / "notes.txt").read_text() == "kept"
    assert (after["fd"], after["position"] > before["position"]) == (before["fd"], True)
    assert (tmp_path / after["name"]).stat().st_size == after["position"]


def test_the_state_names_this_machine_and_counts_on(interpreter: Running) -> None:
    first, second = interpreter.state(), interpreter.state()
    assert first["kernel"] == os.uname().release
    assert first["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert first["pid"] == second["pid"]
    assert first["random"] != second["random"]
    until(lambda: interpreter.state()["ticks"] > first["ticks"], 5, "the background thread counts")


def test_a_value_that_cannot_show_itself_does_not_break_the_state(interpreter: Running) -> None:
    interpreter.run("class Bad:\n    def __repr__(self): raise ValueError('no')\nbad = Bad()")
    assert interpreter.state()["variables"]["bad"] == "<Bad: no>"


def test_hooks_are_counted_and_the_payload_is_kept(interpreter: Running) -> None:
    body = {"microvmId": "microvm-1", "runHookPayload": "hello"}
    assert [interpreter.hook(name) for name in ("ready", "validate")] == [200, 200]
    assert interpreter.hook("run", body) == 200
    assert [interpreter.hook(name) for name in ("suspend", "resume", "resume", "terminate")] == [200] * 4
    assert interpreter.hook("unknown") == 404
    state = interpreter.state()
    assert state["run"] == body
    assert state["hooks"] == {"ready": 1, "validate": 1, "run": 1, "suspend": 1, "resume": 2, "terminate": 1}


@pytest.mark.parametrize("name", ["run", "resume"])
def test_pythons_random_numbers_are_seeded_again(interpreter: Running, name: str) -> None:
    """What two clones would share, a seed in the snapshot, is gone after the hook."""
    interpreter.run("import random")
    interpreter.run("random.seed(1)")
    expected = interpreter.run("random.seed(1); random.random()")["result"]
    interpreter.run("random.seed(1)")
    assert interpreter.hook(name, {"microvmId": "m", "runHookPayload": ""}) == 200
    assert interpreter.run("random.random()")["result"] != expected


def test_a_connection_that_is_cut_is_not_an_error(interpreter: Running) -> None:
    """As a thaw does it: a reset in the middle of a kept-alive connection. The fixture looks for a traceback."""
    url = interpreter.app.base_url
    with socket.create_connection((url.host, url.port)) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert peer.recv(16).startswith(b"HTTP/1.1 200")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert interpreter.state()["pid"] > 0


def test_a_wrong_path_or_an_oversized_snippet_is_refused(interpreter: Running) -> None:
    assert interpreter.app.get("/nothing").status_code == 404
    assert interpreter.app.post("/nothing").status_code == 404
    assert interpreter.app.post("/run", content=b"#" * (1 << 20) + b"#").status_code == 413
    assert interpreter.hooks.post("/ready").status_code == 404
