"""A clock moved by hand and a store with one account; what a test leaves must break no invariant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "rekindle.db", clock)
    await store.add_account(ACCOUNT, "default")
    yield store
    await store.check_invariants()
    await store.close()
