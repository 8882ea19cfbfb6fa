"""docs/compat.md: what of AWS's wire is there, and where it answers differently.

Which operations exist is read from the code, what proves them from the recordings in tests/golden; what no code can
say (differences, contradictions among the sources, errors that cannot come about) stands in docs/compat.toml.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle.api import model
from rekindle.api.model import Operation
from rekindle.api.operations import OPERATIONS

#: lambda-core models Lambda runtimes too: another product.
ELSEWHERE = "Runtime"
RECORDED = ("[R]", "[M]")
INTRO = """# The AWS wire

The API is read from botocore's models of `lambda-microvms` and `lambda-core`: paths, statuses, member names, limits and
error shapes are AWS's. `exact` means: no difference is known, the members of the answer are those recorded from the
live service, and recorded exchanges are replayed against the real API and store
(`tests/golden`, `tests/api/test_golden.py`, `tests/api/test_behaviour.py`). `differs` names what is not so; the second
table says how. `implemented` is the rest: as the model says, but nobody has recorded the live answer.

For every operation botocore is the oracle in both directions, with the model of boto3 and with the older one of the AWS
CLI (`tests/api/test_oracle.py`); every error that it models is provoked or listed below
(`tests/api/test_error_shapes.py`); and malformed requests never end in a 500 (`tests/api/test_fuzz.py`).
"""


def page(root: Path) -> str:
    data = tomllib.loads((root / "docs" / "compat.toml").read_text())
    return (
        f"{INTRO}\n## The operations\n\n{_operations(root, data['difference'])}"
        f"\n## What differs\n\n{_differences(data['difference'])}"
        f"\n## Where the sources contradict each other or are silent\n\n{_contradictions(data['contradiction'])}"
        f"\n## Modelled errors that never come\n\n{_never(data['never'])}"
    )


def ours() -> list[Operation]:
    return [one for one in model.operations() if ELSEWHERE not in one.name]


def _operations(root: Path, differences: Sequence[Mapping[str, Any]]) -> str:
    golden = root / "tests" / "golden"
    projections = json.loads((golden / "projections.json").read_text())
    exchanges = [one for file in sorted(golden.glob("exchanges/*.json")) for one in json.loads(file.read_text())]
    replayed = Counter(one["request"]["operation"] for one in exchanges)
    rows = [
        (
            f"`{one.name}`",
            f"{one.model.http['method']} {one.model.http['responseCode']}",
            _status(one.name, differences, projections[one.name]["source"], replayed[one.name]),
            f"{replayed[one.name]}",
        )
        for one in ours()
    ]
    return table(("operation", "HTTP", "here", "exchanges replayed"), rows)


def _status(name: str, differences: Sequence[Mapping[str, Any]], source: str, replayed: int) -> str:
    if name not in OPERATIONS:
        return "not there: 501 `UnsupportedOperationException`"
    known = [one["what"] for one in differences if name in one.get("operations", ())]
    if known:
        return f"differs: {'; '.join(known)}"
    return "exact" if replayed and source.startswith(RECORDED) else "implemented"


def _differences(differences: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (_where(one.get("operations", ())), one["what"], one["aws"], one["here"], one["why"]) for one in differences
    ]
    return table(("operation", "what", "AWS", "Rekindle", "why"), rows)


def _where(names: Sequence[str]) -> str:
    known = {one.name for one in ours()}
    for name in names:
        if name not in known:
            raise SystemExit(f"docs/compat.toml: {name} is no operation")
    return ", ".join(f"`{name}`" for name in names)


def _contradictions(contradictions: Sequence[Mapping[str, Any]]) -> str:
    rows = [(one["what"], one["sources"], one["here"]) for one in contradictions]
    return table(("what", "what the sources say", "Rekindle"), rows)


def _never(never: Sequence[Mapping[str, Any]]) -> str:
    rows = [(f"`{one['error']}`", _where(one["operations"]), one["why"]) for one in never]
    return table(("error", "operation", "why"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
