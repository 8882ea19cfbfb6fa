"""A hundred sleeps of one microVM: its bytes are kept, and what it takes on disk is bounded by what it holds."""

from __future__ import annotations

import ast
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import pytest

from bench.guests import WALKER
from bench.walk import Growth, Walk, answer_of
from rekindle.vitals import allocated_bytes
from tests.e2e.cloud import Vm
from tests.waiting import until

ROUNDS = 100
MIB = 1024**2
#: 4 MiB in memory and 512 KiB more with each round, 1 MiB and 256 KiB more on the disk; some of it is rewritten.
MEMORY = Growth(first=1024, more=128, most=1 << 20, touched=128)
DISK = Growth(first=256, more=64, most=1 << 20, touched=32)
BEGIN = """
import signal
MEMORY = Plan("memory", {0.first}, {0.more}, {0.most}, {0.touched})
DISK = Plan("disk", {1.first}, {1.more}, {1.most}, {1.touched})
walker = Walker("chain")
"""
STEP = "signal.setitimer(signal.ITIMER_REAL, 0); json.dumps(walker.step({}))"
#: What the guest's kernel, its file system and the interpreter have of their own, most of it in the first rounds.
OWN_BYTES = 96 * MIB


def bound(walk: Walk, step: int) -> int:
    """What a sleeping VM may take: its memory once, its file once in blocks and once as page cache, and OWN_BYTES."""
    memory, disk = walk.bytes_of(step)
    return memory + 2 * disk + OWN_BYTES


def tidy(vm: Vm) -> bool:
    """Nothing but the newest snapshot is there, on one disk layer."""
    return [len(list(snapshot.glob("disk*"))) for snapshot in (vm.home / "snapshots").iterdir()] == [1]


def step(vm: Vm, walk: Walk, number: int) -> None:
    said = answer_of(json.loads(ast.literal_eval(vm.snippet(STEP.format(number)))))
    assert (said.counter, said.sums) == (number, walk.sums(number))


@pytest.mark.long
def test_a_chain_of_sleeps_keeps_every_byte_and_its_disk_is_bounded(launch: Callable[..., Vm]) -> None:
    """At once after a suspend the snapshot before is still there; every tenth time the service may tidy behind it."""
    vm, walk = launch(), Walk("chain", MEMORY, DISK)
    vm.snippet(WALKER + BEGIN.format(MEMORY, DISK))
    step(vm, walk, 1)
    took_s: dict[str, list[float]] = {"suspend": [], "resume and step": []}
    disk_bytes = []
    for number in range(2, ROUNDS + 2):
        before_s = time.monotonic()
        vm.suspend()
        took_s["suspend"].append(time.monotonic() - before_s)
        assert allocated_bytes(vm.home) < 2 * bound(walk, number - 1)
        if number % 10 == 1:
            until(partial(tidy, vm), 120, "the service has tidied")
            disk_bytes.append(allocated_bytes(vm.home))
            assert disk_bytes[-1] < bound(walk, number - 1)
            vm.cloud.client().resume_microvm(microvmIdentifier=vm.id)
        before_s = time.monotonic()
        step(vm, walk, number)
        took_s["resume and step"].append(time.monotonic() - before_s)
    for name, times_s in took_s.items():
        first, last = (1000 * statistics.median(some) for some in (times_s[:10], times_s[-10:]))
        print(f"{name}: first ten rounds {first:.0f} ms, last ten {last:.0f} ms (medians)")
    held = [sum(walk.bytes_of(number)) // MIB for number in (1, ROUNDS)]
    print(f"held {held} MiB; on disk {[size // MIB for size in disk_bytes]} MiB, every tenth round")
