"""Guests that mean harm, as programs in an image: root with every capability, and what they do to the host is bounded.

Each ends, or goes on, with a reason in words; nothing of it stays, and a neighbour does not notice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bench.speaker import compile_go
from rekindle import vitals
from tests.e2e.cloud import HOOKS, ROOT, Vm, interpreter_files, reply
from tests.e2e.conftest import IDLE
from tests.faults.rig import Rig
from tests.waiting import a_moment, until

pytestmark = pytest.mark.long
MIB = 1024**2
FLOODS = """
import os, subprocess
kept = 'before the flood'
flood = subprocess.Popen(['sh', '-c', 'yes "0123456789abcdef 0123456789abcdef" | tee /dev/console'])
"""
EXHAUSTS = "hoard = []\nwhile True: hoard.append(os.urandom(1 << 24))"
#: Powers the machine off as soon as its suspend hook was asked.
POWERS_OFF = """
import os, threading, time, gc
def off():
    moment = next(one for one in gc.get_objects() if type(one).__name__ == 'Session')
    while not moment.hooks.get('suspend'): time.sleep(0.001)
    open('/proc/sysrq-trigger', 'w').write('o')
threading.Thread(target=off, daemon=True).start()
"""


@dataclass
class Pair:
    hostile: Vm
    neighbour: Vm


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`hostile/liar.go`, a static program."""
    program = tmp_path_factory.mktemp("liar") / "liar"
    compile_go(ROOT / "go", str(Path(__file__).parent / "hostile/liar.go"), program)
    return program.read_bytes()


@pytest.fixture(scope="module")
def root_image(rig: Rig, baked: str, liar: bytes) -> str:
    files = interpreter_files()
    files |= {"Dockerfile": files["Dockerfile"] + b"COPY --chmod=755 liar /opt/liar\nUSER root\n", "liar": liar}
    hooks = HOOKS | {"microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120}}
    return rig.built(rig.create_image("hostile", files, hooks=hooks, additionalOsCapabilities=["ALL"]))


@pytest.fixture
def pair(rig: Rig, baked: str, root_image: str) -> Iterator[Pair]:
    with rig.nothing_left():
        hostile, neighbour = (rig.run(arn, idlePolicy=IDLE) for arn in (root_image, baked))
        try:
            assert reply(neighbour, "kept = 6 * 7; kept") == "42"
            assert reply(hostile, "import os; os.getuid()") == "0"
            yield Pair(hostile, neighbour)
            assert neighbour.snippet("kept") == "42", "the neighbour lost its state"
        finally:
            for vm in (hostile, neighbour):
                vm.terminate()


def does(vm: Vm, deed: str) -> None:
    """It may not live to answer."""
    with contextlib.suppress(httpx.HTTPError), vm.http() as session:
        session.post("/run", content=deed.encode(), timeout=5)


def lies(vm: Vm, deed: str) -> None:
    """`liar` goes to work; it says nothing when it can."""
    assert reply(vm, f"import subprocess; subprocess.run(['/opt/liar', {deed!r}], capture_output=True).stderr") == "b''"


def settles(rig: Rig, vm: Vm) -> None:
    """A suspend that such a guest is told: it sleeps, or it says why it does not."""
    rig.client().suspend_microvm(microvmIdentifier=vm.id)
    until(lambda: rig.vm_row(vm.id)["phase"] != "SUSPENDING", 400, "it settles")
    row = rig.vm_row(vm.id)
    told = [one["what"] for one in rig.inspect(vm.id)["events"]]
    assert row["phase"] == "SUSPENDED" or row["state_reason"] or "why the suspend failed" in told, (dict(row), told)


def test_a_guest_that_answers_nobody_is_given_up_and_ends_when_told_to(rig: Rig, pair: Pair) -> None:
    lies(pair.hostile, "silent")
    a_moment(4)
    with pair.hostile.http() as session, pytest.raises(httpx.TimeoutException):
        session.get("/state", timeout=5)
    assert pair.neighbour.snippet("kept") == "42"
    settles(rig, pair.hostile)


def test_a_guest_that_lies_in_frame_lengths_harms_itself(rig: Rig, pair: Pair) -> None:
    lies(pair.hostile, "lie")
    a_moment(10)
    with pair.hostile.http() as session:
        assert session.get("/state", timeout=60).status_code == 502
    assert pair.neighbour.snippet("kept") == "42"
    settles(rig, pair.hostile)


def test_a_guest_that_exhausts_its_memory_takes_no_more_of_the_hosts(rig: Rig, pair: Pair) -> None:
    handle = rig.inspect(pair.hostile.id)["handle"]
    does(pair.hostile, EXHAUSTS)
    ended = pair.hostile.until("TERMINATED", 120)
    assert ended["stateReason"].startswith("Container Stopped with Exit Code:"), ended["stateReason"]
    assert handle["extra"]["memory_mib"] <= 1024


def test_a_guest_that_floods_its_outputs_fills_nothing(rig: Rig, pair: Pair) -> None:
    kept_before = vitals.allocated_bytes(rig.state / "logs") + (rig.state / "serve.log").stat().st_size
    does(pair.hostile, FLOODS)
    a_moment(5)
    grown = vitals.allocated_bytes(rig.state / "logs") + (rig.state / "serve.log").stat().st_size - kept_before
    assert grown < MIB, f"the host keeps {grown} bytes of what the guest said"
    output = rig.cli("logs", pair.hostile.id).stdout
    assert 0 < len(output) <= 2 * MIB
    pair.hostile.suspend()
    assert reply(pair.hostile, "kept") == "'before the flood'"


def test_a_guest_that_powers_itself_off_while_it_falls_asleep_ends_with_a_reason(rig: Rig, pair: Pair) -> None:
    does(pair.hostile, POWERS_OFF)
    rig.client().suspend_microvm(microvmIdentifier=pair.hostile.id)
    until(lambda: rig.vm_row(pair.hostile.id)["phase"] in ("TERMINATED", "SUSPENDED"), 120, "it settles")
    row = rig.vm_row(pair.hostile.id)
    assert row["phase"] == "SUSPENDED" or row["state_reason"]
