"""What happened to microVMs and images, for people: the table of `inspect`, and the last lines behind an error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rekindle.cli import output
from rekindle.cli.session import CallFailed, Session
from rekindle.core.errors import RekindleError

LAST = "5"


def read(here: Session, **query: str) -> Iterator[dict[str, Any]]:
    """Events as they come (operator API, `/v1/events`). Raises NotRunning, CallFailed."""
    rest = b""
    for chunk in here.stream("/v1/events", **query):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(json.loads, lines)


def story(events: Iterable[Mapping[str, Any]]) -> None:
    """What happened to a thing, oldest first."""
    output.line("\nStory")
    rows = ((f"  {output.instant(event['at_ms'])}", event["what"], event["by"], event["why"]) for event in events)
    output.table(("  AT (UTC)", "WHAT", "BY", "WHY"), rows)


def sentence(event: Mapping[str, Any]) -> str:
    """One event without its subject."""
    why = f": {event['why']}" if event["why"] else ""
    return f"{output.instant(event['at_ms'])}  {event['what']} (by {event['by']}){why}"


@contextmanager
def behind_failures(here: Session, subject: str) -> Iterator[None]:
    """A CallFailed that leaves this block ends with the last lines of the story of `subject`."""
    try:
        yield
    except CallFailed as error:
        raise CallFailed(error.message + last_lines(here, subject)) from error


def last_lines(here: Session, subject: str) -> str:
    """Lines to put behind an error; nothing when there is no story, or no service to tell it."""
    try:
        events = list(read(here, subject=subject, limit=LAST))
    except RekindleError:
        return ""
    return "".join(f"\n  {sentence(event)}" for event in events)
