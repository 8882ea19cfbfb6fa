"""docs/clones.md: every hazard has a policy and a test that exists, or says that it has none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/clones.md").read_text()
#: What the issue of clones is about; each must be in a row's first column.
HAZARDS = (
    *("Kernel RNG", "OpenSSL", "Python `random`", "Python `secrets`", "Node", "Go `crypto/rand`", "Go `math/rand`"),
    *("Java", "machine-id", "boot-id", "SSH host keys", "Hostname", "Wall clock", "Addresses", "TLS session tickets"),
    *("Outbound sockets", "Credentials", "Lock files", "Timers", "`CLOCK_MONOTONIC`", "`CLOCK_BOOTTIME`"),
)


def rows() -> list[list[str]]:
    table = PAGE.partition("## The table")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def known() -> str:
    python = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    go = [path.read_text() for path in (ROOT / "go").rglob("*_test.go")]
    return "\n".join(python + go)


def test_every_hazard_has_its_row() -> None:
    first = [row[0] for row in rows()]
    assert len(first) == len(set(first)) > 20
    for hazard in HAZARDS:
        assert any(hazard in one for one in first), hazard


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_a_row_says_what_is_done_by_whom_and_which_test_shows_it(row: list[str]) -> None:
    assert len(row) == 4, row
    hazard, policy, app, proof = row
    assert hazard
    assert policy
    assert app
    assert re.search(r"`\w+`|\*unproven\*", proof), proof


@pytest.mark.parametrize("name", sorted({name for row in rows() for name in re.findall(r"`(\w+)`", row[3])}))
def test_a_named_test_exists(name: str) -> None:
    assert re.search(rf"(def|func|func \(m \*machine\)) {name}\(", known()), name
