"""Lives of 8 hours and of 7 days, with all that ends in them: tokens, certificates, sleeps and the lives themselves."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.cloud import Cloud, Vm
from tests.e2e.past import DAY_S, HOUR_S, PastClock
from tests.e2e.test_restarts import kill_relay
from tests.waiting import until

pytestmark = pytest.mark.long
LIFETIME_OVER = "MicroVM exceeded maximum lifetime."
WEEK_S = 7 * DAY_S
#: A year and a bit: the certificate of the first start has a month left in the middle of the week of the long life.
BEGINS_S = (366 + 4) * DAY_S
WORK = """
import threading
work = True
def run():
    while work: pass
threading.Thread(target=run).start()
"""
LONG = f"[lifetime]\nmax_duration_s = {WEEK_S}\n"


@pytest.fixture(scope="module")
def past(cloud: Cloud, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PastClock]:
    """The service of all tests, as if it had been installed a year ago: its certificate is from then."""
    clock = PastClock(tmp_path_factory.mktemp("clock") / "clock", ago_s=BEGINS_S)
    _again(cloud, clock.file, LONG)
    try:
        with clock.signing():
            yield clock
    finally:
        _again(cloud, None, "")


def _again(cloud: Cloud, clock: Path | None, rest: str) -> None:
    cloud.down()
    (cloud.state / "ca/server.pem").unlink()
    cloud.clock = clock
    cloud.configure(rest=rest)
    cloud.start()


def serial(vm: Vm) -> int:
    """Of the certificate at the endpoint now."""
    host, _, port = vm.endpoint.rpartition(":")
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode()).serial_number


def story(cloud: Cloud, vm: Vm) -> list[tuple[str, str]]:
    return [(event["what"], event["why"]) for event in cloud.inspect(vm.id)["events"]]


def test_a_life_of_eight_hours(cloud: Cloud, image: str, past: PastClock) -> None:
    """Without an idle policy: a VM that never sleeps, spoken to once an hour with the token of that hour."""
    vm = cloud.run(image)
    vm.until("RUNNING")
    ends_ms = int(vm.row()["startedAt"].timestamp() * 1000) + 8 * HOUR_S * 1000
    vm.snippet("hours = []")
    for hour in range(1, 8):
        past.pass_s(HOUR_S)
        with vm.http() as session:
            assert session.get("/state").status_code == 403  # a token of half an hour
        vm.headers = vm.token()
        vm.snippet(f"hours.append({hour})")
    past.jump_to(ends_ms - 60_000)
    vm.headers = vm.token()
    assert vm.snippet("hours") == "[1, 2, 3, 4, 5, 6, 7]"
    assert vm.row()["state"] == "RUNNING"
    past.pass_s(61)
    assert vm.until("TERMINATED")["stateReason"] == LIFETIME_OVER
    assert ("terminate hook", "answered 200") in story(cloud, vm)


def answers(cloud: Cloud) -> bool:
    """Whether there is a relay."""
    try:
        return cloud.relay_pid() > 0
    except OSError:
        return False


def policy(max_idle_s: int) -> dict[str, object]:
    return {"maxIdleDurationSeconds": max_idle_s, "suspendedDurationSeconds": WEEK_S, "autoResumeEnabled": True}


def test_idle_time_goes_on_over_a_restart_and_begins_anew_with_a_relay(
    launch: Callable[..., Vm], cloud: Cloud, past: PastClock
) -> None:
    """A new service reads when a VM was active last. Only the relay knows of bytes, so with a new one nobody does."""
    vm = launch(idlePolicy=policy(3600))
    vm.get()
    past.pass_s(50 * 60)
    cloud.stop()
    cloud.start()
    past.pass_s(9 * 60)
    assert vm.row()["state"] == "RUNNING"
    past.pass_s(61)
    vm.until("SUSPENDED")

    vm.headers = vm.token()
    vm.get()
    witness = launch(idlePolicy=policy(600))
    witness.get()
    past.pass_s(9 * 60)
    witness.get()
    past.pass_s(9 * 60)
    witness.get()
    kill_relay(cloud)
    until(lambda: answers(cloud), 30, "there is another relay")
    past.pass_s(45 * 60)
    witness.until("SUSPENDED")  # so the others were looked at too
    assert (
        vm.row()["state"] == "RUNNING"
    )  # an hour and three minutes after its last byte, 45 minutes after the relay's start
    past.pass_s(16 * 60)
    vm.until("SUSPENDED")


def test_cpu_time_keeps_a_vm_awake_when_it_is_counted(launch: Callable[..., Vm], cloud: Cloud, past: PastClock) -> None:
    cloud.configure(rest="[idle]\ncpu_percent = 2\nwindow_s = 12\n")
    cloud.stop()
    cloud.start()
    try:
        idle, busy = launch(idlePolicy=policy(60)), launch(idlePolicy=policy(60))
        idle.get()
        busy.snippet(
            "import threading\nwork = True\ndef run():\n    while work: pass\nthreading.Thread(target=run).start()"
        )
        with past.hurrying(6):  # a VMM that is busy all the time uses a sixth of the time that the clock shows
            idle.until("SUSPENDED")
            assert busy.row()["state"] == "RUNNING"
            busy.headers = busy.token()
            busy.snippet("work = False")
            busy.until("SUSPENDED")
    finally:
        cloud.configure(rest=LONG)
        cloud.stop()
        cloud.start()


def test_a_life_of_seven_days(cloud: Cloud, image: str, past: PastClock) -> None:
    """It sleeps most of the time, which counts. Its service is restarted on the second day, and the certificate that
    this year began with is replaced in the fourth night, by a service that goes on serving."""
    past.jump_to_ago(WEEK_S + DAY_S)
    vm = cloud.run(image, maximumDurationInSeconds=WEEK_S, idlePolicy=policy(3600))
    vm.until("RUNNING")
    started_ms = int(vm.row()["startedAt"].timestamp() * 1000)
    vm.snippet("days = []")
    first = serial(vm)
    for day in range(1, 7):
        past.jump_to(started_ms + day * DAY_S * 1000)
        vm.until("SUSPENDED")
        vm.headers = vm.token(minutes=60)
        vm.snippet(f"days.append({day})")
        if day == 2:
            cloud.stop()
            cloud.start()
        past.pass_s(50 * 60)  # within the hour of the token and of the idle time
        assert vm.snippet("days[-1]") == str(day)
        assert (serial(vm) == first) is (day < 4)
    assert vm.snippet("days") == "[1, 2, 3, 4, 5, 6]"
    past.jump_to(started_ms + WEEK_S * 1000 - 60_000)
    assert vm.row()["state"] in ("RUNNING", "SUSPENDING", "SUSPENDED")
    past.pass_s(61)
    assert vm.until("TERMINATED")["stateReason"] == LIFETIME_OVER
