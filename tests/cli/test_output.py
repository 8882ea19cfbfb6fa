"""How sizes, times and tables read."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from rekindle.cli import output


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 << 20, "10.0 MiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes(count: int | None, words: str) -> None:
    assert output.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0, "0s"), (59, "59s"), (60, "1m"), (3661, "1h 1m"), (90_000, "1d 1h"), (86_401, "1d 1s")],
)
def test_spans(seconds: int | None, words: str) -> None:
    assert output.span(seconds) == words


def test_an_instant_is_utc() -> None:
    assert output.instant(0) == "1970-01-01 00:00:00"
    assert output.instant(None) == "-"


def test_without_a_terminal_a_table_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "WHAT"), [("x" * 300, "[not markup]"), ("y", None)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["NAME", "WHAT"], ["x" * 300, "[not", "markup]"], ["y", "-"]]


def test_json_is_one_document_with_iso_times(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "text": "é" * 500, "ResponseMetadata": {}}
    output.answer(value)
    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-02T03:04:05+00:00", "text": "é" * 500}


def test_trouble_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    output.trouble("[this] did not work")
    assert capsys.readouterr() == ("", "error: [this] did not work\n")
