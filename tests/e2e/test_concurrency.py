"""Many at once: callers on one microVM, requests that wake a crowd, a crowd that lives, a guest that hangs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.e2e.cloud import REKINDLE, Cloud, Vm
from tests.waiting import until

MOVES = ("suspend_microvm", "resume_microvm")


@dataclass
class Caller:
    """One of several on the same microVM; `rng` decides what it does, the machine when."""

    vm: Vm
    rng: random.Random
    client: Any
    said: list[str] = field(default_factory=list)  #: what each call of the API was answered
    sent: int = 0  #: requests that count up in the guest
    counted: int = 0  #: those that were answered

    def act(self, operations: Sequence[str], steps: int) -> None:
        for _ in range(steps):
            operation = self.rng.choice(operations)
            if operation == "count":
                self._count(ends="terminate_microvm" in operations)
            else:
                self._ask(operation)

    def _count(self, *, ends: bool) -> None:
        """`ends`: the endpoint may be gone."""
        self.sent += 1
        try:
            with self.vm.http() as session:
                answer = session.post("/run", content=b"n += 1")
        except httpx.TransportError:
            assert ends
            return
        assert answer.status_code in (200, 502), answer.text
        self.counted += answer.status_code == 200

    def _ask(self, operation: str) -> None:
        try:
            getattr(self.client, operation)(microvmIdentifier=self.vm.id)
        except ClientError as err:
            self.said.append(err.response["Error"]["Code"])
            name = self.client.meta.method_to_api_mapping[operation]
            shapes = self.client.meta.service_model.operation_model(name).error_shapes
            assert self.said[-1] in {shape.name for shape in shapes}
        else:
            self.said.append("done")


def crowd(vm: Vm, seed: int, count: int = 4) -> list[Caller]:
    return [Caller(vm, random.Random(f"{seed} {number}"), vm.cloud.client()) for number in range(count)]


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work) for work in works]
        return [one.result(timeout=240) for one in running]


def moves(vm: Vm) -> list[tuple[str, str]]:
    """The phases between which its story says that it moved, in order."""
    lines = vm.cloud.cli("events", vm.id, "--json").stdout.splitlines()
    words = [json.loads(line)["what"].split(" -> ") for line in lines]
    return [(found[0], found[1]) for found in words if len(found) == 2]


def check_story(vm: Vm) -> list[tuple[str, str]]:
    """Each move begins where the one before it ended: nobody else moved the VM meanwhile."""
    told = moves(vm)
    assert told[0][0] == "PENDING"
    assert [one[0] for one in told[1:]] == [one[1] for one in told[:-1]]
    return told


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_callers_of_one_vm_get_modelled_answers_and_lose_nothing(seed: int, launch: Callable[..., Vm]) -> None:
    vm = launch()
    vm.snippet("n = 0")
    callers = crowd(vm, seed)
    at_once([partial(one.act, ("count", "count", *MOVES, "get_microvm"), 6) for one in callers])
    assert "done" in {word for one in callers for word in one.said}
    until(lambda: vm.row()["state"] in ("RUNNING", "SUSPENDED"), 60, "it is settled")
    number = int(vm.snippet("n"))
    assert sum(one.counted for one in callers) <= number <= sum(one.sent for one in callers)
    check_story(vm)
    at_once([partial(one.act, ("count", *MOVES, "terminate_microvm"), 6) for one in callers])
    vm.terminate()
    told = check_story(vm)
    assert [one for one in told if one[0] == "TERMINATING"] == told[-1:] == [("TERMINATING", "TERMINATED")]


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.long)])
def test_a_crowd_of_sleepers_is_woken_by_requests_at_the_same_time(count: int, launch: Callable[..., Vm]) -> None:
    vms = [launch() for _ in range(count)]
    for number, vm in enumerate(vms):
        vm.snippet(f"kept = {number}")
        vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)
    for vm in vms:
        vm.until("SUSPENDED", 120)
    answers = at_once([partial(vm.snippet, "kept") for vm in vms for _ in range(2)])
    assert answers == [str(number) for number in range(count) for _ in range(2)]
    for vm in vms:
        assert moves(vm).count(("SUSPENDED", "RESUMING")) == 1


@pytest.mark.long
def test_fifty_live_at_once(launch: Callable[..., Vm], plain_image: str) -> None:
    vms = at_once([partial(several, launch, plain_image, 5) for _ in range(10)])
    crowd_of_vms = [vm for some in vms for vm in some]
    states = at_once([partial(vm.get, "/state") for vm in crowd_of_vms])
    assert len({state["random"] for state in states}) == len({state["machine_id"] for state in states}) == 50
    cloud = crowd_of_vms[0].cloud
    listed = json.loads(cloud.cli("ps", "--json").stdout)
    assert {vm["phase"] for vm in listed if vm["id"] in {one.id for one in crowd_of_vms}} == {"RUNNING"}
    at_once([partial(vm.suspend) for vm in crowd_of_vms[:10]] + [partial(vm.terminate) for vm in crowd_of_vms[10:20]])
    assert {vm.row()["state"] for vm in crowd_of_vms[20:]} == {"RUNNING"}
    for vm in crowd_of_vms[:20]:
        check_story(vm)


def several(launch: Callable[..., Vm], image: str, count: int) -> list[Vm]:
    return [launch(imageIdentifier=image) for _ in range(count)]


def mute(vm: Vm) -> bool:
    """Its app answers nothing, though the connection is taken."""
    try:
        with vm.http() as session:
            session.get("/state", timeout=0.5)
    except httpx.ReadTimeout:
        return True
    return False


def test_a_guest_that_hangs_in_a_hook_delays_no_other(launch: Callable[..., Vm]) -> None:
    hanging, other = launch(), launch()
    other.snippet("kept = 7")
    hog = "import re, threading; threading.Timer(1, re.match, ('(a+)+$', 'a' * 99 + 'b')).start()"
    hanging.snippet(hog)  # never gives Python's lock back: no hook is answered again
    until(lambda: mute(hanging), 20, "its app hangs")
    hanging.cloud.client().suspend_microvm(microvmIdentifier=hanging.id)
    other.suspend()
    assert other.snippet("kept") == "7"
    assert hanging.row()["state"] == "SUSPENDING"
    os.kill(hanging.cloud.vmm_pid(hanging.id), signal.SIGKILL)  # its hook has 30 s; nothing here waits for them
    hanging.until("TERMINATED")


def test_a_state_folder_has_one_service(cloud: Cloud) -> None:
    done = subprocess.run(
        [REKINDLE, "--state", cloud.state, "serve"],
        env=os.environ | {"REKINDLE_TOOLS_DIR": str(cloud.tools_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, f"Another rekindle serves {cloud.state} already" in done.stderr) == (1, True)
    assert json.loads(cloud.cli("ps", "--json").stdout) == []
