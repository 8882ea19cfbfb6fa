"""Stages of a microVM's life as fixtures: a service, a baked image, a VM running, suspended, resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.e2e.cloud import HOOKS, Cloud, Vm, interpreter_files

PAYLOAD = '{"who": "tests"}'
IDLE = {"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True}


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory, tools_dir: Path) -> Iterator[Cloud]:
    """One service for all system tests; after it nothing of it may be left."""
    state = tmp_path_factory.mktemp("cloud") / "state"
    before = leaks.snapshot(state, allowed=[*leaks.ALLOWED, "images", "serve.log", "accel.json"])
    cloud = Cloud(state, tools_dir)
    try:
        cloud.start()
        yield cloud
    finally:
        cloud.down()
    left = leaks.settled(before, within_s=10)
    assert not left, "\n".join(map(str, left))


@pytest.fixture(scope="session")
def image(cloud: Cloud) -> str:
    """The example interpreter, baked once."""
    arn = cloud.create_image("interpreter", interpreter_files(), hooks=HOOKS)
    build = cloud.settled(arn)
    assert build["buildState"] == "SUCCESSFUL", f"{build['stateReason']}\n{cloud.build_log(arn)}\n{cloud.log()[-3000:]}"
    return arn


@pytest.fixture(autouse=True)
def leak_check(cloud: Cloud, request: pytest.FixtureRequest) -> Iterator[None]:
    """Every system test leaves the machine as it found it. (Images are made before the census.)"""
    if "image" in request.fixturenames or "launch" in request.fixturenames:
        request.getfixturevalue("image")
    if cloud.process is None:
        cloud.start()
    before = leaks.snapshot(cloud.state)
    yield
    if cloud.process is None:
        cloud.start()
    left = leaks.settled(before, within_s=15)
    assert not left, "\n".join(map(str, left))


@pytest.fixture
def launch(cloud: Cloud, image: str, leak_check: None) -> Iterator[Callable[[], Vm]]:
    """Makes running VMs of the image; they are terminated afterwards."""
    made: list[Vm] = []

    def one(**members: object) -> Vm:
        vm = cloud.run(image, **({"idlePolicy": IDLE, "runHookPayload": PAYLOAD} | members))
        made.append(vm)
        return vm

    yield one
    if cloud.process is None:
        cloud.start()
    for vm in made:
        vm.terminate()


@pytest.fixture
def vm_running(launch: Callable[[], Vm]) -> Vm:
    vm = launch()
    vm.until("RUNNING")
    return vm


@pytest.fixture
def vm_suspended(vm_running: Vm) -> Vm:
    vm_running.suspend()
    return vm_running


@pytest.fixture
def vm_resumed(vm_suspended: Vm) -> Vm:
    vm_suspended.cloud.client().resume_microvm(microvmIdentifier=vm_suspended.id)
    vm_suspended.until("RUNNING")
    return vm_suspended


@pytest.fixture(params=["vm_running", "vm_resumed"])
def vm_any(request: pytest.FixtureRequest) -> Vm:
    """Twice: as launched, and back from disk."""
    vm: Vm = request.getfixturevalue(request.param)
    return vm
