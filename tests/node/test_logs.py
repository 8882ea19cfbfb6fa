"""Logs that others write into: bounded, and nothing of the newest is lost."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from rekindle import binaries
from rekindle.node.builds import LAST_CHARS, LAST_LINES, BuildLog
from tests.waiting import until

FILE_BYTES = 8 << 20


def relay_life(folder: Path, end: signal.Signals) -> int:
    """A real relay, until it listens and is ended; its exit status."""
    relay = subprocess.Popen(
        [binaries.find("rekindle-relay"), "--socket", folder / "relay.sock", "--log", folder / "relay.log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert relay.stdout is not None
    log = folder / "relay.log"
    try:
        with relay.stdout:
            assert relay.stdout.readline() == b"listening\n"
        until(lambda: "relay listens" in said(log), 10, "its first record is there")
    finally:
        relay.send_signal(end)
        status = relay.wait(timeout=10)
    return status


def said(log: Path) -> str:
    """Nothing between the moment when a full log is moved aside and its successor."""
    try:
        return log.read_text()
    except FileNotFoundError:
        return ""


def test_the_relays_log_goes_on_over_its_lives_and_is_moved_aside_when_full(tmp_path: Path) -> None:
    log, before = tmp_path / "relay.log", tmp_path / "relay.log.1"
    log.write_bytes(b"x" * FILE_BYTES)
    for _ in range(2):
        assert relay_life(tmp_path, signal.SIGTERM) == 0
    assert before.read_bytes() == b"x" * FILE_BYTES
    assert [log.read_text().count(words) for words in ("relay listens", "relay ended in order")] == [2, 2]


def test_what_the_runtime_says_goes_to_the_log_of_now(tmp_path: Path) -> None:
    (tmp_path / "relay.log").write_bytes(b"x" * FILE_BYTES)
    assert relay_life(tmp_path, signal.SIGQUIT) == 2
    assert "goroutine" in (tmp_path / "relay.log").read_text()
    assert (tmp_path / "relay.log.1").stat().st_size == FILE_BYTES


def test_a_build_that_prints_for_ever_does_not_fill_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "build.log"
    log = BuildLog(path, max_chars=1000)
    for number in range(5000):
        log(f"line {number}")
    log("y" * 100_000)
    log("FAILED CONTAINER_BUILD_FAILED: it ran out of time")
    log.close()
    lines = path.read_text().splitlines()
    first = lines.index(f"[{5002 - 123 - LAST_LINES} lines are left out here]")
    assert lines[:first] == [f"line {number}" for number in range(123)]
    assert lines[-1] == "FAILED CONTAINER_BUILD_FAILED: it ran out of time"
    assert (lines[-2], len(lines) - first - 1) == ("y" * LAST_CHARS, LAST_LINES)


def test_a_log_that_is_not_full_is_as_it_was_said(tmp_path: Path) -> None:
    path = tmp_path / "build.log"
    log = BuildLog(path)
    log("one\ntwo")
    log("")
    log.close()
    assert path.read_text() == "one\ntwo\n\n"
