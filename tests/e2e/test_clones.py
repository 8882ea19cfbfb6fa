"""What clones have in common, and what the thaw takes away: their random numbers (the kernel's generator).

`machine.seed_after_restore = false` exists for this test alone. With the reseed the same clones differ: test_life.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.cloud import HOOKS, Cloud, Vm, interpreter_files

CLONES = 12  #: of one image, before another is looked at
BATCH = 4
BAKES = 4


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


def first_bytes(launch: Callable[..., Vm], image: str, count: int) -> list[str]:
    """The first bytes that each of `count` clones gives out."""

    def look(_: int) -> str:
        vm = launch(imageIdentifier=image)
        said = str(vm.get()["random"])
        vm.terminate()
        return said

    with concurrent.futures.ThreadPoolExecutor(BATCH // 2) as pool:
        return list(pool.map(look, range(count)))


def most_alike(launch: Callable[..., Vm], image: str) -> int:
    """How many of an image's clones gave the same bytes."""
    seen: Counter[str] = Counter()
    while seen.total() < CLONES and (not seen or max(seen.values()) < 2):
        seen.update(first_bytes(launch, image, BATCH))
    return max(seen.values())


@pytest.fixture
def bakes(cloud: Cloud, image: str) -> Iterator[Iterator[str]]:
    """The image, then others like it: each is frozen at another moment of its kernel's life."""
    made: list[str] = []

    def one_after_another() -> Iterator[str]:
        yield image
        for number in range(BAKES - 1):
            made.append(cloud.built(cloud.create_image(f"again-{number}", interpreter_files(), hooks=HOOKS)))
            yield made[-1]

    yield one_after_another()
    for arn in made:
        cloud.client().delete_microvm_image(imageIdentifier=arn)


def test_without_the_reseed_clones_give_equal_random_bytes(
    unseeded: None, launch: Callable[..., Vm], bakes: Iterator[str]
) -> None:
    """So the difference that clones show otherwise is the reseed's work, and nothing else's.

    Not all need be equal: a clone may be one question further (a thread of its own asked first), and the kernel reseeds
    by itself each time half of its uptime has passed: of an image frozen just before that all clones differ, and
    another image is looked at. But 16 equal bytes twice are no accident.
    """
    assert any(most_alike(launch, image) >= 2 for image in bakes)
