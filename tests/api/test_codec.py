"""botocore is the oracle, both ways, for every operation of the service."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from botocore.model import Shape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rekindle.api import codec, model
from rekindle.api.errors import Malformed
from rekindle.api.router import route

from .shapes import structures
from .wire import http, operation, raw, read

NAMES = [one.name for one in model.operations() if one.service == "lambda-microvms"]
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(data=st.data())
def test_what_botocore_sends_is_what_we_read(name: str, data: st.DataObject) -> None:
    op = operation(name)
    params = data.draw(structures(op.input_shape))
    request = raw(http(op, params))
    found, labels = route(request.method, request.path)
    assert found.name == name
    assert codec.parse(found.model, labels, request.query, request.body) == params


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(data=st.data())
def test_what_we_answer_is_what_botocore_reads(name: str, data: st.DataObject) -> None:
    op = operation(name)
    result = data.draw(structures(op.output_shape)) if op.output_shape else {}
    reply = codec.answer(op, result)
    assert reply.status == op.http["responseCode"]
    assert milliseconds(op.output_shape, read(op, reply)) == result


def milliseconds(shape: Shape | None, value: Any) -> Any:
    """botocore's datetimes back as epoch milliseconds."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, list) and shape is not None:
        return [milliseconds(shape.member, one) for one in value]
    if isinstance(value, dict) and shape is not None and shape.type_name == "structure":
        return {name: milliseconds(shape.members[name], one) for name, one in value.items()}
    return value


def test_every_operation_has_a_route_of_its_own() -> None:
    seen = set()
    for one in model.operations():
        path = one.model.http["requestUri"].split("?")[0].replace("{", "").replace("}", "")
        found, _ = route(one.model.http["method"], path)
        seen.add((found.service, found.name))
    assert seen == {(one.service, one.name) for one in model.operations()}


@pytest.mark.parametrize(
    "spelling", ["arn:aws:lambda:r:1:microvm-image:x", "arn%3Aaws%3Alambda%3Ar%3A1%3Amicrovm-image%3Ax"]
)
def test_an_arn_in_a_path_may_be_encoded_or_not(spelling: str) -> None:
    get = operation("GetMicrovmImage").http["requestUri"].replace("{imageIdentifier}", spelling)
    _, labels = route("GET", get)
    assert labels == {"imageIdentifier": "arn:aws:lambda:r:1:microvm-image:x"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "Unexpected value instead of a structure"),
        (b"{", "Could not parse request body"),
        (b"\xff", "Could not parse request body"),
        (b'{"maximumDurationInSeconds": NaN}', "Could not parse request body"),
        (b"[" * 100_000, "Could not parse request body"),
        (b'{"maximumDurationInSeconds": ' + b"9" * 5000 + b"}", "Could not parse request body"),
        (b'{"maximumDurationInSeconds": 99999999999}', "NUMBER_VALUE can not be converted to an Integer"),
        (b'{"maximumDurationInSeconds": "60"}', "STRING_VALUE can not be converted to an Integer"),
        (b'{"maximumDurationInSeconds": true}', "TRUE_VALUE can not be converted to an Integer"),
        (b'{"imageVersion": 1.5}', "NUMBER_VALUE can not be converted to a String"),
        (b'{"imageVersion": {}}', "Start of structure or list found where not expected."),
        (b'{"imageVersion": "\\ud800"}', "A string holds half a surrogate pair"),
        (b'{"idlePolicy": []}', "Expected null"),
        (b'{"egressNetworkConnectors": {}}', "Expected list or null"),
    ],
)
def test_what_cannot_be_read_is_said(body: bytes, message: str) -> None:
    with pytest.raises(Malformed) as caught:
        codec.parse(operation("RunMicrovm"), {}, "", body)
    assert caught.value.message == message


def test_null_means_absent_and_strangers_are_dropped() -> None:
    assert codec.parse(operation("RunMicrovm"), {}, "", b'{"imageVersion": null, "x": 1}') == {}
