"""Core errors → AWS errors, once. Statuses come from the model; what is not in SHAPE is a bug, answered as one."""

from __future__ import annotations

import json

from botocore.model import Shape

from rekindle.api import model
from rekindle.api.context import Reply
from rekindle.api.model import Operation
from rekindle.core.errors import (
    Denied,
    Invalid,
    NoCapacity,
    NotFound,
    OverQuota,
    Refused,
    RekindleError,
    Throttled,
    Unfinished,
)

INTERNAL = "InternalServerException"


class Malformed(RekindleError):
    """The request cannot be read at all: not JSON, or another type than the model's."""


class UnknownOperation(RekindleError):
    """No operation has this method and path."""


class TooLarge(RekindleError):
    """The body is larger than any operation takes; it was not read to its end."""


#: The first shape of a row that the operation models is the answer. ResumeMicrovm, for one, has no
#: InsufficientCapacityException: "no room to wake" becomes something that every client comes back after.
SHAPE: dict[type[RekindleError], tuple[str, ...]] = {
    Invalid: ("ValidationException", "InvalidParameterValueException"),
    NotFound: ("ResourceNotFoundException", "ValidationException"),
    Refused: ("ConflictException", "ResourceConflictException", "ValidationException"),
    OverQuota: ("ServiceQuotaExceededException", "ThrottlingException"),
    Throttled: ("ThrottlingException",),
    NoCapacity: ("InsufficientCapacityException", "ThrottlingException"),
}

#: Layers in front of an operation answer these whatever the operation models.
FRONT: dict[type[RekindleError], str] = {
    Malformed: "SerializationException",
    UnknownOperation: "UnknownOperationException",
    TooLarge: "RequestEntityTooLargeException",
    Unfinished: "UnsupportedOperationException",
}


def shape_name(err: RekindleError, operation: Operation | None) -> str:
    """Which AWS error `err` is when `operation` (None: not yet known) raised it."""
    if isinstance(err, Denied):
        return err.code
    for kind, name in FRONT.items():
        if isinstance(err, kind):
            return name
    for kind, names in SHAPE.items():
        if isinstance(err, kind):
            return next((name for name in names if name in _modelled(operation)), INTERNAL)
    return INTERNAL


def refusal(err: RekindleError, operation: Operation | None) -> Reply:
    """The answer to a request that ended in `err`."""
    name = shape_name(err, operation)
    if name == INTERNAL:
        return internal()
    headers = {"X-Amzn-Errortype": name}
    if name == "ThrottlingException":
        headers["Retry-After"] = str(err.retry_after_s if isinstance(err, Throttled) else 1)
    if isinstance(err, TooLarge):
        headers["Connection"] = "close"  # the rest of the body is still coming
    message: str | None = err.message or None  # a bad cursor has no text (spec §1.8)
    member = "Message" if isinstance(err, Malformed) else "message"  # recorded: spec §1.4, allPorts
    return Reply(model.error_status(name), _body(name, member, message), headers)


def internal() -> Reply:
    """Says nothing of the cause: that is in our log, under the request id."""
    body = _body(INTERNAL, "message", "Internal service error.")
    return Reply(model.error_status(INTERNAL), body, {"X-Amzn-Errortype": INTERNAL})


def _modelled(operation: Operation | None) -> set[str]:
    if operation is None:
        return set(model.service(model.SERVICES[0]).shape_names)
    return {shape.name for shape in operation.model.error_shapes}


def _body(name: str, member: str, message: str | None) -> bytes:
    members = dict.fromkeys(_body_members(model.error_shape(name)))
    return json.dumps({member: message} | {one: None for one in members if one != member}).encode()


def _body_members(shape: Shape | None) -> list[str]:
    """Detail members are always there, as null (recorded: spec §1.3)."""
    members = {} if shape is None else shape.members
    return [name for name, member in members.items() if member.serialization.get("location") is None]
