"""What a process and a folder cost, measured on things whose cost is known."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

from rekindle import vitals
from rekindle.driver.process import started_ticks
from tests.waiting import until

MIB = 1 << 20


def of(pid: int) -> dict[str, object]:
    found = vitals.process(pid, started_ticks(pid) or 0)
    assert found is not None
    return found


def private_kib() -> int:
    memory = of(os.getpid())["memory"]
    assert isinstance(memory, dict)
    return int(memory["private_kib"])


def test_memory_that_is_touched_is_counted() -> None:
    before = private_kib()
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for at in range(0, len(memory), 4096):
            memory[at] = 1
        assert 60 * 1024 < private_kib() - before < 80 * 1024


def test_cpu_time_is_counted() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            until(lambda: float(str(of(child.pid)["cpu_s"])) > 0.1, 10, "the child has used a tenth of a second")
        finally:
            child.kill()


def test_a_process_that_ended_or_another_with_its_pid_has_none() -> None:
    with subprocess.Popen(["true"]) as child:
        ticks = started_ticks(child.pid) or 0
    assert vitals.process(child.pid, ticks) is None
    assert vitals.process(os.getpid(), (started_ticks(os.getpid()) or 0) + 1) is None


def test_a_folder_costs_what_is_allocated_not_what_sparse_files_claim(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/full").write_bytes(os.urandom(MIB))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1024 * MIB)
    os.sync()
    assert MIB <= vitals.allocated_bytes(tmp_path) < 2 * MIB
    assert vitals.allocated_bytes(tmp_path / "nowhere") == 0


def test_guests_may_have_most_of_the_machine() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    assert pages // 2 < vitals.memory_mib_for_guests() < pages
