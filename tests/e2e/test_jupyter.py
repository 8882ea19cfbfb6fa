"""JupyterLab in a microVM whose page is left open: it sleeps, stays asleep, and goes on at the next cell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle.clock import wall_ms
from tests.e2e import jupyter
from tests.e2e.cloud import ROOT, Cloud
from tests.waiting import until

IDLE = {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True}


@pytest.fixture
def lab(tmp_path: Path, tools_dir: Path) -> Iterator[tuple[Cloud, str]]:
    """A service with the shipped rules, and the example image."""
    cloud = Cloud(tmp_path / "state", tools_dir, first_port=23000)
    cloud.configure(quiet='sets = ["jupyterlab"]')
    try:
        cloud.start()
        files = {one.name: one.read_bytes() for one in (ROOT / "examples/jupyterlab").iterdir() if one.is_file()}
        hooks = {"port": 9000, "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 600}}
        arn = cloud.create_image("jupyterlab", files, resources=[{"minimumMemoryInMiB": 1024}], hooks=hooks)
        yield cloud, cloud.built(arn, 1800)
    finally:
        cloud.down()


@pytest.mark.long
def test_a_notebook_left_open_sleeps_and_goes_on_at_the_next_cell(lab: tuple[Cloud, str]) -> None:
    cloud, arn = lab
    vm, api = cloud.run(arn, idlePolicy=IDLE), cloud.client()

    def state() -> str:
        return str(api.get_microvm(microvmIdentifier=vm.id)["state"])

    with jupyter.opened(vm) as page:
        assert page.execute("kept = [1, 2]; kept.append(3); kept") == "[1, 2, 3]"
        page.type_in_terminal("word=rekindle", "$")
        assert page.execute("import threading; address = id(kept); lock = threading.Lock(); sum(kept)") == "6"
        until(lambda: state() == "SUSPENDED", 90, "the VM sleeps after the last cell")
        assert not page.dirty  # it was saved in time
        slept_at_ms = wall_ms()
        woken = threading.Event()

        def two_minutes_are_over() -> bool:
            if state() != "SUSPENDED":
                woken.set()
            return woken.is_set() or wall_ms() > slept_at_ms + 120_000

        until(two_minutes_are_over, 150, "two minutes are over")
        assert not woken.is_set(), cloud.inspect(vm.id)["events"]
        asleep = {(path, status) for at_ms, path, status in page.answers if at_ms > slept_at_ms}
        assert asleep >= {("/api/kernels", 429), ("/api/sessions", 429), ("/api/contents", 503)}
        assert {status for _, status in asleep} == {429, 503}

        assert page.execute("kept.append(4); id(kept) == address, kept, lock.locked()") == "(True, [1, 2, 3, 4], False)"
        page.type_in_terminal("echo $word-again", "rekindle-again")
        assert state() == "RUNNING"
        assert page.told == []  # no WebSocket of the page has ended, no request was cut
        before = len(page.answers)
        until(lambda: ("/api/kernels", 200) in {one[1:] for one in page.answers[before:]}, 30, "the polls are answered")
    stories = [event["what"] for event in cloud.inspect(vm.id)["events"]]
    assert stories.count("SUSPENDING -> SUSPENDED") == 1, stories
    vm.terminate()
