"""Both page-map readers, on real processes that map a file privately."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rekindle.driver import pagemap
from rekindle.driver.pagemap import PAGE_BYTES, Run

PAGES = 16384
READERS = [
    "classic",
    pytest.param("scan", marks=pytest.mark.skipif(not pagemap.scan_supported(), reason="needs Linux 6.7")),
]


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    path.write_bytes(bytes(PAGES * PAGE_BYTES))
    return path


@contextmanager
def writer(ram: Path, written: set[int]) -> Iterator[int]:
    """A stopped child that maps `ram` privately, has read all of it and has written the pages `written`."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        with ram.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(PAGES):
            memory[page * PAGE_BYTES]
        for page in written:
            memory[page * PAGE_BYTES + 8] = 1
        os.write(done, b"x")
        signal.pause()
    os.close(done)
    try:
        os.read(ready, 1)
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def pages_of(runs: list[Run]) -> list[int]:
    return [page for run in runs for page in range(run.page, run.page + run.count)]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "written",
    [set(), {0}, {PAGES - 1}, set(range(100, 900)), set(range(0, PAGES, 2)), set(range(0, 1400, 2)), set(range(PAGES))],
    ids=["none", "first", "last", "a run", "every other: more than the vector", "700 runs: more than 512", "all"],
)
def test_exactly_the_written_pages_are_own(kind: str, written: set[int], ram: Path) -> None:
    with writer(ram, written) as pid:
        runs = pagemap.reader(kind)(pid, pagemap.regions_of(pid, ram, PAGES * PAGE_BYTES))
    assert pages_of(runs) == sorted(written)
    assert all(before.page + before.count < after.page for before, after in itertools.pairwise(runs))


@pytest.mark.parametrize("seed", range(4))
def test_both_readers_agree(seed: int, ram: Path) -> None:
    if not pagemap.scan_supported():
        pytest.skip("needs Linux 6.7")
    written = set(random.Random(seed).sample(range(PAGES), 3000))
    with writer(ram, written) as pid:
        regions = pagemap.regions_of(pid, ram, PAGES * PAGE_BYTES)
        assert pagemap.scan(pid, regions) == pagemap.classic(pid, regions)
