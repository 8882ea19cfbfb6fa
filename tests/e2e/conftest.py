"""Stages of a microVM's life as fixtures: a service, a baked image, a VM running, suspended, resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rekindle.image import buildnet
from tests import leaks
from tests.accel import DEMANDED
from tests.e2e.cloud import HOOKS, Cloud, Vm, interpreter_files
from tests.waiting import until

PAYLOAD = '{"who": "tests"}'
IDLE = {"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True}


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory, tools_dir: Path) -> Iterator[Cloud]:
    """One service for all system tests; after it nothing of it may be left."""
    if os.geteuid() != 0 and (missing := buildnet.why_none()):
        pytest.skip(missing)  # every image would fail; `rekindle doctor` says the same
    state = tmp_path_factory.mktemp("cloud") / "state"
    before = leaks.snapshot(state, allowed=[*leaks.ALLOWED, "images", "serve.log"])
    cloud = Cloud(state, tools_dir)
    try:
        cloud.lend_layers()
        cloud.start()
        assert DEMANDED is None or cloud.accel() == DEMANDED.value
        yield cloud
    finally:
        cloud.down()
    left = leaks.settled(before, within_s=10)
    assert not left, "\n".join(map(str, left))


@pytest.fixture(scope="session")
def image(cloud: Cloud) -> str:
    """The example interpreter, baked once."""
    return cloud.built(cloud.create_image("interpreter", interpreter_files(), hooks=HOOKS))


@pytest.fixture(scope="session")
def plain_image(cloud: Cloud) -> str:
    """The same app without runtime hooks: what a clone costs before anybody has talked to its app."""
    build_hooks = {name: HOOKS[name] for name in ("port", "microvmImageHooks")}
    return cloud.built(cloud.create_image("plain", interpreter_files(), hooks=build_hooks))


@pytest.fixture(autouse=True)
def leak_check(cloud: Cloud, request: pytest.FixtureRequest) -> Iterator[None]:
    """Every system test leaves the machine as it found it. (Images are made before the census.)

    A test may restart the service or the relay: one of each on our state folder is no leak.
    """
    if {"image", "launch", "plain_image"} & set(request.fixturenames):
        request.getfixturevalue("image")
    if "plain_image" in request.fixturenames:
        request.getfixturevalue("plain_image")
    if cloud.process is None:
        cloud.start()
    allowed = [*leaks.ALLOWED, "serve.log"]
    cloud.close_clients()
    before = leaks.snapshot(cloud.state, allowed=allowed)
    yield
    if cloud.process is None:
        cloud.start()
    cloud.close_clients()
    last: list[leaks.Leak] = []

    def clean() -> bool:
        found = leaks.compare(before, leaks.snapshot(cloud.state, allowed=allowed))
        last[:] = [leak for leak in found if not _is_the_service(leak, cloud)]
        return not last

    try:
        until(clean, 15, "nothing is left behind")
    except AssertionError:
        pytest.fail("\n".join(map(str, last)))


def _is_the_service(leak: leaks.Leak, cloud: Cloud) -> bool:
    """The service or relay of now, what they listen on, or a connection of this client."""
    assert cloud.process is not None
    ports = [url.rpartition(":")[2] for url in cloud.env().values() if url.startswith("http://127.0.0.1:")]
    if leak.kind == "process":
        return any(f"pid {pid}: " in leak.what for pid in (cloud.process.pid, cloud.relay_pid()))
    if leak.kind == "descriptor":
        return True  # those of service and relay: test_lives_come_and_go_and_no_descriptor_stays
    if leak.kind == "socket":
        names = ("operator.sock", "relay.sock", "sockets.sock")
        return leak.what.endswith(names) or any(leak.what == f"listening tcp port {port}" for port in ports)
    return False


@pytest.fixture
def launch(cloud: Cloud, image: str, leak_check: None) -> Iterator[Callable[..., Vm]]:
    """Makes running VMs of the image; they are terminated afterwards."""
    made: list[Vm] = []

    def one(**members: Any) -> Vm:
        arn = members.pop("imageIdentifier", image)
        payload = {"runHookPayload": PAYLOAD} if arn == image else {}
        vm = cloud.run(str(arn), **({"idlePolicy": IDLE} | payload | members))
        made.append(vm)
        return vm

    yield one
    if cloud.process is None:
        cloud.start()
    for vm in made:
        vm.terminate()


@pytest.fixture
def vm_running(launch: Callable[..., Vm]) -> Vm:
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
