"""What clones have in common, and what the thaw takes away: their random numbers (the kernel's generator).

`machine.seed_after_restore = false` exists for this test alone. With the reseed the same clones differ: test_life.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.cloud import Cloud, Vm

CLONES = 20
BATCH = 4


@pytest.fixture(scope="module")
def unseeded(cloud: Cloud) -> Iterator[None]:
    """A service that leaves the guests' generators as they were frozen."""
    cloud.configure(machine="seed_after_restore = false")
    cloud.stop()
    cloud.start()
    yield
    cloud.configure()
    cloud.stop()
    cloud.start()


def first_bytes(launch: Callable[..., Vm], count: int) -> list[str]:
    """The first bytes that each of `count` clones gives out."""

    def look(_: int) -> str:
        vm = launch()
        said = str(vm.get()["random"])
        vm.terminate()
        return said

    with concurrent.futures.ThreadPoolExecutor(BATCH // 2) as pool:
        return list(pool.map(look, range(count)))


def test_without_the_reseed_clones_give_equal_random_bytes(unseeded: None, launch: Callable[..., Vm]) -> None:
    """So the difference that clones show otherwise is the reseed's work, and nothing else's.

    Not all need be equal: a clone may be one question further (a thread of its own asked first), and on a busy machine
    the kernel has mixed in the time of an interrupt. But 16 equal bytes twice are no accident.
    """
    seen: Counter[str] = Counter()
    while seen.total() < CLONES and (not seen or max(seen.values()) < BATCH):
        seen.update(first_bytes(launch, BATCH))
    assert max(seen.values()) >= 2, seen
