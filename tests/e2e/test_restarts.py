"""Whatever dies, no session is lost: the service, the relay, both, the VMM itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.cloud import Cloud, Vm
from tests.waiting import until


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def kill_relay(cloud: Cloud) -> None:
    pid = cloud.relay_pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), 10, "the relay is dead")


def restart_service(cloud: Cloud) -> None:
    cloud.kill()
    cloud.start()


def kill_both(cloud: Cloud) -> None:
    cloud.kill()
    pid = cloud.relay_pid()
    os.kill(pid, signal.SIGKILL)
    cloud.start()


def stop_and_start(cloud: Cloud) -> None:
    cloud.stop()
    cloud.start()


def take_over(cloud: Cloud) -> None:
    cloud.take_over()


@pytest.mark.parametrize("fault", [stop_and_start, restart_service, take_over], ids=lambda fault: fault.__name__)
def test_no_call_is_refused_while_the_service_is_started_again(
    fault: Callable[[Cloud], None], launch: Callable[..., Vm], cloud: Cloud
) -> None:
    vm = launch()
    vm.get()
    answered: list[str] = []
    over = threading.Event()

    def call() -> None:
        client = cloud.patient_client()  # SIGKILL breaks the calls that are under way
        while not over.is_set():
            said = client.get_microvm(microvmIdentifier=vm.id)
            assert "state" in said, said
            answered.append(said["state"])

    address = cloud.env()["AWS_ENDPOINT_URL_LAMBDA_MICROVMS"]
    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(call) for _ in range(3)]
        try:
            until(lambda: len(answered) > 20, 30, "the calls are under way")
            fault(cloud)
            before = len(answered)
            until(lambda: len(answered) > before + 20, 30, "the calls go on")
        finally:
            over.set()
        for caller in callers:
            caller.result(timeout=60)
    assert set(answered) == {"RUNNING"}
    assert cloud.env()["AWS_ENDPOINT_URL_LAMBDA_MICROVMS"] == address


@pytest.mark.parametrize(
    "fault", [restart_service, kill_relay, kill_both, stop_and_start], ids=lambda fault: fault.__name__
)
def test_running_and_suspended_vms_survive(
    fault: Callable[[Cloud], None], launch: Callable[..., Vm], cloud: Cloud
) -> None:
    running, sleeping = launch(), launch()
    for vm in (running, sleeping):
        vm.snippet("kept = 'still here'")
    pid = cloud.vmm_pid(running.id)
    sleeping.suspend()
    fault(cloud)
    assert until(lambda: answers(running), 30, "the running one answers") == "'still here'"
    assert cloud.vmm_pid(running.id) == pid
    assert until(lambda: answers(sleeping), 30, "the sleeping one answers") == "'still here'"


def answers(vm: Vm) -> str | None:
    """The kept variable, or None while the endpoint is away."""
    try:
        return vm.snippet("kept")
    except OSError:
        return None
    except Exception as err:
        if type(err).__module__.startswith("httpx"):
            return None
        raise


def test_a_vmm_killed_after_a_resume_falls_back_to_one_moment(vm_suspended: Vm) -> None:
    """Memory and disk after the fall are those of the same stop, however far the killed life had come."""
    vm = vm_suspended
    vm.snippet("number = 0; f = open('number', 'w')")
    vm.suspend()
    for _ in range(4):
        vm.cloud.client().resume_microvm(microvmIdentifier=vm.id)
        vm.until("RUNNING")
        pid = vm.cloud.vmm_pid(vm.id)
        for number in range(1, random.randrange(2, 6)):
            vm.snippet(
                f"number += {number}; f.seek(0); f.write(str(number)); f.truncate(); f.flush(); import os; os.sync()"
            )
        os.kill(pid, signal.SIGKILL)
        row = vm.until("SUSPENDED")
        assert "VMM" in row["stateReason"]
        assert vm.snippet("number, open('number').read()") in ("(0, '')",)
        vm.suspend()


def test_a_vmm_killed_before_any_sleep_is_reported(launch: Callable[..., Vm]) -> None:
    vm = launch()
    vm.until("RUNNING")
    os.kill(vm.cloud.vmm_pid(vm.id), signal.SIGKILL)
    assert vm.until("TERMINATED")["stateReason"] == "Internal service error."


def test_after_a_restart_of_the_host_sleepers_wake_and_what_ran_is_told(
    launch: Callable[..., Vm], cloud: Cloud
) -> None:
    """As a power cut leaves it: every process gone, sockets and pid files still there, another boot id."""
    asleep, woken, fresh = launch(), launch(), launch()
    for vm in (asleep, woken):
        vm.snippet("kept = 1")
        vm.suspend()
    woken.snippet("kept = 2")
    fresh.until("RUNNING")
    processes = [cloud.vmm_pid(vm.id) for vm in (woken, fresh)] + [cloud.relay_pid()]
    cloud.kill()
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in processes), 10, "nothing runs")
    assert (woken.home / "run/vmm").exists()
    with closing(sqlite3.connect(cloud.state / "rekindle.db")) as db, db:
        assert db.execute("UPDATE node SET boot_id = 'an earlier boot'").rowcount == 1
    cloud.start()
    assert fresh.until("TERMINATED")["stateReason"] == "The host was restarted."
    assert woken.row()["stateReason"] == "The host was restarted; the MicroVM is back at its last suspended state."
    assert not (woken.home / "run/vmm").exists()
    for vm in (asleep, woken):
        assert until(partial(answers, vm), 30, "it wakes") == "1"
    told = cloud.cli("events", woken.id).stdout
    assert "RUNNING -> SUSPENDED (by service): The host was restarted; the MicroVM is back at its last" in told
    assert told.splitlines()[-2].endswith("SUSPENDED -> RESUMING (by request): a request waits")


@pytest.mark.long
def test_the_doctor_finds_what_has_lost_its_record_and_cleans_it(
    launch: Callable[..., Vm], cloud: Cloud, image: str
) -> None:
    """Rows lost, as by an old copy of the database: a VMM with its folder, and one whose folder is gone as well."""
    whole, bare, kept = cloud.run(image), cloud.run(image), launch()
    for vm in (whole, bare, kept):
        vm.until("RUNNING")
    pids = [cloud.vmm_pid(vm.id) for vm in (whole, bare, kept)]
    cloud.kill()
    with closing(sqlite3.connect(cloud.state / "rekindle.db")) as db, db:
        for vm in (whole, bare):
            db.execute("DELETE FROM microvm WHERE id = ?", [vm.id])
    shutil.rmtree(bare.home)
    found = [f"process {pids[0]} of vms/{whole.id}", f"process {pids[1]} of vms/{bare.id}", f"folder {whole.home}"]
    told = json.loads(cloud.cli("doctor", "--json", check=False).stdout)
    [check] = [one for one in told if one["name"] == "leftovers"]
    assert (check["verdict"], check["fix"]) == ("warn", "rekindle doctor --clean")
    assert all(words in check["detail"] for words in found)
    assert str(pids[2]) not in check["detail"]
    refused = cloud.cli("doctor", "--clean", check=False)
    assert (refused.returncode, gone(pids[0])) == (1, False)  # nobody answered the question
    cloud.cli("doctor", "--clean", "--yes")
    assert [gone(pid) for pid in pids] == [True, True, False]
    assert not whole.home.exists()
    assert cloud.cli("doctor", "--clean").stdout == "Nothing has lost its record\n"
    cloud.start()
    assert kept.snippet("40 + 2") == "42"


def test_killed_in_the_middle_of_a_suspend(launch: Callable[..., Vm], cloud: Cloud) -> None:
    """The service dies while a suspend is under way: afterwards the VM sleeps or runs, whole."""
    vm = launch()
    vm.snippet("kept = 'still here'")
    cloud.client().suspend_microvm(microvmIdentifier=vm.id)
    restart_service(cloud)
    vm.until("SUSPENDED")
    assert vm.snippet("kept") == "'still here'"


def test_a_machine_keeps_its_size_when_the_configuration_has_another(
    vm_suspended: Vm, cloud: Cloud, launch: Callable[..., Vm]
) -> None:
    """What was baked and what sleeps has its size; new settings are for new images."""
    cloud.stop()
    before = cloud.settings
    cloud.configure(**(before | {"memory": "peak_factor = 2\nmib_per_vcpu = 64"}))
    try:
        cloud.start()
        assert vm_suspended.snippet("1 + 1") == "2"
        assert launch().snippet("2 + 2") == "4"
    finally:
        cloud.stop()
        cloud.configure(**before)
        cloud.start()
