"""A store in a file with two accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rekindle.store.db import Store

from .rows import ACCOUNT, OTHER, HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    """Two accounts; what a test leaves must break no invariant."""
    store = await Store.open(tmp_path / "rekindle.db", clock)
    await store.add_account(ACCOUNT, "default")
    await store.add_account(OTHER, "other")
    yield store
    await store.check_invariants()
    await store.close()
