"""The delta file, against a real process with real private pages: this one's child."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rekindle.core.errors import MachineError, SnapshotMismatch
from rekindle.driver import delta, files, pagemap
from rekindle.driver.pagemap import PAGE_BYTES, Region, Run
from rekindle.driver.progress import Progress

PAGES = 3000
MEMORY_BYTES = PAGES * PAGE_BYTES

#: Maps a file private, writes the pages that it is told, says so, and tells page contents on demand.
CHILD = """
import mmap, sys
file = open(sys.argv[1], "rb")
memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
for line in sys.stdin:
    verb, page = line.split()
    at = int(page) * 4096
    if verb == "data":
        memory[at : at + 4096] = (b"own page %8d " % int(page)).ljust(4096, b"x")
    elif verb == "zero":
        memory[at : at + 4096] = bytes(4096)
    print(memory[at : at + 20].hex(), flush=True)
"""


@dataclass
class Child:
    process: subprocess.Popen[str]
    ram: Path

    def tell(self, verb: str, page: int) -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {page}\n")
        self.process.stdin.flush()
        return bytes.fromhex(self.process.stdout.readline().strip())

    def regions(self) -> list[Region]:
        return pagemap.regions_of(self.process.pid, self.ram, MEMORY_BYTES)


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    with path.open("wb") as file:
        for page in range(PAGES):
            file.write((b"base page %7d " % page).ljust(PAGE_BYTES, b"."))
    return path


@pytest.fixture
def children(ram: Path) -> Iterator[list[Child]]:
    made = [_start(ram) for _ in range(2)]
    yield made
    for child in made:
        child.process.communicate()


def _start(ram: Path) -> Child:
    command = [sys.executable, "-c", CHILD, str(ram)]
    child = Child(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True), ram)
    child.tell("look", 0)
    return child


READERS = [
    pagemap.classic,
    pytest.param(
        pagemap.scan, marks=pytest.mark.skipif(not pagemap.scan_supported(), reason="PAGEMAP_SCAN needs Linux 6.7")
    ),
]


@pytest.mark.parametrize("reader", READERS)
def test_own_pages_are_found_and_no_others(children: list[Child], reader: pagemap.Reader) -> None:
    child = children[0]
    for page in (0, 7, 8, 9, PAGES - 1):
        child.tell("data", page)
    child.tell("zero", 100)
    child.tell("look", 500)  # reading makes no page one's own
    found = reader(child.process.pid, child.regions())
    assert found == [Run(0, 1), Run(7, 3), Run(100, 1), Run(PAGES - 1, 1)]


@pytest.mark.parametrize("reader", READERS)
def test_a_delta_carries_memory_to_another_process(
    children: list[Child], tmp_path: Path, reader: pagemap.Reader
) -> None:
    source, target = children
    written = [*range(0, PAGES, 2), *range(1001, 1501, 2)]  # many runs and a long one
    for page in written:
        source.tell("data", page)
    for page in (11, 12, 13, 1201):
        source.tell("zero", page)
    path = tmp_path / "delta"
    runs = reader(source.process.pid, source.regions())
    saving, loading = Progress("saving"), Progress("loading")
    saved = delta.save(path, source.process.pid, source.regions(), runs, MEMORY_BYTES, saving)
    assert saved == files.sum_of(path)
    delta.load(delta.open_delta(path), target.process.pid, target.regions(), loading)
    pages = sum(run.count for run in runs)
    assert (saving.done_bytes, saving.of_bytes) == (pages * PAGE_BYTES, pages * PAGE_BYTES)
    assert loading.done_bytes == loading.of_bytes <= saving.of_bytes
    for page in (*range(40), 1000, 1201, 1202, 1499, 1501, PAGES - 2, PAGES - 1):
        assert target.tell("look", page) == source.tell("look", page), page


def test_zero_pages_take_no_room(children: list[Child], tmp_path: Path) -> None:
    child = children[0]
    for page in range(1000):
        child.tell("zero", page)
    path = tmp_path / "delta"
    delta.save(path, child.process.pid, child.regions(), [Run(0, 1000)], MEMORY_BYTES)
    assert path.stat().st_size < 2 * PAGE_BYTES
    assert delta.open_delta(path).table == [(0, 1000, 1)]


def test_a_delta_of_nothing(children: list[Child], tmp_path: Path) -> None:
    child = children[0]
    path = tmp_path / "delta"
    delta.save(path, child.process.pid, child.regions(), [], MEMORY_BYTES)
    delta.load(delta.open_delta(path), child.process.pid, child.regions())
    assert pagemap.classic(child.process.pid, child.regions()) == []


@pytest.fixture
def saved(children: list[Child], tmp_path: Path) -> Path:
    child = children[0]
    for page in (1, 2, 3, 50):
        child.tell("data", page)
    path = tmp_path / "delta"
    delta.save(path, child.process.pid, child.regions(), [Run(1, 3), Run(50, 2)], MEMORY_BYTES)
    return path


def test_every_flipped_byte_is_noticed(saved: Path, children: list[Child]) -> None:
    whole = saved.read_bytes()
    header = range(24)
    elsewhere = [*header, PAGE_BYTES, PAGE_BYTES + 5000, *range(len(whole) - 120, len(whole))]
    for at in elsewhere:
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        saved.write_bytes(damaged)
        with pytest.raises(SnapshotMismatch):
            delta.load(delta.open_delta(saved), children[1].process.pid, children[1].regions())


def test_every_truncation_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in (0, 1, 20, PAGE_BYTES, PAGE_BYTES + 1, len(whole) - PAGE_BYTES, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(SnapshotMismatch):
            delta.open_delta(saved)


def test_a_table_beyond_memory_is_refused(saved: Path, children: list[Child]) -> None:
    delta.save(saved, children[0].process.pid, children[0].regions(), [Run(0, 1)], PAGE_BYTES)
    assert delta.open_delta(saved).memory_bytes == PAGE_BYTES
    delta.save(saved, children[0].process.pid, children[0].regions(), [Run(5, 1)], PAGE_BYTES)
    with pytest.raises(SnapshotMismatch, match="does not fit"):
        delta.open_delta(saved)


def test_a_process_that_is_gone_is_an_error(saved: Path, children: list[Child]) -> None:
    child = children[0]
    regions = child.regions()
    child.process.communicate()
    with pytest.raises(MachineError):
        delta.load(delta.open_delta(saved), child.process.pid, regions)
    with pytest.raises(MachineError):
        child.regions()


def test_a_mapping_that_is_not_private_is_refused(ram: Path) -> None:
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0), pytest.raises(MachineError, match="privately"):
        pagemap.regions_of(os.getpid(), ram, MEMORY_BYTES)


def test_an_unknown_reader_is_named() -> None:
    with pytest.raises(MachineError, match=r"machine\.pagemap"):
        pagemap.reader("soft-dirty")
    assert pagemap.reader("auto") in (pagemap.scan, pagemap.classic)
