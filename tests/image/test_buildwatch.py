"""The watch over an ordinary user's build: the biggest process goes, the rest stays; and the end of all."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from rekindle.image.buildwatch import Watch

#: An init with two children, each with as many MiB as its number says; it tells how its children ended.
FAMILY = """
perl -e '$| = 1; $x = "a" x ($ARGV[0] << 20); print "up\\n"; sleep 1000' {small} & small=$!
perl -e '$| = 1; $x = "a" x ($ARGV[0] << 20); print "up\\n"; sleep 1000' {big} & big=$!
wait $big; echo "big $?"
wait $small; echo "small $?"
"""


@pytest.fixture
def family(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    small, big = request.param
    script = FAMILY.format(small=small, big=big)
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == [b"up\n", b"up\n"]
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("family", [(10, 150)], indirect=True)
def test_above_the_limit_the_biggest_is_killed(family: subprocess.Popen[bytes]) -> None:
    watch = Watch()
    watch.make(memory_mib=100, pids=10)
    watch.add(family.pid)
    watch.check()
    assert watch.hit_memory_limit()
    assert family.stdout is not None
    assert family.stdout.readline() == b"big 137\n"
    assert family.poll() is None


@pytest.mark.parametrize("family", [(10, 20)], indirect=True)
async def test_below_the_limit_nothing_happens_and_clear_ends_the_init(family: subprocess.Popen[bytes]) -> None:
    watch = Watch()
    watch.make(memory_mib=100, pids=10)
    watch.add(family.pid)
    watch.check()
    assert not watch.hit_memory_limit()
    assert family.poll() is None
    await watch.clear()
    assert family.wait(timeout=5) == -signal.SIGKILL
    await watch.clear()


def test_the_kernel_is_told_how_many_processes_and_whom_to_kill_first() -> None:
    watch = Watch()
    watch.make(memory_mib=100, pids=10)
    script = "grep 'Max processes' /proc/self/limits; cat /proc/self/oom_score_adj"
    said = subprocess.run([*watch.command, "sh", "-c", script], capture_output=True, text=True, check=True, timeout=10)
    _, _, processes, _, _, score = said.stdout.split()
    assert int(processes) > 10
    assert score == "1000"
