"""One service without machines for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rekindle.config import Config, Memory
from tests.cli.ground import Ground, ground, long_state_folder


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Ground]:
    state = long_state_folder(tmp_path)
    config = Config(state=state, tools_dir=tmp_path / "tools", memory=Memory(extra_sizes_mib=(256,), peak_factor=2))
    async with ground(config) as made:
        yield made
