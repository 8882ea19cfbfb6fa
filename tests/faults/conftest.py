"""One traced service, and one image that it bakes itself: the bake's boundaries are met by that."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle.image import buildnet
from tests.e2e.cloud import HOOKS, interpreter_files
from tests.faults.rig import Rig


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory, tools_dir: Path) -> Iterator[Rig]:
    if os.geteuid() != 0 and (missing := buildnet.why_none()):
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("faults")
    rig = Rig(folder / "state", tools_dir, first_port=22000, folder=folder)
    try:
        rig.start()
        yield rig
    finally:
        rig.down()


@pytest.fixture(scope="session")
def baked(rig: Rig) -> str:
    return rig.built(rig.create_image("interpreter", interpreter_files(), hooks=HOOKS))


@pytest.fixture
def seed() -> int:
    """Printed; `FAULT_SEED=<number>` plays that one again."""
    seed = int(os.environ.get("FAULT_SEED", random.randrange(2**32)))
    print(f"FAULT_SEED={seed}")
    return seed
