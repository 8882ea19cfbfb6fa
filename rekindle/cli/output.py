"""What people and programs read: tables, JSON, sizes and times. Colour and live lines only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Without a terminal nothing is cut: a table is as wide as its longest line.
UNLIMITED = 10_000
STYLES = {
    "RUNNING": "green",
    "SUSPENDED": "cyan",
    "TERMINATED": "dim",
    "CREATED": "green",
    "CREATE_FAILED": "red",
    "UPDATED": "green",
    "UPDATE_FAILED": "red",
    "SUCCESSFUL": "green",
    "FAILED": "red",
    "INACTIVE": "dim",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


def console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else UNLIMITED)


def line(text: str = "") -> None:
    console().print(text, markup=False, soft_wrap=True)


def trouble(text: str) -> None:
    console(stderr=True).print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def document(value: object) -> None:
    """JSON for programs: one document, times as ISO 8601."""
    line(json.dumps(value, indent=2, default=_json_default))


def answer(response: Mapping[str, Any]) -> None:
    """A boto3 answer as JSON, without what is about the call and not the thing."""
    document({key: value for key, value in response.items() if key != "ResponseMetadata"})


def _json_default(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    _show(made)


def facts(pairs: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        made.add_row(name, _cell(value))
    _show(made)


def _show(made: Table) -> None:
    screen = console()
    if screen.is_terminal:
        screen.print(made)
        return
    with screen.capture() as captured:
        screen.print(made)
    line("\n".join(row.rstrip() for row in captured.get().splitlines()))


def _cell(value: object) -> Text:
    words = "-" if value is None or value == "" else str(value)
    return Text(words, style=STYLES.get(words, ""))


@contextmanager
def progress(text: str) -> Iterator[None]:
    """A spinner on a terminal, a plain line elsewhere."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        screen.print(text, markup=False, soft_wrap=True)
        yield
        return
    with screen.status(text):
        yield


def copy(chunks: Iterable[bytes]) -> None:
    """Bytes as they come, to standard output, each flushed: what is followed is seen at once."""
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def size(count: object) -> str:
    """A count of bytes for people."""
    if count is None:
        return "-"
    number = float(str(count))
    for unit in ("B", "KiB", "MiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def span(seconds: object) -> str:
    """A duration for people: its two greatest units."""
    if seconds is None:
        return "-"
    rest = int(str(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def instant(at_ms: object) -> str:
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(int(str(at_ms)) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
