"""Method and path → operation, from the models' request URIs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote

from rekindle.api.errors import Malformed, UnknownOperation
from rekindle.api.model import Operation, operations


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    segments: tuple[str, ...]  #: a label is `{name}`
    operation: Operation

    def match(self, method: str, segments: tuple[str, ...]) -> dict[str, str] | None:
        """The labels, still encoded, or None."""
        if method != self.method or len(segments) != len(self.segments):
            return None
        labels = {}
        for pattern, segment in zip(self.segments, segments, strict=True):
            if pattern.startswith("{") and segment:
                labels[pattern[1:-1]] = segment
            elif pattern != segment:
                return None
        return labels


@cache
def routes() -> tuple[Route, ...]:
    """Literal segments before labels, so that `/a/list` is not taken for `/a/{id}`."""
    made = [Route(one.model.http["method"], _segments(one.model.http["requestUri"]), one) for one in operations()]
    return tuple(sorted(made, key=lambda route: [segment.startswith("{") for segment in route.segments]))


def route(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    """Split before decoding, so an encoded `/` stays inside its label. Raises UnknownOperation, or Malformed."""
    segments = _segments(path)
    for candidate in routes():
        labels = candidate.match(method, segments)
        if labels is not None:
            return candidate.operation, {name: _decoded(value) for name, value in labels.items()}
    raise UnknownOperation(f"No operation answers {method} {path[:256]}")


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("?")[0].split("/"))


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Malformed("A path segment is not UTF-8") from None
