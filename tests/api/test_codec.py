"""Routes, and what a body must be: what botocore would never send."""

from __future__ import annotations

import pytest

from rekindle.api import codec, model
from rekindle.api.errors import Malformed
from rekindle.api.router import route

from .wire import operation


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
