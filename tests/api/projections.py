"""The member sets of every success answer, as recorded: `tests/golden/projections.json` says which, and from where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PROJECTIONS: Mapping[str, Mapping[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "projections.json").read_text()
)


def assert_projected(operation: str, body: bytes) -> None:
    """Fails for a member too many or too few, wherever in the answer; what is null or an empty list has none."""
    projection = PROJECTIONS[operation]
    if not projection["members"]:
        assert body == b""
        return
    answer = json.loads(body)
    for path, members in projection["members"].items():
        sometimes = set(projection.get("sometimes", {}).get(path, ()))
        for found in _at(answer, path):
            assert set(found) - sometimes == set(members), (operation, path)


def _at(value: Any, path: str) -> Iterator[Any]:
    name, _, rest = path.partition(".")
    if value is None:
        return
    if name == "":
        yield value
    elif name.endswith("[]"):
        for one in value[name[:-2]]:
            yield from _at(one, rest)
    else:
        yield from _at(value[name], rest)
