"""The story of a thing: one row per happening, written in the transaction that made it happen."""

from __future__ import annotations

import json

from rekindle.core.microvm import Event
from rekindle.store.database import Database, Row

NOTE = "note"  #: `what` of an event that says what has no meaning on this machine


class Events:
    _db: Database

    async def add_event(self, event: Event) -> None:
        write(self._db, event)

    async def events(self, subject: str, limit: int) -> list[Event]:
        """The newest `limit` events of a microVM id or an image ARN, oldest first."""
        return [_event(row) for row in self._db.all("events", subject=subject, limit=limit)]


def write(db: Database, event: Event) -> None:
    """Also used inside other transactions."""
    detail = json.dumps(dict(event.detail))
    db.run("add_event", subject=event.subject, at_ms=event.at_ms, what=event.what, why=event.why, detail=detail)


def _event(row: Row) -> Event:
    return Event(
        subject=row["subject"], at_ms=row["at_ms"], what=row["what"], why=row["why"], detail=json.loads(row["detail"])
    )
