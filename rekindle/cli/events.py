"""`rekindle events`: the stories of microVMs, images and connectors, read once or followed."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean parameter to Typer

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from rekindle.cli import output, session, stories
from rekindle.cli.machines import image_identifier, machine_id
from rekindle.cli.session import CallFailed, Session
from rekindle.clock import wall_ms

_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def events(
    context: typer.Context,
    thing: Annotated[
        str | None, typer.Argument(help="A microVM id or its beginning, an image's name, or an ARN [default: all].")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Not older than this: 30s, 10m, 2h, 7d, or a time as 2026-01-31T12:00 (UTC).")
    ] = None,
    last: Annotated[int, typer.Option(min=0, help="Without --since: so many of the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs, one event a line.")] = False,
) -> None:
    """Tell what happened, when, by whom and why, newest last. Of ended microVMs and images too, for a day."""
    here = session.of(context)
    query = {"limit": str(last)}
    if thing is not None:
        query["subject"] = _subject(here, thing)
    if since is not None:
        query["since_ms"] = str(_since_ms(since, wall_ms()))
    if follow:
        query["follow"] = "1"
    for event in stories.read(here, **query):
        output.line(json.dumps(event) if as_json else _line(event, named=thing is None))


def _line(event: dict[str, Any], *, named: bool) -> str:
    words = stories.sentence(event)
    if not named:
        return words
    kind, _, name = event["subject"].rpartition(":")
    thing = f"{kind.rpartition(':')[2]} {name}" if kind else name
    return f"{words[:19]}  {thing}{words[19:]}"


def _subject(here: Session, name: str) -> str:
    """A microVM's id, or an image's ARN. Raises CallFailed for the beginning of several ids, or of none."""
    if name.startswith("arn:"):
        return name
    if name.startswith("microvm-"):
        return machine_id(here, name)
    found = [vm["id"] for vm in here.get("/v1/microvms", all="1")["items"] if vm["id"].startswith(f"microvm-{name}")]
    if len(found) > 1:
        raise CallFailed(f"{len(found)} microVMs begin with '{name}'; `rekindle ps --all` lists them")
    return str(found[0]) if found else _told_image(here, name)


def _told_image(here: Session, name: str) -> str:
    arn = image_identifier(here, name)
    if not list(stories.read(here, subject=arn, limit="1")):
        raise CallFailed(f"Nothing is told of a microVM or image '{name}'")
    return arn


def _since_ms(text: str, now_ms: int) -> int:
    span = _SPAN.fullmatch(text)
    if span is not None:
        return max(0, now_ms - int(span[1]) * _UNIT_MS[span[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--since {text}: must be as 10m, or as 2026-01-31T12:00") from None
    return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
