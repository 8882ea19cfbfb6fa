"""One SQLite connection: named queries, transactions, migrations. Knows no table.

Calls run directly on the event loop: a statement takes microseconds, a commit one fsync of the log. Nothing here
awaits, so whatever happens inside one `transaction` is seen by other coroutines whole or not at all.
"""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rekindle.core.errors import Invalid
from rekindle.store import sql

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = sqlite3.Row

_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # an answered request must survive a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",  # milliseconds; a backup may hold the file for a moment
)


class Database:
    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, str]) -> None:
        connection.row_factory = Row
        self._connection = connection
        self.queries = queries

    def all(self, query: str, **values: object) -> list[Row]:
        return self._connection.execute(self.queries[query], values).fetchall()

    def one(self, query: str, **values: object) -> Row | None:
        """The first row, or None. Runs a statement to its end, so RETURNING is safe here."""
        rows = self.all(query, **values)
        return rows[0] if rows else None

    def run(self, query: str, **values: object) -> int:
        """How many rows it changed."""
        return self._connection.execute(self.queries[query], values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Never await inside: the next coroutine would write into this transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def check_foreign_keys(self) -> list[str]:
        return [str(tuple(row)) for row in self._connection.execute("PRAGMA foreign_key_check")]

    def close(self) -> None:
        self._connection.close()


def connect(path: Path) -> Database:
    """Open or make the database, 0600, with every migration applied.

    Raises Invalid when a newer Rekindle made it: going back would lose what it wrote.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
        migrate(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return Database(connection, sql.queries())


def connect_to_read(path: Path) -> Database:
    """Open a database that another process may be using; whatever would change it fails.

    Raises Invalid when its schema is not the one that this program knows: then rows may mean something else.
    """
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only = ON")
        done: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if done != (ours := len(sql.migrations())):
            raise Invalid(f"{path} has schema {done}, this Rekindle {ours}; its service brings it up to date")
    except BaseException:
        connection.close()
        raise
    return Database(connection, sql.queries())


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Apply the migrations that are missing, each in a transaction of its own with its number."""
    scripts = sql.migrations()
    done: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if done > len(scripts):
        raise Invalid(f"{name} was made by a newer Rekindle (schema {done}, this one knows {len(scripts)})")
    for number in range(done + 1, len(scripts) + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {scripts[number - 1]}; PRAGMA user_version = {number}; COMMIT;")


def columns(value: DataclassInstance) -> dict[str, Any]:
    """The fields of a core object by name, none of them copied or taken apart."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
