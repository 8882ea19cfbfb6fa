"""The ASGI app spoken to in bytes, and what must be true of each of its answers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp

from rekindle.api.context import Raw


@dataclass(frozen=True)
class Got:
    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def type(self) -> str | None:
        return self.headers.get("x-amzn-errortype")


async def ask(app: ASGIApp, request: Raw) -> Got:
    """`request` as an ASGI server would hand it over: no client library in between that would tidy it up."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode("latin-1"),
        "query_string": request.query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in request.headers],
    }
    incoming = [{"type": "http.request", "body": request.body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in sent[0]["headers"]}
    return Got(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


def check(got: Got) -> Got:
    """Whatever was asked: a request id, JSON, a type on every error, and nothing of our inside."""
    assert got.status < HTTPStatus.INTERNAL_SERVER_ERROR or got.status == HTTPStatus.NOT_IMPLEMENTED, got
    assert uuid.UUID(got.headers["x-amzn-requestid"])
    for inside in (b"Traceback", b"sqlite", b".py", b"object at 0x"):
        assert inside not in got.body
    if got.status < HTTPStatus.BAD_REQUEST:
        assert got.type is None
        assert got.body == b"" if got.status == HTTPStatus.NO_CONTENT else isinstance(got.json, dict)
        return got
    assert got.headers["content-type"] == "application/json"
    assert got.type is not None
    assert got.type.isalnum()
    assert {"message", "Message"} & set(got.json)
    return got
