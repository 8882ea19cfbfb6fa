"""The service models, botocore's own: the only schema of the wire. Nothing that they say is typed anywhere else.

What the live service does and the model does not say stands here as data, each with its source.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape

#: lambda-core shares the host (spec §1.1): its paths must be known to be refused by name.
SERVICES = ("lambda-microvms", "lambda-core")
SIGNING_NAME = "lambda"

#: Order in which the live service lists what is missing, where it is not the model's (recorded: spec §1.3).
MISSING_FIRST = {"CreateMicrovmImageRequest": ("baseImageArn", "codeArtifact", "buildRoleArn")}

#: Errors of layers in front of the service; no model has them. Status: that of a modelled error, or its name.
UNMODELLED: dict[str, str | HTTPStatus] = {
    "UnrecognizedClientException": "AccessDeniedException",
    "InvalidSignatureException": "AccessDeniedException",
    "IncompleteSignatureException": "AccessDeniedException",
    "MissingAuthenticationTokenException": "AccessDeniedException",
    "SerializationException": "ValidationException",
    "UnknownOperationException": "ResourceNotFoundException",
    "RequestEntityTooLargeException": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "UnsupportedOperationException": HTTPStatus.NOT_IMPLEMENTED,
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation with the service it belongs to."""

    service: str
    model: OperationModel

    @property
    def name(self) -> str:
        return str(self.model.name)


@cache
def service(name: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(name, "service-2"), name)


@cache
def operations() -> tuple[Operation, ...]:
    models = ((name, service(name)) for name in SERVICES)
    return tuple(Operation(name, model.operation_model(one)) for name, model in models for one in model.operation_names)


@dataclass(frozen=True, slots=True)
class Paginator:
    """What a list calls its page size, its cursor in and out, and its items, and how many of these it answers with."""

    limit_key: str
    input_token: str
    output_token: str
    result_key: str
    most: float  #: connectors: fewer than a caller may ask for


@cache
def paginator(operation: Operation) -> Paginator:
    """Raises KeyError for an operation that answers in one piece."""
    found = Loader().load_service_model(operation.service, "paginators-1")["pagination"][operation.name]
    most = operation.model.output_shape.members[found["result_key"]].metadata.get("max", math.inf)
    return Paginator(found["limit_key"], found["input_token"], found["output_token"], found["result_key"], most)


def error_shape(name: str, of: str = SERVICES[0]) -> Shape | None:
    """The shape of an error in a service's model, or None when it has none."""
    model = service(of)
    return model.shape_for(name) if name in model.shape_names else None


def error_status(name: str) -> int:
    like = UNMODELLED.get(name, name)
    if isinstance(like, HTTPStatus):
        return like
    shape = next((found for found in (error_shape(like, of) for of in SERVICES) if found), None)
    if shape is None:
        raise KeyError(f"neither models nor UNMODELLED have {name}")
    return int(shape.metadata["error"]["httpStatusCode"])


def maximum(shape_name: str) -> int:
    return int(service(SERVICES[0]).shape_for(shape_name).metadata["max"])


@cache
def pattern(text: str) -> re.Pattern[str]:
    r"""A Smithy pattern for Python, which has no `\p{..}`: `\w` is exactly \p{L}, \p{N} and `_` there."""
    blanks = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    for smithy, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\w"), (r"\p{Z}", blanks)):
        text = text.replace(smithy, python)
    return re.compile(text)
