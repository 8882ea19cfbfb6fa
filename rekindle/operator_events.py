"""Stories on the operator's API: what happened to one thing or to all, to read once or to follow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from rekindle.core.errors import Invalid
from rekindle.core.microvm import Event
from rekindle.jsonable import jsonable
from rekindle.rest import rest
from rekindle.store.db import Store

EVENTS_SHOWN = 50
PAGE = 200
DIGITS = 15  #: more than a time in milliseconds has
#: An event wakes nobody who waits here: how often a follower looks.
FOLLOW_EVERY_S = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Events:
    store: Store

    def routes(self) -> list[Route]:
        return [Route("/v1/events", self.read)]

    async def read(self, request: Request) -> Response:
        """NDJSON, oldest first: the newest `limit` events of `subject` (default: of everything), or with `since_ms`
        all that are not older; with `follow=1` the line stays open for what comes."""
        query, seen, first = request.query_params, 0, list[Event]()
        subject, since_ms = query.get("subject"), _number(query, "since_ms", 0)
        if "since_ms" not in query:
            seen = _last(await self.store.events(None, 1), 0)
            first = await self.store.events(subject, _number(query, "limit", EVENTS_SHOWN))
        later = self._later(subject, seen, since_ms=since_ms, follow="follow" in query)
        return StreamingResponse(_lines(first, later), media_type="application/x-ndjson")

    async def _later(
        self, subject: str | None, seen: int, *, since_ms: int, follow: bool
    ) -> AsyncIterator[list[Event]]:
        """What comes behind the event number `seen`."""
        while True:
            more = await self.store.events_after(subject, seen, since_ms=since_ms, limit=PAGE)
            seen = _last(more, seen)
            if more:
                yield more
            elif follow:
                await rest(FOLLOW_EVERY_S)
            else:
                return


def _last(events: Sequence[Event], otherwise: int) -> int:
    """The number of the last of them."""
    return events[-1].number or otherwise if events else otherwise


async def _lines(first: Sequence[Event], later: AsyncIterator[list[Event]]) -> AsyncIterator[str]:
    yield _text(first)
    async for events in later:
        yield _text(events)


def _text(events: Sequence[Event]) -> str:
    return "".join(json.dumps(jsonable(event)) + "\n" for event in events)


def _number(query: Mapping[str, str], name: str, otherwise: int) -> int:
    text = query.get(name, str(otherwise))
    if not text.isdecimal() or len(text) > DIGITS:
        raise Invalid(f"{name} must be a number of {DIGITS} digits at most")
    return int(text)
