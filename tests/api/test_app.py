"""The edge: who is let in, what is never a 500, and that nothing of the wire is typed by hand."""

from __future__ import annotations

import io
import json
import tokenize
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

import rekindle
from rekindle.api import model
from rekindle.api.app import MAX_BODY_BYTES, make_app
from rekindle.api.operations import OPERATIONS
from rekindle.config import Config
from rekindle.core.microvm import MicroVM
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, HandClock, arn, built_image

from .conftest import KEYS
from .wire import RecordingEngine, Wire, create_params, http, operation, raw, sign

PACKAGE = Path(rekindle.__file__).parent
LIST = "/2025-09-09/microvms"


@pytest.fixture
def app(store: Store, engine: RecordingEngine, config: Config, clock: HandClock) -> ASGIApp:
    return make_app(store, engine, config, clock, host_cpus=2)


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7070")


async def send(app: ASGIApp, name: str, params: dict[str, Any], key: tuple[str, str] = KEYS[ACCOUNT]) -> httpx.Response:
    signed = sign(http(operation(name), params), key)
    async with client(app) as http_client:
        return await http_client.request(
            signed.method, f"{signed.path}?{signed.query}", headers=list(signed.headers), content=signed.body
        )


async def test_every_answer_has_a_request_id_and_a_type(app: ASGIApp) -> None:
    good, bad = await send(app, "ListMicrovms", {}), await send(app, "ListMicrovms", {"maxResults": 99})
    assert (good.status_code, bad.status_code) == (HTTPStatus.OK, HTTPStatus.BAD_REQUEST)
    ids = {answer.headers["x-amzn-requestid"] for answer in (good, bad)}
    assert len(ids) == 2
    assert {answer.headers["content-type"] for answer in (good, bad)} == {"application/json"}


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ((KEYS[ACCOUNT][0], "wrong"), "InvalidSignatureException"),
        (("AKIANOBODYNOBODYNOBO", "x"), "UnrecognizedClientException"),
    ],
)
async def test_a_stranger_learns_nothing(app: ASGIApp, key: tuple[str, str], code: str) -> None:
    answer = await send(app, "ListMicrovms", {}, key)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (HTTPStatus.FORBIDDEN, code)
    assert list(answer.json()) == ["message"]


async def test_an_unsigned_request_is_refused_before_its_path_is_looked_at(app: ASGIApp) -> None:
    async with client(app) as http_client:
        for path in (LIST, "/nothing"):
            answer = await http_client.get(path)
            assert answer.status_code == HTTPStatus.FORBIDDEN
            assert answer.json() == {"message": "Missing Authentication Token"}


async def test_a_changed_body_is_noticed(wire: Wire, store: Store) -> None:
    signed = sign(http(operation("CreateMicrovmImage"), create_params()), wire.key)
    forged = json.dumps(create_params(name="forged")).encode()
    reply = await wire.api.answer(raw_with(signed, forged))
    assert reply.headers["X-Amzn-Errortype"] == "InvalidSignatureException"
    assert await store.versions_owing() == []


def raw_with(signed: Any, body: bytes) -> Any:
    return replace(signed, body=body)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_too_large_is_not_read_to_its_end(app: ASGIApp, announced: bool) -> None:
    taken = 0

    async def body() -> Any:
        nonlocal taken
        while taken < 4 * MAX_BODY_BYTES:
            taken += 1 << 20
            yield bytes(1 << 20)

    headers = {"content-length": str(4 * MAX_BODY_BYTES)} if announced else {}
    async with client(app) as http_client:
        answer = await http_client.post(LIST, content=body(), headers=headers)
    assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert answer.headers["connection"] == "close"
    assert taken <= MAX_BODY_BYTES + (2 << 20)


async def test_a_path_that_nothing_answers(wire: Wire) -> None:
    for method, path in (
        ("GET", "/"),
        ("PATCH", LIST),
        ("GET", f"{LIST}/a/b/c"),
        ("GET", f"{LIST}/"),
        ("DELETE", "//"),
        ("BREW", "/coffee"),
    ):
        answer = await wire.send(method, path)
        assert answer.reply.headers["X-Amzn-Errortype"] == "UnknownOperationException"
        assert answer.status == HTTPStatus.NOT_FOUND


class BrokenEngine(RecordingEngine):
    async def admit(self, vm: MicroVM) -> MicroVM:
        raise ZeroDivisionError("a bug, with the secret path in it")


async def test_a_bug_is_logged_and_not_told(
    store: Store, config: Config, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    await built_image(store)
    answer = await send(make_app(store, BrokenEngine(), config, clock), "RunMicrovm", {"imageIdentifier": arn("demo")})
    assert answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert answer.json() == {"message": "Internal service error."}
    [record] = [one for one in caplog.records if one.exc_info]
    assert answer.headers["x-amzn-requestid"] in record.getMessage()


# --- anything at all: an answer below 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SOME = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SOME
@given(data=st.data())
async def test_any_body_is_answered(wire: Wire, store: Store, data: st.DataObject) -> None:
    op = operation(data.draw(st.sampled_from(sorted(OPERATIONS))))
    members = st.sampled_from(sorted(op.input_shape.members)) | st.text(max_size=5)
    made = st.dictionaries(members, JSON, max_size=6).map(lambda body: json.dumps(body).encode())
    labels = {
        name: data.draw(st.sampled_from([arn("demo"), "microvm-x", "1.0"]) | st.text(min_size=1, max_size=8))
        for name, member in op.input_shape.members.items()
        if member.serialization.get("location") == "uri"
    }
    body = data.draw(made | st.binary(max_size=20))
    answer = await wire.post(op.name, labels, body)
    assert answer.status < HTTPStatus.INTERNAL_SERVER_ERROR


ODD = ("microvm-images", "versions", "builds", "%", "%ff", "%2F", "..", "\u00ff", ";")
PIECES = st.sampled_from([*LIST.split("/"), *ODD])


@SOME
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "X"]),
    path=st.lists(PIECES, max_size=6).map(lambda pieces: "/" + "/".join(pieces)),
    query=st.text(st.sampled_from("aN=&%f+\u00e9\u0000"), max_size=12),
    body=st.binary(max_size=30),
)
async def test_any_request_line_is_answered(wire: Wire, method: str, path: str, query: str, body: bytes) -> None:
    request = raw_of(wire, method, path, query, body)
    reply = await wire.api.answer(request)
    assert reply.headers.get("X-Amzn-Errortype") != "InvalidSignatureException"
    unsupported = reply.status == HTTPStatus.NOT_IMPLEMENTED
    assert unsupported or reply.status < HTTPStatus.INTERNAL_SERVER_ERROR


def raw_of(wire: Wire, method: str, path: str, query: str, body: bytes) -> Any:
    """Signed by our own reading of the request, since no client would make it."""
    blank = raw(http(operation("ListMicrovms"), {}))
    return wire.signed(replace(blank, method=method, path=path, query=query, body=body))


# --- nothing of the wire is typed by hand


def test_no_status_and_no_path_is_typed_in_the_api() -> None:
    statuses = {str(int(status)) for status in HTTPStatus}
    for file in (PACKAGE / "api").glob("*.py"):
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            assert not (token.type == tokenize.NUMBER and token.string in statuses), f"{file.name}: {token}"
            assert "2025-09-09" not in token.string, f"{file.name}: {token}"


def test_aws_names_live_in_the_api_only() -> None:
    shapes = [model.service("lambda-microvms").shape_for(name) for name in model.service("lambda-microvms").shape_names]
    members = {name for shape in shapes if shape.type_name == "structure" for name in shape.members}
    camel = {name for name in members if any(char.isupper() for char in name)}
    for room in ("core", "store", "driver", "guest", "image"):
        for file in (PACKAGE / room).rglob("*.py"):
            text = file.read_text()
            if file.name == "policy.py":  # `Resource` is IAM's word as well as the tag routes'
                continue
            assert not [name for name in camel if f'"{name}"' in text], file


# --- what is no request


async def test_a_websocket_is_refused(app: ASGIApp) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "raw_path": b"/", "headers": [], "query_string": b"", "subprotocols": []}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_caller_who_hangs_up_gets_nothing(app: ASGIApp, store: Store) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"sent to nobody: {message}")

    scope = {
        "type": "http",
        "method": "POST",
        "path": LIST,
        "raw_path": LIST.encode(),
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)
    assert await store.versions_owing() == []
