"""The store: everything that must survive a crash, one SQLite file. `Store` is the sum of its small parts."""

from __future__ import annotations

from pathlib import Path

from rekindle.clock import Clock
from rekindle.store import database
from rekindle.store.accounts import Accounts
from rekindle.store.boots import Boots
from rekindle.store.connectors import Connectors
from rekindle.store.events import Events
from rekindle.store.image_changes import ImageChanges
from rekindle.store.tags import Tags


class Store(Accounts, ImageChanges, Boots, Connectors, Tags, Events):
    """All methods are atomic and durable when they return. Not for use from several threads."""

    def __init__(self, db: database.Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> Store:
        """Open or make the database at `path`. Raises Invalid when a newer Rekindle made it."""
        return cls(database.connect(path), clock)

    @classmethod
    async def open_to_read(cls, path: Path, clock: Clock) -> Store:
        """Open a database that is there and change nothing in it. Raises Invalid when its schema is not ours."""
        return cls(database.connect_to_read(path), clock)

    async def close(self) -> None:
        self._db.close()

    async def check_invariants(self) -> None:
        """Raises AssertionError naming every rule that the rows break; for tests and `rekindle doctor`."""
        broken = [f"foreign key: {row}" for row in self._db.check_foreign_keys()]
        for name in self._db.queries:
            if name.startswith("invariant_"):
                broken += [f"{name.removeprefix('invariant_')}: {tuple(row)}" for row in self._db.all(name)]
        if broken:
            raise AssertionError("; ".join(broken))
