"""Every query in queries.sql is used: what no code runs is deleted."""

from __future__ import annotations

import re
from pathlib import Path

from rekindle.store import sql

STORE = Path(sql.__file__).parent


def test_every_query_is_called_somewhere_and_every_call_has_its_query() -> None:
    code = "".join(file.read_text() for file in STORE.glob("*.py"))
    called = set(re.findall(r"\.(?:all|one|run)\(\s*\"(\w+)\"", code))
    named = {name for name in sql.queries() if not name.startswith("invariant_")}
    assert called == named
