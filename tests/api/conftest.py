"""The API over a real store, without sockets; two accounts with a key each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rekindle.api.app import Api
from rekindle.api.context import Tools
from rekindle.clock import wall_ms
from rekindle.config import Config, Memory
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, HandClock

from .wire import RecordingEngine, Wire

KEYS = {
    ACCOUNT: ("AKIAAAAAAAAAAAAAAAAA", "secret-of-the-first"),
    OTHER: ("AKIABBBBBBBBBBBBBBBB", "secret-of-the-other"),
}


@pytest.fixture
def clock() -> HandClock:
    """Stands still at the start of the test: signatures are checked against it."""
    return HandClock(wall_ms())


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "rekindle.db", clock)
    for account, (key_id, secret) in KEYS.items():
        await store.add_account(account, account)
        await store.add_access_key(key_id, secret, account, "test")
    yield store
    await store.check_invariants()
    await store.close()


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state=tmp_path, tools_dir=tmp_path / "tools", memory=Memory(extra_sizes_mib=(256,)))


@pytest.fixture
def api(store: Store, engine: RecordingEngine, config: Config, clock: HandClock) -> Api:
    return Api(Tools(store=store, engine=engine, config=config, clock=clock, host_cpus=2))


@pytest.fixture
def wire(api: Api) -> Wire:
    return Wire(api, KEYS[ACCOUNT])


@pytest.fixture
def other(api: Api) -> Wire:
    """The same service, called by somebody else."""
    return Wire(api, KEYS[OTHER])
