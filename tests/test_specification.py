"""SPECIFICATION.md names a proof for each promise; a proof that does not exist is a false claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROMISES = (ROOT / "SPECIFICATION.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|go|bench|docs)/[\w/.]+)", PROMISES))))
def test_a_named_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b(test_\w+)`", PROMISES))))
def test_a_named_test_exists(name: str) -> None:
    sources = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    assert any(f"def {name}(" in source for source in sources)


def test_every_row_has_a_proof_or_says_unproven() -> None:
    promised, _, _ = PROMISES.partition("## Speed")  # figures prove themselves
    rows = [
        line for line in promised.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|--"))
    ]
    promises = [row.split("|") for row in rows if row.count("|") == 3]
    assert len(promises) > 20
    for _, promise, proof, _ in promises:
        assert re.search(r"tests/|test_|go/|bench|unproven|not promised|docs/", proof), promise
