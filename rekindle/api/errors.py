"""Core errors → AWS errors, once. Statuses come from the model; what is not in SHAPE is a bug, answered as one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rekindle.api import model
from rekindle.api.context import Reply
from rekindle.api.model import Operation
from rekindle.core.errors import (
    Constraint,
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

INTERNAL = ("InternalServerException", "ServiceException")
#: Written by layers in front of the service, which spell `Message` (recorded: spec §1.1, §1.4).
_CAPITAL = ("AccessDeniedException", "SerializationException")


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
    Refused: (
        "ConflictException",
        "ResourceConflictException",
        "ValidationException",
        "InvalidParameterValueException",
    ),
    OverQuota: ("ServiceQuotaExceededException", "NetworkConnectorLimitExceededException", "ThrottlingException"),
    Throttled: ("TooManyRequestsException", "ThrottlingException"),  # tag operations have both, and are classic Lambda
    NoCapacity: ("InsufficientCapacityException", "ThrottlingException", "TooManyRequestsException"),
}

#: Layers in front of an operation answer these whatever the operation models.
FRONT: dict[type[RekindleError], str] = {
    Malformed: "SerializationException",
    Constraint: "ValidationException",
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
            return next((name for name in names if name in _modelled(operation)), internal_name(operation))
    return internal_name(operation)


def internal_name(operation: Operation | None) -> str:
    """What an operation calls a fault of ours."""
    modelled = _modelled(operation)
    return next((name for name in INTERNAL if name in modelled), INTERNAL[0])


def refusal(err: RekindleError, operation: Operation | None) -> Reply:
    """The answer to a request that ended in `err`."""
    name = shape_name(err, operation)
    if name in INTERNAL:
        return internal(operation)
    headers = {"X-Amzn-Errortype": name}
    if name in ("ThrottlingException", "TooManyRequestsException"):
        headers["Retry-After"] = str(err.retry_after_s if isinstance(err, Throttled) else 1)
    if isinstance(err, TooLarge):
        headers["Connection"] = "close"  # the rest of the body is still coming
    message: str | None = err.message or None  # a bad cursor has no text (spec §1.8)
    return Reply(model.error_status(name), _body(name, operation, message, _details(err)), headers)


def internal(operation: Operation | None = None) -> Reply:
    """Says nothing of the cause: that is in our log, under the request id."""
    name = internal_name(operation)
    body = _body(name, operation, "Internal service error.")
    return Reply(model.error_status(name), body, {"X-Amzn-Errortype": name})


def _modelled(operation: Operation | None) -> set[str]:
    if operation is None:
        return set(model.service(model.SERVICES[0]).shape_names)
    return {shape.name for shape in operation.model.error_shapes}


def _details(err: RekindleError) -> dict[str, str]:
    """What is known besides the text; a shape without such a member does not say it."""
    if not isinstance(err, Throttled):
        return {}
    quota = {} if err.quota_code is None else {"serviceCode": model.SIGNING_NAME, "quotaCode": err.quota_code}
    return quota | {"Reason": "CallerRateLimitExceeded"}


def _body(name: str, operation: Operation | None, message: str | None, known: Mapping[str, str] | None = None) -> bytes:
    """lambda-microvms has detail members always there, as null; lambda-core leaves them out (recorded: spec §1.1)."""
    service = model.SERVICES[0] if operation is None else operation.service
    shape = model.error_shape(name, service)
    members = [] if shape is None else [one for one, of in shape.members.items() if "location" not in of.serialization]
    text = next((one for one in members if one.lower() == "message"), "message")
    if name in _CAPITAL:
        text = "Message"
    details = {} if service != model.SERVICES[0] else {one: None for one in members if one.lower() != "message"}
    said = {one: value for one, value in (known or {}).items() if one in members}
    return json.dumps({text: message} | details | said).encode()
