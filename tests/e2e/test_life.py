"""The life of a microVM as its user sees it: real boto3, real HTTPS, real virtual machines."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import procfs
from tests.e2e.cloud import Cloud, Vm, interpreter_files
from tests.procfs import PROC
from tests.waiting import until


def test_an_image_reports_its_build_and_sizes(cloud: Cloud, image: str) -> None:
    build = cloud.settled(image)
    assert build["buildState"] == "SUCCESSFUL"
    assert build["architecture"] == "X86_64"
    assert all(
        build["snapshotBuild"][key] > 1_000_000 for key in ("memorySnapshotSizeInBytes", "codeInstallSizeInBytes")
    )
    assert "STEP" in cloud.build_log(image)


def test_each_snippet_builds_on_the_one_before(vm_any: Vm) -> None:
    vm_any.snippet("kept = [1, 2, 3]; out = open('kept.txt', 'w')")
    vm_any.snippet("out.write('line'); out.flush()")
    assert vm_any.snippet("sum(kept), open('kept.txt').read()") == "(6, 'line')"


def test_the_app_sees_the_container_that_the_spec_promises(vm_any: Vm) -> None:
    assert vm_any.snippet("import resource; resource.getrlimit(resource.RLIMIT_NOFILE)") == "(1024, 1024)"
    assert vm_any.snippet("import os; os.environ['HOME'], os.getcwd(), os.getuid() > 0, os.getpid()") == (
        "('/home/agent', '/home/agent', True, 1)"
    )
    bounding = "[l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapBnd', 'CapEff'))]"
    assert vm_any.snippet(bounding) == "['0000000000000000', '00000000a80425fb']"
    assert vm_any.snippet("sorted(os.listdir('/dev'))").count("vport") == 0
    assert "AWS_LAMBDA_MICROVM_IMAGE_ARN" in vm_any.snippet("sorted(os.environ)")
    assert vm_any.snippet("os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize") == str(64 * 2**20)


def test_run_hook_gets_the_id_and_the_payload(vm_running: Vm) -> None:
    assert vm_running.get()["run"] == {"microvmId": vm_running.id, "runHookPayload": '{"who": "tests"}'}


def test_suspend_leaves_no_process_and_the_next_request_wakes(vm_running: Vm) -> None:
    vm_running.snippet("import threading; kept = object(); address = id(kept); log = open('log', 'w'); log.write('a')")
    pid = vm_running.cloud.vmm_pid(vm_running.id)
    before = vm_running.get()
    vm_running.suspend()
    assert not Path(f"/proc/{pid}").exists()
    assert vm_running.snippet("id(kept) == address, log.write('b'), log.flush(), open('log').read()") == (
        "(True, 1, None, 'ab')"
    )
    after = vm_running.get()
    assert after["pid"] == before["pid"]
    assert after["hooks"]["resume"] == 1
    until(lambda: vm_running.get()["ticks"] > after["ticks"], 10, "the background thread goes on")
    assert vm_running.row()["state"] == "RUNNING"


def test_a_token_from_before_the_sleep_still_works(vm_running: Vm) -> None:
    vm_running.get()
    headers = vm_running.headers
    vm_running.suspend()
    assert vm_running.get()["hooks"]["resume"] == 1
    assert vm_running.headers is headers


def test_without_auto_resume_a_request_does_not_wake(launch: Callable[..., Vm]) -> None:
    vm = launch(
        idlePolicy={"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 3600, "autoResumeEnabled": False}
    )
    vm.until("RUNNING")
    vm.suspend()
    with vm.http() as session:
        assert session.get("/state").status_code == 502
    assert vm.row()["state"] == "SUSPENDED"


def test_many_sleeps_keep_memory_and_disk(vm_running: Vm) -> None:
    vm_running.snippet("rounds = []; f = open('rounds', 'a')")
    for number in range(4):
        vm_running.snippet(f"rounds.append({number}); f.write('{number}'); f.flush()")
        vm_running.suspend()
        until(lambda: len(list((vm_running.home / "snapshots").iterdir())) == 1, 10, "only the newest sleep is kept")
    assert vm_running.snippet("rounds, open('rounds').read()") == "([0, 1, 2, 3], '0123')"


def test_the_clock_is_right_after_a_sleep(vm_suspended: Vm) -> None:
    before = os.stat(vm_suspended.home).st_mtime
    assert float(vm_suspended.snippet("import time; time.time()")) >= before - 1


def test_clones_share_the_image_and_own_little(launch: Callable[..., Vm], plain_image: str) -> None:
    vms = [launch(imageIdentifier=plain_image) for _ in range(2)]
    for vm in vms:
        vm.until("RUNNING")
    pids = [vm.cloud.vmm_pid(vm.id) for vm in vms]
    maps = [ram_mapping(pid) for pid in pids]
    assert maps[0]["inode"] == maps[1]["inode"]
    assert all(mapping["flags"] == "rw-p" for mapping in maps)
    owned_mib = [anonymous_mib(pid) for pid in pids]
    assert max(owned_mib) <= 40, owned_mib


def ram_mapping(pid: int) -> dict[str, str]:
    """The mapping of guest RAM in a VMM: the largest file mapping."""
    rows = [line.split() for line in (PROC / str(pid) / "maps").read_text().splitlines()]
    files = [row for row in rows if len(row) > 5 and row[4] != "0"]
    span = max(files, key=lambda row: int(row[0].split("-")[1], 16) - int(row[0].split("-")[0], 16))
    return {"flags": span[1], "inode": span[4]}


def anonymous_mib(pid: int) -> float:
    rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    return int(rollup.split("Anonymous:")[1].split()[0]) / 1024


def test_twenty_clones_differ(launch: Callable[..., Vm]) -> None:
    def look(_: int) -> dict[str, str]:
        vm = launch()
        state: dict[str, str] = vm.get()
        return state

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        states = list(pool.map(look, range(20)))
    for key in ("random", "python_random", "hostname", "machine_id"):
        assert len({state[key] for state in states}) == 20, key
    assert {state["kernel"] for state in states} != {os.uname().release}


def test_terminate_leaves_nothing(launch: Callable[..., Vm]) -> None:
    vm = launch()
    vm.until("RUNNING")
    vm.terminate()
    row = vm.row()
    assert (row["state"], row["stateReason"]) == ("TERMINATED", "Success.")
    assert not vm.home.exists()
    vm.terminate()  # again: 200
    with pytest.raises(vm.cloud.client().exceptions.ValidationException, match="has been terminated"):
        vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)


def test_the_last_words_of_an_app_stay_readable(launch: Callable[..., Vm]) -> None:
    vm = launch()
    vm.until("RUNNING")
    vm.terminate()
    words = vm.cloud.cli("logs", vm.id).stdout
    assert "listening on 8080" in words
    assert "/aws/lambda-microvms/runtime/v1/terminate" in words


def test_a_client_token_makes_one_microvm(launch: Callable[..., Vm]) -> None:
    one, two = (launch(clientToken="the-same-call") for _ in range(2))
    assert one.id == two.id


def test_terminate_of_a_suspended_one(vm_suspended: Vm) -> None:
    vm_suspended.terminate()
    assert not vm_suspended.home.exists()


def test_an_app_that_exits_ends_its_vm(launch: Callable[..., Vm]) -> None:
    vm = launch()
    vm.until("RUNNING")
    with vm.http() as session, pytest.raises(Exception, match=r"."):
        session.post("/run", content=b"import os; os._exit(7)").raise_for_status()
    assert vm.until("TERMINATED")["stateReason"] == "Container Stopped with Exit Code: 7"


def test_the_longest_life_is_enforced(launch: Callable[..., Vm]) -> None:
    vm = launch(maximumDurationInSeconds=5)
    vm.until("RUNNING")
    assert vm.until("TERMINATED", 30)["stateReason"] == "MicroVM exceeded maximum lifetime."


def test_the_longest_sleep_is_enforced(launch: Callable[..., Vm]) -> None:
    vm = launch(idlePolicy={"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 2, "autoResumeEnabled": True})
    vm.until("RUNNING")
    vm.cloud.client().suspend_microvm(microvmIdentifier=vm.id)
    vm.until("TERMINATED", 30)


@pytest.mark.long
def test_an_idle_vm_goes_to_sleep_and_a_busy_one_does_not(launch: Callable[..., Vm]) -> None:
    idle = launch(idlePolicy={"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 600, "autoResumeEnabled": True})
    busy = launch(idlePolicy={"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 600, "autoResumeEnabled": True})
    busy.until("RUNNING")

    def asleep() -> bool:
        busy.get()
        return bool(idle.row()["state"] == "SUSPENDED")

    until(asleep, 90, "the idle one sleeps")
    assert busy.row()["state"] == "RUNNING"


def test_an_image_without_hooks_and_its_name_used_again(cloud: Cloud, launch: Callable[..., Vm]) -> None:
    """Without /ready the snapshot is taken once the app listens. A name that is free again means the new image."""
    files = interpreter_files()
    seen = []
    for release in ("first", "second"):
        marked = files["Dockerfile"] + f"ENV RELEASE={release}\n".encode()
        arn = cloud.create_image("renewed", files | {"Dockerfile": marked})
        vm = launch(imageIdentifier=cloud.built(arn))
        seen.append(vm.snippet("import os; os.environ['RELEASE']"))
        vm.terminate()
        cloud.cli("image", "rm", arn)
    assert seen == ["'first'", "'second'"]


def test_lives_come_and_go_and_no_descriptor_stays(launch: Callable[..., Vm], cloud: Cloud) -> None:
    assert cloud.process is not None
    service, relay = cloud.process.pid, cloud.relay_pid()

    def live() -> tuple[int, int]:
        vm = launch()
        vm.get()
        vm.suspend()
        vm.get()
        vm.terminate()
        cloud.close_clients()  # their connections are the service's descriptors, until it has read that they are closed
        return counts()

    def counts() -> tuple[int, int]:
        return len(procfs.descriptors(service)), len(procfs.descriptors(relay))

    warm = [min(of) for of in zip(*(live() for _ in range(4)), strict=True)]
    for _ in range(4):
        live()
    few = f"no more than 3 descriptors of service and relay above {warm}"
    until(lambda: all(now <= then + 3 for then, now in zip(warm, counts(), strict=True)), 10, few)
