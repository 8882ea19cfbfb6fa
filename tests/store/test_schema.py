"""Migrations lead to the schema; the file is private; a newer file is refused."""

from __future__ import annotations

import re
import sqlite3
import stat
from pathlib import Path

import pytest

from rekindle.core.errors import Invalid
from rekindle.store import database, sql
from rekindle.store.db import Store

from .rows import HandClock


def shape(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: re.sub(r"\s*([,()])\s*", r"\1", re.sub(r"\s+", " ", text)) for name, text in rows}


def test_migrations_equal_the_schema() -> None:
    migrated, direct = sqlite3.connect(":memory:", isolation_level=None), sqlite3.connect(":memory:")
    try:
        database.migrate(migrated, ":memory:")
        direct.executescript(sql.schema())
        assert shape(migrated) == shape(direct)
        assert len(shape(direct)) > 10
    finally:
        migrated.close()
        direct.close()


async def test_the_file_is_private_and_durable(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "rekindle.db"
    path.touch(mode=0o644)
    store = await Store.open(path, clock)
    await store.add_account("000000000000", "default")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"rekindle.db": 0o600, "rekindle.db-wal": 0o600, "rekindle.db-shm": 0o600}
    await store.close()
    again = await Store.open(path, clock)
    assert await again.accounts() == ["000000000000"]
    await again.close()


async def test_a_newer_database_is_refused(tmp_path: Path, clock: HandClock) -> None:
    connection = sqlite3.connect(tmp_path / "rekindle.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(Invalid, match="made by a newer Rekindle"):
        await Store.open(tmp_path / "rekindle.db", clock)


def test_a_query_named_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice: a"):
        sql.parse("-- a --\nSELECT 1\n-- a --\nSELECT 2\n")
