"""What a signature is over: the request as it was on the wire, and its canonical form.

Service `s3` differs from all others here in its path alone: encoded once and not normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it was on the wire. Text is latin-1 of the bytes received, as ASGI servers hand them over."""

    method: str
    path_raw: str  #: still percent-encoded, without the query
    query_raw: str  #: still percent-encoded, without the `?`
    headers: tuple[tuple[str, str], ...]  #: in the order received, repeated ones included
    body_sha256: str  #: lower-case hex; not read for s3, whose bodies are checked as they stream


def values_of(request: SignedRequest, name: str) -> list[str]:
    """Of every header of that name, given in lower case."""
    return [value for key, value in request.headers if key.lower() == name]


def canonical_request(request: SignedRequest, signed: tuple[str, ...], payload: str, service: str) -> bytes:
    """What is signed, by its hash; `payload` stands for the body, `signed` are header names in lower case."""
    encode = _path_once if service == "s3" else _path_twice
    lines = [
        request.method.encode(),
        encode(request.path_raw),
        _canonical_query(request.query_raw),
        *(_canonical_header(request, name) for name in signed),
        b"",
        ";".join(signed).encode("latin-1"),
        payload.encode("latin-1"),
    ]
    return b"\n".join(lines)


def _path_once(path_raw: str) -> bytes:
    """Decoded and encoded again, so that it does not matter which characters the client left plain."""
    return "/".join(_again(segment) for segment in path_raw.split("/")).encode() or b"/"


def _path_twice(path_raw: str) -> bytes:
    """The path as sent, without empty and dot segments, percent-encoded once more (`%3A` becomes `%253A`)."""
    kept: list[str] = []
    for segment in path_raw.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    path = "/" + "/".join(kept)
    if kept and path_raw.endswith("/"):
        path += "/"
    return quote(path.encode("latin-1"), safe="/~").encode()


def _canonical_query(query_raw: str) -> bytes:
    pairs = (part.partition("=") for part in query_raw.split("&") if part)
    encoded = sorted((_again(name), _again(value)) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded).encode()


def _again(text: str) -> str:
    return quote(unquote_to_bytes(text.encode("latin-1")), safe="~")


def _canonical_header(request: SignedRequest, name: str) -> bytes:
    """Repeated headers joined in the order received; blanks trimmed and collapsed (bytes: \\xa0 is no blank here)."""
    values = (b" ".join(value.encode("latin-1").split()) for value in values_of(request, name))
    return name.encode("latin-1") + b":" + b",".join(values)
