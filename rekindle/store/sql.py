"""Reads the SQL files that stand beside this module: named queries and numbered migrations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_HERE = Path(__file__).parent
_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)
_MIGRATION = re.compile(r"(\d{4})_(pre|post)_\w+\.sql")


def parse(text: str) -> dict[str, str]:
    """`-- name --` sections as name → statement. Raises ValueError when a name stands twice."""
    parts = _HEADING.split(text)[1:]
    names, bodies = parts[::2], parts[1::2]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"Queries named twice: {', '.join(sorted(doubled))}")
    return {name: body.strip() for name, body in zip(names, bodies, strict=True)}


def queries() -> Mapping[str, str]:
    """Every statement the store runs. One dialect for SQLite and PostgreSQL; where they will differ, two stand side by
    side."""
    files = sorted((_HERE / "queries").glob("*.sql"))
    return parse("\n".join(file.read_text().partition("\n\n")[2] for file in files))


def schema() -> str:
    return (_HERE / "schema.sql").read_text()


def migrations() -> list[str]:
    """Their scripts in order; migration n is the n-th. Raises ValueError for a gap or a strange file name."""
    files = sorted((_HERE / "migrations").glob("*.sql"))
    for number, file in enumerate(files, start=1):
        match = _MIGRATION.fullmatch(file.name)
        if match is None or int(match[1]) != number:
            raise ValueError(f"Migration {number} is not {file.name}")
    return [file.read_text() for file in files]
