"""Requests that no client library makes: never a 500, never a traceback, always a request id and an error's type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from botocore.model import Shape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from rekindle.api import model
from rekindle.api.app import make_app
from rekindle.api.context import Raw
from rekindle.api.model import Operation
from rekindle.config import Config
from rekindle.store.db import Store
from tests.store.rows import HandClock, arn, built_image

from .edge import Got, ask, check
from .odd import BODIES, LABELS, ODD, QUERIES
from .requests import USUAL
from .wire import RecordingEngine, Wire, http, raw
from .world import make_world

IMAGES, VMS = "/2025-09-09/microvm-images", "/2025-09-09/microvms"
LABEL = {"Identifier": "nc-x", "Resource": arn("demo"), "imageIdentifier": arn("demo"), "imageVersion": "1.0"}
OURS = [one for one in model.operations() if "Runtime" not in one.name]
FEW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A traceback in the log is a bug, whatever the answer was."""
    yield
    assert [record.getMessage() for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []


@pytest.fixture
async def app(store: Store, engine: RecordingEngine, config: Config, clock: HandClock) -> ASGIApp:
    return make_app(store, engine, config, clock, host_cpus=2)


Ask = Callable[..., Any]


@pytest.fixture
def asked(app: ASGIApp, wire: Wire) -> Ask:
    """Ask it well signed, whatever it is, and check the answer."""

    async def asking(method: str, path: str, query: str = "", body: bytes = b"", *headers: tuple[str, str]) -> Got:
        signed = wire.signed(Raw("0", method, path, query, (), body))
        got = check(await ask(app, replace(signed, headers=(*signed.headers, *headers))))
        assert got.type not in ("InvalidSignatureException", "MissingAuthenticationTokenException"), got
        return got

    return asking


def path_of(operation: Operation, **labels: str) -> str:
    """Where the operation is, its labels already encoded."""
    uri = operation.model.http["requestUri"].split("?")[0]
    names = {name: labels.get(name, quote(LABEL.get(name, "x"), safe="")) for name in _labels(operation)}
    return str(uri.format(**names))


def _labels(operation: Operation) -> list[str]:
    members = operation.model.input_shape.members.items()
    return [name for name, member in members if member.serialization.get("location") == "uri"]


# --- a value of every wrong type at every place of every body


def places(shape: Shape, around: Callable[[Any], Any], depth: int = 0) -> Iterator[Callable[[Any], Any]]:
    """One function for each place in a body of `shape`: a value in, a body with it at that place out."""
    yield around
    if depth > 6:
        return
    match shape.type_name:
        case "structure":
            for name, member in shape.members.items():
                yield from places(member, partial(_inside, around, name), depth + 1)
        case "list":
            yield from places(shape.member, lambda value: around([value]), depth + 1)
        case "map":
            yield from places(shape.value, partial(_inside, around, "k"), depth + 1)


def _inside(around: Callable[[Any], Any], name: str, value: Any) -> Any:
    return around({name: value})


@pytest.mark.parametrize("operation", OURS, ids=lambda one: str(one.name))
async def test_any_type_at_any_place(asked: Ask, wire: Wire, other: Wire, operation: Operation) -> None:
    """All the rest is as it should be, so that the odd value gets as far as it can."""
    usual = raw(http(operation.model, USUAL[operation.name](await make_world(wire, other))))
    good = json.loads(usual.body or b"{}")
    count = 0
    for place in places(operation.model.input_shape, lambda value: value):
        for odd in ODD:
            fresh = {name: f"n{count}" for name in ("name", "Name", "ClientToken") if name in good}
            body = json.dumps(merged(good | fresh, place(odd))).encode()
            await asked(usual.method, usual.path, usual.query, body)
            count += 1
    assert count >= len(ODD)


def merged(good: Any, odd: Any) -> Any:
    """`odd` where it says something, `good` elsewhere."""
    if isinstance(good, dict) and isinstance(odd, dict) and odd:
        return good | {name: merged(good.get(name), one) for name, one in odd.items()}
    return odd


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_odd_bodies(asked: Ask, body: bytes) -> None:
    for operation in OURS:
        await asked(operation.model.http["method"], path_of(operation), body=body)


@pytest.mark.parametrize(
    "headers",
    [
        (("content-type", "text/plain"),),
        (("content-type", "application/x-amz-json-1.1"), ("content-type", "multipart/form-data")),
        (("content-type", "\xff\xfe"), ("content-encoding", "gzip")),
        (("x-amz-target", "Lambda.RunMicrovm"), ("x-http-method-override", "DELETE")),
        (("transfer-encoding", "chunked"), ("content-length", "-1"), ("content-length", "+2"), ("te", "trailers")),
        (("content-length", "\u00b2\u00b3"), ("host", "other"), ("connection", "upgrade"), ("upgrade", "h2c")),
        (("x-amz-date", "never"), ("x-amz-security-token", "t" * 10_000)),
        (("x-amzn-requestid", "mine\r\nset-cookie: a=b"),),
        tuple((f"x-{number}", "v" * 100) for number in range(200)),
    ],
    ids=lambda headers: str(headers[0][0]),
)
async def test_odd_headers_change_nothing(asked: Ask, headers: tuple[tuple[str, str], ...]) -> None:
    """Except a second date or host: those were signed."""
    body = b'{"imageIdentifier": 1}'
    want = await asked("POST", VMS, "", body)
    changed = {"host", "x-amz-date"}.intersection(name for name, _ in headers)
    if not changed:
        got = await asked("POST", VMS, "", body, *headers)
        assert (got.status, got.type, got.body) == (want.status, want.type, want.body)
        assert got.headers["x-amzn-requestid"] != "mine"


# --- paths and queries


async def test_an_arn_may_be_spelled_three_ways_in_a_path(asked: Ask, store: Store) -> None:
    await built_image(store)
    spelled = [arn("demo"), quote(arn("demo"), safe=""), quote(arn("demo"), safe="").lower()]
    got = [await asked("GET", f"{IMAGES}/{one}") for one in spelled]
    assert [one.status for one in got] == [200, 200, 200]
    assert len({one.body for one in got}) == 1


@pytest.mark.parametrize("label", LABELS, ids=range(len(LABELS)))
async def test_odd_labels(asked: Ask, store: Store, label: str) -> None:
    """No label, however spelled, finds what its plain spelling would not."""
    await built_image(store)
    for operation in OURS:
        for name in _labels(operation):
            got = await asked(operation.model.http["method"], path_of(operation, **{name: label}))
            assert got.status >= 400, (operation.name, name, label)


@pytest.mark.parametrize("operation", OURS, ids=lambda one: str(one.name))
async def test_odd_paths(asked: Ask, operation: Operation) -> None:
    method, path = operation.model.http["method"], path_of(operation)
    for odd in (
        f"{path}/",
        f"/{path}",
        path.replace("/", "//"),
        path.upper(),
        f"{path}//",
        f"{path}/..",
        f"{path}%2F",
        f"{path}%00",
        f"/.{path}",
        f"/x/..{path}",
        f"http://127.0.0.1{path}",
        path[1:],
        f"{path};v=1",
        path.replace("2", "%32", 1),
    ):
        got = await asked(method, odd)
        assert got.status >= 400, odd
    for other in ("HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND", method.lower(), "G\u00e9T", ""):
        assert (await asked(other, path)).status >= 400, other


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
async def test_odd_queries(asked: Ask, query: str) -> None:
    for operation in OURS:
        await asked(operation.model.http["method"], path_of(operation), query)


# --- who asks


FORGED: tuple[Callable[[Raw], Raw], ...] = (
    lambda one: replace(one, headers=one.headers[:1]),
    lambda one: replace(one, headers=tuple((name, text.replace("AKIA", "AKIB")) for name, text in one.headers)),
    lambda one: replace(one, headers=tuple((name, f"{text[:-4]}0000") for name, text in one.headers)),
    lambda one: replace(one, headers=(*one.headers, one.headers[-1])),
)


async def test_whoever_is_not_known_is_told_nothing(app: ASGIApp, wire: Wire, store: Store) -> None:
    """The same answer for what is there, what is not there and what is no path at all: no oracle for strangers."""
    await built_image(store)
    for forge in FORGED:
        answers = set()
        for path in (f"{IMAGES}/{arn('demo')}", f"{IMAGES}/{arn('nobody')}", "/nothing", "/%ff"):
            got = check(await ask(app, forge(wire.signed(Raw("0", "GET", path, "", (), b"")))))
            answers.add((got.status, got.type, got.body.partition(b"Authorization=")[0]))
        assert len(answers) == 1
        assert answers.pop()[0] in (400, 403)


LATIN = st.text(st.characters(max_codepoint=255), max_size=60)
SIGNATURE = st.one_of(
    LATIN,
    st.lists(
        st.sampled_from(["Credential=", "SignedHeaders=host", "Signature=", "a/20260101/r/lambda/aws4_request", ","])
    )
    .map("".join)
    .map(lambda text: f"AWS4-HMAC-SHA256 {text}"),
    st.sampled_from(["Bearer x", "Basic eDp4", "AWS x:y", "AWS4-ECDSA-P256-SHA256 Credential=a", "AWS4-HMAC-SHA256"]),
)


@FEW
@given(
    authorization=SIGNATURE,
    date=LATIN | st.sampled_from(["20260101T000000Z", "Thu, 01 Jan 1970 00:00:00 GMT", "99999999T999999Z"]),
    query=st.sampled_from(
        ["", "X-Amz-Signature=x", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=", "Signature=x&AWSAccessKeyId=y"]
    ),
)
async def test_any_authorization_is_refused(app: ASGIApp, authorization: str, date: str, query: str) -> None:
    headers = (("host", "x"), ("authorization", authorization), ("x-amz-date", date))
    got = check(await ask(app, Raw("0", "GET", VMS, query, headers, b"")))
    assert got.status >= 400


@FEW
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "BREW"]) | LATIN,
    path=LATIN.map(lambda text: f"/{text}") | LATIN.map(lambda text: f"{IMAGES}/{text}"),
    query=LATIN,
    body=st.binary(max_size=60),
)
async def test_any_bytes_are_answered(asked: Ask, method: str, path: str, query: str, body: bytes) -> None:
    await asked(method, path, query, body)
