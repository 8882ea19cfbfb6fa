"""The story of a thing: one row per happening, written in the transaction that made it happen.

Append-only, which the schema enforces: no event is ever changed, and a story goes only as a whole. That of a microVM
goes with its row (`forget_terminated`), that of an image or connector as long after its end. An image of the same name
goes on with the story of the earlier one.
"""

from __future__ import annotations

import json

from rekindle.core.microvm import Event
from rekindle.store.database import Database, Row

NOTE = "note"  #: `what` of an event that says what has no meaning on this machine


class Events:
    _db: Database

    async def add_event(self, event: Event) -> None:
        write(self._db, event)

    async def events(self, subject: str | None, limit: int) -> list[Event]:
        """The newest `limit` events of a microVM id or ARN, or of all (None), oldest first."""
        if subject is None:
            return [_event(row) for row in self._db.all("all_events", limit=limit)]
        return [_event(row) for row in self._db.all("events", subject=subject, limit=limit)]

    async def events_after(self, subject: str | None, after: int, *, since_ms: int = 0, limit: int) -> list[Event]:
        """The first `limit` events behind number `after` that are not older than `since_ms`, oldest first."""
        values = {"after": after, "since_ms": since_ms, "limit": limit}
        if subject is None:
            return [_event(row) for row in self._db.all("all_events_after", **values)]
        return [_event(row) for row in self._db.all("events_after", subject=subject, **values)]

    async def forget_ended(self, before_ms: int) -> list[str]:
        """Delete the stories of images and connectors that ended before then; their ARNs."""
        with self._db.transaction():
            over = [row["subject"] for row in self._db.all("ended_before", before_ms=before_ms)]
            for subject in over:
                self._db.run("forget_ended", subject=subject)
                self._db.run("forget_events", subject=subject)
        return over


def write(db: Database, event: Event) -> None:
    """Also used inside other transactions."""
    detail = json.dumps(dict(event.detail))
    db.run(
        "add_event",
        subject=event.subject,
        at_ms=event.at_ms,
        what=event.what,
        why=event.why,
        by_whom=event.by,
        detail=detail,
    )


def end(db: Database, subject: str, at_ms: int) -> None:
    """The row of an image or connector is gone: its story is kept for a while."""
    db.run("add_ended", subject=subject, at_ms=at_ms)


def go_on(db: Database, subject: str) -> None:
    """A row of this name is there again: the story ends with that one."""
    db.run("forget_ended", subject=subject)


def _event(row: Row) -> Event:
    return Event(
        subject=row["subject"],
        at_ms=row["at_ms"],
        what=row["what"],
        why=row["why"],
        by=row["by_whom"],
        detail=json.loads(row["detail"]),
        number=row["id"],
    )
