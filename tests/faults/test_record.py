"""Parts of a campaign are judged together, and only when all are in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.record import Asked, never_met

A, B, C = ("a.py", "f", "await a()"), ("a.py", "f", "await b()"), ("a.py", "g", "c.unlink()")


def _part(monkeypatch: pytest.MonkeyPatch, faults: str, half: str | None) -> Asked:
    monkeypatch.setenv("FAULTS", faults)
    monkeypatch.delenv("FAULTS_OF", raising=False)
    if half:
        monkeypatch.setenv("FAULTS_OF", half)
    return Asked.from_environment()


def test_a_run_of_everything_is_judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULTS_RECORD", raising=False)
    assert never_met(_part(monkeypatch, "each", None), {A: 2, B: 0, C: 1}) == {B}
    assert never_met(_part(monkeypatch, "kill", None), {A: 2, B: 0, C: 1}) is None


def test_the_last_part_of_a_record_is_judged_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS_RECORD", str(tmp_path / "record"))
    assert never_met(_part(monkeypatch, "kill", "microvms"), {A: 1, B: 0, C: 0}) is None
    assert never_met(_part(monkeypatch, "kill", "images"), {A: 0, B: 0, C: 0}) is None
    assert never_met(_part(monkeypatch, "others", "images"), {A: 0, B: 7, C: 0}) is None
    assert never_met(_part(monkeypatch, "others", "microvms"), {A: 0, B: 0, C: 0}) == {C}


def test_a_part_of_another_source_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS_RECORD", str(tmp_path))
    assert never_met(_part(monkeypatch, "each", "images"), {A: 1, B: 1}) is None
    assert never_met(_part(monkeypatch, "each", "microvms"), {A: 1, C: 0}) is None


def test_what_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="FAULTS=some"):
        _part(monkeypatch, "some", None)
    with pytest.raises(ValueError, match="FAULTS_OF=volumes"):
        _part(monkeypatch, "each", "volumes")
