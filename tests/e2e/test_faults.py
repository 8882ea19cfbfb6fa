"""Faults at random moments, and files that are not what they were: what was acknowledged is there afterwards.

Every test prints its seed; `FAULT_SEED=<number>` plays that one again.
"""

from __future__ import annotations

import ast
import concurrent.futures
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from rekindle.driver import start
from tests.e2e.cloud import Cloud, Vm, interpreter_files, reply
from tests.e2e.conftest import IDLE
from tests.waiting import a_moment, until

#: A thread that counts in memory and on the disk (past the page cache) and never sees the two differ.
WRITER = """
import mmap, os, threading, time
lock, torn, count = threading.Lock(), [], 0
page = mmap.mmap(-1, 4096)
disk = os.open('moment', os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
def on_disk():
    os.preadv(disk, [page], 0)
    return int(page[:20])
def put():
    page[:20] = b'%020d' % count
    os.pwritev(disk, [page], 0)
def step():
    global count
    with lock:
        if on_disk() != count:
            torn.append((count, on_disk()))
        count += 1
        put()
def go_on():
    while True:
        step()
        time.sleep(0.002)
put(); os.fsync(disk)
threading.Thread(target=go_on, daemon=True).start()
"""


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("FAULT_SEED", random.randrange(2**32)))
    print(f"seed {seed}")
    return random.Random(seed)


def phase(vm: Vm) -> str:
    """The phase as the operator sees it: RESUMING has no name on the wire."""
    return str(vm.cloud.inspect(vm.id)["phase"])


def settles(vm: Vm, *phases: str) -> str:
    """The phase once no work is under way: one of `phases`, or this fails."""
    over = ("RUNNING", "SUSPENDED", "TERMINATED")
    found = until(lambda: (now := phase(vm)) in over and now, 60, f"{vm.id} settles")
    assert found in phases, vm.cloud.inspect(vm.id)
    return str(found)


# -- the service, the relay, both --------------------------------------------------------------------------------------


def strike(cloud: Cloud, rng: random.Random, victims: str, *, within_s: float) -> None:
    """SIGKILL `victims` at a random moment; the service is there again afterwards."""
    relay = cloud.relay_pid()
    moment_s = rng.uniform(0, within_s)
    print(f"{victims} after {moment_s:.3f} s")
    a_moment(moment_s)
    if victims in ("relay", "both"):
        os.kill(relay, signal.SIGKILL)
    if victims in ("serve", "both"):
        cloud.kill()
        cloud.start()
    until(lambda: relay_answers(cloud), 20, "a relay answers")


def relay_answers(cloud: Cloud) -> bool:
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(str(cloud.state / "run/relay.sock"))
        except OSError:
            return False
    return True


def a_life_with_faults(vm: Vm, rng: random.Random, victims: str) -> None:
    """One fault while it starts, one while it falls asleep, one while it wakes."""
    cloud = vm.cloud
    strike(cloud, rng, victims, within_s=1.5)
    settles(vm, "RUNNING")
    reply(vm, "kept = 'still here'; f = open('kept', 'w'); f.write(kept); f.close(); os = __import__('os'); os.sync()")
    pid = cloud.vmm_pid(vm.id)
    cloud.client().suspend_microvm(microvmIdentifier=vm.id)
    strike(cloud, rng, victims, within_s=0.6)
    settles(vm, "SUSPENDED")
    until(lambda: not Path(f"/proc/{pid}").exists(), 10, "its VMM is gone")
    cloud.client().resume_microvm(microvmIdentifier=vm.id)
    strike(cloud, rng, victims, within_s=1.0)
    settles(vm, "RUNNING")
    assert reply(vm, "kept, open('kept').read()") == "('still here', 'still here')"


@pytest.mark.parametrize("victims", ["serve", "relay", "both"])
def test_a_kill_at_any_moment_loses_nothing(launch: Callable[..., Vm], rng: random.Random, victims: str) -> None:
    a_life_with_faults(launch(), rng, victims)


@pytest.mark.long
@pytest.mark.parametrize("victims", ["serve", "relay", "both"])
def test_many_kills_at_any_moment_lose_nothing(launch: Callable[..., Vm], rng: random.Random, victims: str) -> None:
    for _ in range(6):
        vm = launch()
        a_life_with_faults(vm, rng, victims)
        vm.terminate()


# -- the user's own doing --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_service_killed_while_its_guest_freezes_suspends_all_the_same(launch: Callable[..., Vm]) -> None:
    """The guest holds back all it says from its last answer on, which nobody hears; every 3 ms of a suspend once."""
    vm = launch()
    vm.snippet("kept = 'still here'")
    for moment_ms in range(20, 140, 3):
        vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)
        a_moment(moment_ms / 1000)
        vm.cloud.kill()
        vm.cloud.start()
        until(lambda: phase(vm) == "SUSPENDED", 20, f"it sleeps after a kill at {moment_ms} ms")
        assert reply(vm, "kept") == "'still here'"


@pytest.mark.parametrize("work", ["start", "suspend", "resume"])
def test_a_terminate_at_any_moment_leaves_nothing(launch: Callable[..., Vm], rng: random.Random, work: str) -> None:
    """Whatever is under way. (That nothing is left is the leak check's word.)"""
    for _ in range(3):
        vm = launch()
        if work != "start":
            vm.until("RUNNING")
            vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)
        if work == "resume":
            settles(vm, "SUSPENDED")
            vm.cloud.client().resume_microvm(microvmIdentifier=vm.id)
        moment_s = rng.uniform(0, 1.0 if work != "suspend" else 0.4)
        print(f"terminate after {moment_s:.3f} s")
        a_moment(moment_s)
        vm.terminate()
        assert not vm.home.exists()


def has_resumed(vm: Vm, times: int) -> bool:
    return [event["what"] for event in story(vm)].count("RESUMING -> RUNNING") >= times


def test_requests_meet_sleep_after_sleep_and_none_hangs(launch: Callable[..., Vm], rng: random.Random) -> None:
    """Clients go on asking while the VM is suspended again and again. A request that was under way may be cut (502)."""
    vm = launch()
    vm.until("RUNNING")
    vm.get()
    over = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        with vm.http() as session:
            while not over.is_set():
                statuses.append(session.get("/state").status_code)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(ask) for _ in range(4)]
        try:
            for number in range(1, 5):
                a_moment(rng.uniform(0.1, 0.6))
                vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)
                until(partial(has_resumed, vm, number), 30, "a request wakes it")
        finally:
            over.set()
        for asker in askers:
            asker.result(timeout=60)
    print(Counter(statuses))
    assert set(statuses) <= {200, 502}
    assert statuses.count(200) > statuses.count(502)
    assert vm.get()["hooks"]["resume"] == 4


# -- the VMM -----------------------------------------------------------------------------------------------------------


def falls_and_rises(vm: Vm, rng: random.Random) -> None:
    """Kill the VMM at a random moment of a resume, the loading and the first second after `cont` included."""
    vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)
    settles(vm, "SUSPENDED")
    vm.cloud.client().resume_microvm(microvmIdentifier=vm.id)
    who = until(lambda: start.recorded(vm.home), 10, "its VMM is there")
    moment_s = rng.uniform(0, 1.5)
    print(f"VMM after {moment_s:.3f} s")
    a_moment(moment_s)
    if who is not None and who.alive():
        os.kill(who.pid, signal.SIGKILL)
    until(lambda: who is None or not who.alive(), 10, "its VMM is dead")
    until(lambda: phase(vm) == "SUSPENDED" or start.recorded(vm.home) not in (who, None), 30, "the fall is noticed")
    count, torn = ast.literal_eval(reply(vm, "(count, torn)"))
    assert torn == []
    assert count > 0


def test_a_vmm_killed_while_it_resumes_leaves_one_moment(launch: Callable[..., Vm], rng: random.Random) -> None:
    vm = launch()
    reply(vm, WRITER)
    for _ in range(4):
        falls_and_rises(vm, rng)


@pytest.mark.long
def test_a_vmm_killed_in_many_resumes_leaves_one_moment(launch: Callable[..., Vm], rng: random.Random) -> None:
    vm = launch()
    reply(vm, WRITER)
    for _ in range(25):
        falls_and_rises(vm, rng)


EAT = "x = [b'x' * (100 << 20) for _ in range(4)]"  # each by itself is not refused


@pytest.mark.long
def test_memory_that_runs_out_in_the_guest_ends_who_took_it(launch: Callable[..., Vm]) -> None:
    """A process of the app: the VM lives on. The app itself: its end is the VM's, with its exit code."""
    vm = launch()
    vm.until("RUNNING")
    assert vm.snippet(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {EAT!r}]).returncode") == "-9"
    assert vm.get()["hooks"]["run"] == 1
    with vm.http() as session, contextlib.suppress(httpx.HTTPError):
        session.post("/run", content=EAT.encode())
    vm.until("TERMINATED")
    assert vm.row()["stateReason"] == "Container Stopped with Exit Code: 137"
    assert any(event["what"] == "out of memory in the guest" for event in story(vm))


# -- files that are not what they were ---------------------------------------------------------------------------------


@contextlib.contextmanager
def flipped(file: Path, at: int) -> Iterator[None]:
    """One byte is another for the block's time."""
    with file.open("r+b", buffering=0) as opened:
        byte = os.pread(opened.fileno(), 1, at)
        os.pwrite(opened.fileno(), bytes([byte[0] ^ 0x10]), at)
        yield
        os.pwrite(opened.fileno(), byte, at)


@contextlib.contextmanager
def cut(file: Path) -> Iterator[None]:
    """The last page is missing for the block's time."""
    size, mode = file.stat().st_size, file.stat().st_mode
    file.chmod(0o600)  # an ordinary user may not write what is read-only
    with file.open("r+b", buffering=0) as opened:
        page = os.pread(opened.fileno(), 4096, size - 4096)
        os.ftruncate(opened.fileno(), size - 4096)
        try:
            yield
        finally:
            os.pwrite(opened.fileno(), page, size - 4096)
            file.chmod(mode)


def story(vm: Vm) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = vm.cloud.inspect(vm.id)["events"]
    return events


def sleep_of(vm: Vm) -> Path:
    (newest,) = (vm.home / "snapshots").iterdir()
    return newest


def refused_resume(vm: Vm) -> str:
    """Why the resume failed, as the story has it."""

    def refusals() -> list[str]:
        return [event["why"] for event in story(vm) if event["what"] == "why the resume failed"]

    before = len(refusals())
    vm.cloud.client().resume_microvm(microvmIdentifier=vm.id)
    until(lambda: len(refusals()) > before and phase(vm) == "SUSPENDED", 20, "the resume is refused")
    assert len(refusals()) == before + 1
    return refusals()[-1]


def test_a_damaged_sleep_is_refused_and_the_vm_sleeps_on(launch: Callable[..., Vm]) -> None:
    vm = launch()
    vm.snippet("kept = 'still here'")
    vm.suspend()
    delta = sleep_of(vm) / "delta"
    size = delta.stat().st_size
    for at in (9, 4096 + 17, size // 2, size - 4096, size - 30):
        with flipped(delta, at):
            assert str(delta) in refused_resume(vm)
            assert vm.row()["stateReason"] == "The last resume failed; the MicroVM is still suspended."
            assert start.recorded(vm.home) is None, "nothing of the attempt is left running"
    for name, at in (("state", 1000), ("disk.qcow2", 70_000)):
        with flipped(delta.with_name(name), at):
            assert f"{delta.with_name(name)} is damaged" in refused_resume(vm)
    with flipped(delta, size // 2), vm.http() as session:
        assert session.get("/state").status_code == 502
    assert reply(vm, "kept") == "'still here'"


def test_a_cut_image_starts_nothing(cloud: Cloud, launch: Callable[..., Vm]) -> None:
    first = launch()
    first.until("RUNNING")
    folder = Path(cloud.inspect(first.id)["handle"]["extra"]["image"])
    first.terminate()
    with cut(folder / "snapshot/ram"):
        vm = launch()
        settles(vm, "TERMINATED")
        assert vm.row()["stateReason"] == "Internal service error."
        assert any("ram" in (event["why"] or "") for event in story(vm))
        assert not vm.home.exists()
    assert launch().snippet("6 * 7") == "42"


# -- a full disk -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[None]:
    """A file system of its own at `folder`."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no mounts here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(file: Path, *, leave_bytes: int) -> None:
    space = os.statvfs(file.parent)
    with file.open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, space.f_bavail * space.f_frsize - leave_bytes)


def test_a_full_disk_refuses_new_vms_and_ends_no_old_one(cloud: Cloud, image: str) -> None:
    with small_disk(cloud.state / "vms", 400):
        vm = cloud.run(image, idlePolicy=IDLE)
        try:
            pid = _lives_through_a_full_disk(vm, image)
        finally:
            vm.terminate()
        until(lambda: not Path(f"/proc/{pid}").exists(), 10, "its VMM is gone")


def test_an_image_is_not_baked_without_disk_for_its_memory(cloud: Cloud) -> None:
    with small_disk(cloud.state / "builds", 300):
        arn = cloud.create_image("no-disk", interpreter_files())
        build = cloud.settled(arn)
        assert build["buildState"] == "FAILED"
        assert "no disk to bake an image" in build["stateReason"]
        until(lambda: not any((cloud.state / "builds").iterdir()), 10, "nothing is left of the build")
    cloud.client().delete_microvm_image(imageIdentifier=arn)
    until(lambda: arn not in cloud.cli("image", "ls").stdout, 30, "it is gone")


def _lives_through_a_full_disk(vm: Vm, image: str) -> int:
    vm.snippet("import os; kept = os.urandom(30 << 20); check = hash(kept)")
    pid = vm.cloud.vmm_pid(vm.id)
    with pytest.raises(ClientError, match="no disk for another MicroVM") as refused:
        vm.cloud.run(image)
    assert refused.value.response["Error"]["Code"] == "InsufficientCapacityException"
    filler = vm.home.parent / "filler"
    fill(filler, leave_bytes=0)
    vm.suspend()
    fill(filler, leave_bytes=0)
    with vm.http() as session:
        assert session.get("/state").status_code == 502
    assert "no disk" in vm.row()["stateReason"]
    filler.unlink()
    assert reply(vm, "hash(kept) == check") == "True"
    assert vm.cloud.vmm_pid(vm.id) != pid
    _goes_on_without_room(vm, filler)
    return vm.cloud.vmm_pid(vm.id)


def _goes_on_without_room(vm: Vm, filler: Path) -> None:
    """Somebody took even what was set aside: the VM runs on until there is room."""
    pid = vm.cloud.vmm_pid(vm.id)
    shutil.rmtree(vm.home / "reserve")
    fill(filler, leave_bytes=2 << 20)
    vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)
    settles(vm, "RUNNING")
    assert vm.row()["stateReason"] == "The last suspend failed; the MicroVM goes on."
    assert any("No space left" in (event["why"] or "") for event in story(vm))
    assert vm.cloud.vmm_pid(vm.id) == pid
    filler.unlink()
    assert reply(vm, "hash(kept) == check, open('after', 'w').write('disk too')") == "(True, 8)"
    vm.suspend()
    assert reply(vm, "hash(kept) == check, open('after').read()") == "(True, 'disk too')"


#: Writes a file of so many MiB to the disk, beside what the guest does else.
WRITE = """
import os, threading
written = {{}} if 'written' not in globals() else written
def write(name='{name}'):
    with open(name, 'wb') as f:
        f.write(bytes(range(256)) * ({mib} << 12)); f.flush(); os.fsync(f.fileno())
    written[name] = os.path.getsize(name)
threading.Thread(target=write).start()
"""


def full(folder: Path) -> bool:
    """Nothing is free: whoever wrote there has been told so, or is about to be."""
    return os.statvfs(folder).f_bavail == 0


def test_a_guest_that_finds_the_disk_full_stands_still_and_goes_on(cloud: Cloud, image: str) -> None:
    """In the middle of a write; and a suspend in the middle of a write has room set aside for the rest of it."""
    with small_disk(cloud.state / "vms", 800):
        vm = cloud.run(image, idlePolicy=IDLE)
        try:
            _stands_still_and_goes_on(vm)
        finally:
            vm.terminate()


def _stands_still_and_goes_on(vm: Vm) -> None:
    reply(vm, "kept = 'still here'")
    filler = vm.home.parent / "filler"
    fill(filler, leave_bytes=2 << 20)
    reply(vm, WRITE.format(name="first", mib=20))
    until(lambda: full(vm.home), 30, "the disk is full")
    filler.unlink()
    until(lambda: reply(vm, "written") == "{'first': 20971520}", 60, "the guest goes on")
    fill(filler, leave_bytes=2 << 20)
    reply(vm, WRITE.format(name="second", mib=20))
    until(lambda: full(vm.home), 30, "the disk is full again")
    vm.suspend()
    filler.unlink()
    sums = [hashlib.sha256(bytes(range(256)) * (20 << 12)).hexdigest()] * 2
    source = (
        "import hashlib; kept, [hashlib.sha256(open(name, 'rb').read()).hexdigest() for name in ('first', 'second')]"
    )
    assert reply(vm, source) == str(("still here", sums))
