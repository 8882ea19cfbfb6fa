"""Every core error on every operation is one that the operation models, and botocore reads it back."""

from __future__ import annotations

import json

import pytest

from rekindle.api import errors, model
from rekindle.api.errors import FRONT, SHAPE, refusal, shape_name
from rekindle.api.model import UNMODELLED, Operation
from rekindle.api.operations import OPERATIONS
from rekindle.core.errors import (
    BuildFailed,
    Denied,
    GuestError,
    Invalid,
    MachineError,
    NoCapacity,
    NotFound,
    Refused,
    RekindleError,
    Throttled,
)

from .wire import Wire, operation, read

OURS = [one for one in model.operations() if one.name in OPERATIONS]
#: What an operation of ours may end in. Get never conflicts, a list of all never finds nothing: as in the model.
RAISED = {
    Invalid: set(OPERATIONS),
    NotFound: set(OPERATIONS)
    - {"ListManagedMicrovmImages", "ListMicrovmImages", "ListNetworkConnectors", "CreateNetworkConnector"},
    Refused: {name for name in OPERATIONS if not name.startswith(("Get", "List"))},
    Throttled: set(OPERATIONS),
    NoCapacity: set(OPERATIONS),
}


@pytest.mark.parametrize("one", OURS, ids=lambda one: str(one.name))
def test_errors_are_those_that_the_operation_models(one: Operation) -> None:
    modelled = {shape.name for shape in one.model.error_shapes}
    for kind, where in RAISED.items():
        if one.name in where:
            err = kind("why")
            assert shape_name(err, one) in modelled
            assert shape_name(err, one) not in errors.INTERNAL
            reply = refusal(err, one)
            assert read(one.model, reply)["Error"] == {"Code": shape_name(err, one), "Message": "why"}


def test_no_room_to_wake_is_something_clients_come_back_after() -> None:
    resume, run = (Operation("lambda-microvms", operation(name)) for name in ("ResumeMicrovm", "RunMicrovm"))
    assert shape_name(NoCapacity("full"), resume) == "ThrottlingException"
    assert refusal(NoCapacity("full"), resume).headers["Retry-After"] == "1"
    assert shape_name(NoCapacity("full"), run) == "InsufficientCapacityException"


def test_statuses_and_members_are_the_models() -> None:
    for kind, names in SHAPE.items():
        reply = refusal(kind("why"), None)
        shape = model.error_shape(names[0])
        assert shape is not None
        assert reply.status == shape.metadata["error"]["httpStatusCode"]
        in_body = {name for name, member in shape.members.items() if "location" not in member.serialization}
        assert set(json.loads(reply.body)) == in_body
        assert {value for name, value in json.loads(reply.body).items() if name != "message"} <= {None}


def test_when_to_come_back_is_a_header() -> None:
    assert refusal(Throttled("slow down", retry_after_s=7), None).headers["Retry-After"] == "7"


def test_what_is_a_bug_says_nothing_of_its_cause() -> None:
    for err in (GuestError("secret path"), MachineError("secret path"), BuildFailed("X", "secret path")):
        reply = refusal(err, None)
        assert reply.headers["X-Amzn-Errortype"] == "InternalServerException"
        assert b"secret" not in reply.body


def test_every_front_error_has_a_status() -> None:
    assert set(FRONT.values()) <= {*UNMODELLED, "ValidationException"}
    for kind in FRONT:
        assert refusal(kind("x"), None).status >= 400
    for code in UNMODELLED:
        assert refusal(Denied("x", code=code), None).status >= 400


def test_every_core_error_is_placed() -> None:
    """A new error of core must be placed here or be a bug by decision."""
    bugs = {BuildFailed, GuestError, MachineError}
    placed = {*SHAPE, *FRONT, Denied, *bugs}
    core = {kind for kind in RekindleError.__subclasses__() if kind.__module__ == RekindleError.__module__}
    assert core <= placed


MISSING = [one for one in model.operations() if one.name not in OPERATIONS]


@pytest.mark.parametrize("one", MISSING, ids=lambda one: f"{one.service}.{one.name}")
async def test_what_we_do_not_have_is_refused_by_name(wire: Wire, one: Operation) -> None:
    uri = one.model.http["requestUri"].split("?")[0].replace("{", "").replace("}", "")
    answer = await wire.send(one.model.http["method"], uri)
    assert answer.reply.headers["X-Amzn-Errortype"] == "UnsupportedOperationException"
    assert answer.json["message"].startswith(f"{one.name} ")
    assert ("Runtime" in one.name) == answer.json["message"].endswith("another product than MicroVMs.")
