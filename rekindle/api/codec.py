"""rest-json, both ways, led by the model: parsed parameters in, an answer out. Knows no operation.

Parsing checks types and nothing else (`validate` checks rules); unknown members are dropped, null means absent.
Answers are what the projections give, members that no model has included; instants there are epoch milliseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from botocore.model import OperationModel, Shape

from rekindle.api.context import Reply
from rekindle.api.errors import Malformed
from rekindle.api.model import SERVICES

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_BITS = {"integer": 31, "long": 63}


def parse(operation: OperationModel, labels: Mapping[str, str], query: str, body: bytes) -> dict[str, Any]:
    """The parameters of a request, named as the model names them. Raises Malformed."""
    shape = operation.input_shape
    if shape is None:
        return {}
    asked = _query(query)
    found = _body(body) if _has_body(shape) else {}
    params: dict[str, Any] = {}
    for name, member in shape.members.items():
        wire_name = member.serialization.get("name", name)
        match member.serialization.get("location"):
            case "uri":
                value: Any = labels.get(wire_name)
            case "querystring":
                value = _from_query(member, asked.get(wire_name))
            case _:
                value = _value(member, found.get(wire_name))
        if value is not None:
            params[name] = value
    return params


def answer(operation: OperationModel, result: Mapping[str, Any]) -> Reply:
    """The success answer of `operation`; one without body members in the model has an empty body (tags: 204)."""
    status = int(operation.http["responseCode"])
    if operation.output_shape is None:
        return Reply(status, b"")
    shown = _shown(operation.output_shape, result)
    if operation.service_model.service_name != SERVICES[0]:
        shown = _without_nulls(shown)
    return Reply(status, json.dumps(shown).encode())


# --- requests


def _has_body(shape: Shape) -> bool:
    return any("location" not in member.serialization for member in shape.members.values())


def _body(body: bytes) -> Mapping[str, Any]:
    if not body:
        return {}
    try:
        found = json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):  # ValueError: not UTF-8, not JSON, or a number of thousands of digits
        raise Malformed("Could not parse request body") from None
    if not isinstance(found, dict):
        raise Malformed("Unexpected value instead of a structure")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _query(query: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Malformed("The query string is not UTF-8") from None
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _from_query(shape: Shape, values: list[str] | None) -> Any:
    if values is None:
        return None
    if shape.type_name == "list":
        return [_text(shape.member, value) for value in values]
    return _text(shape, values[-1])


def _text(shape: Shape, text: str) -> Any:
    if shape.type_name in _BITS:
        return _integer(shape, int(text)) if _INTEGER.fullmatch(text) else _mismatch(shape, text)
    return _string(shape, text)


def _value(shape: Shape, value: Any) -> Any:
    """`value` as the model's type; None stays None."""
    return None if value is None else _READ[shape.type_name](shape, value)


def _structure(shape: Shape, value: Any) -> Any:
    if not isinstance(value, dict):
        raise Malformed("Expected null")
    members = ((name, _value(member, value.get(name))) for name, member in shape.members.items())
    return {name: read for name, read in members if read is not None}


def _list(shape: Shape, value: Any) -> Any:
    if not isinstance(value, list):
        raise Malformed("Expected list or null")
    return [_value(shape.member, one) for one in value]


def _map(shape: Shape, value: Any) -> Any:
    if not isinstance(value, dict):
        raise Malformed("Expected map or null")
    return {_string(shape.key, key): _value(shape.value, one) for key, one in value.items()}


def _string(shape: Shape, value: Any) -> str:
    if not isinstance(value, str):
        _mismatch(shape, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed("A string holds half a surrogate pair") from None
    return str(value)


def _integer(shape: Shape, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _mismatch(shape, value)
    bound = 1 << _BITS[shape.type_name]
    return value if -bound <= value < bound else _mismatch(shape, value)


def _boolean(shape: Shape, value: Any) -> bool:
    return value if isinstance(value, bool) else _mismatch(shape, value)


_READ: dict[str, Callable[[Shape, Any], Any]] = {
    "structure": _structure,
    "list": _list,
    "map": _map,
    "string": _string,
    "integer": _integer,
    "long": _integer,
    "boolean": _boolean,
}


def _mismatch(shape: Shape, value: Any) -> NoReturn:
    match value:
        case bool():
            kind = f"{str(value).upper()}_VALUE"
        case int() | float():
            kind = "NUMBER_VALUE"
        case str():
            kind = "STRING_VALUE"
        case _:
            raise Malformed("Start of structure or list found where not expected.")
    article = "an" if shape.type_name[0] in "aeiou" else "a"
    raise Malformed(f"{kind} can not be converted to {article} {shape.type_name.capitalize()}")


# --- answers


def _shown(shape: Shape | None, value: Any) -> Any:
    """`value` as JSON; `shape` None: a member that no model has."""
    if value is None or shape is None:
        return value
    match shape.type_name:
        case "structure":
            return {name: _shown(shape.members.get(name), one) for name, one in value.items()}
        case "list":
            return [_shown(shape.member, one) for one in value]
        case "map":
            return dict(value)
        case "timestamp":
            return _instant(shape, value)
        case _:
            return value


def _without_nulls(value: Any) -> Any:
    """lambda-core leaves out what is not set (recorded: spec §1.1)."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _instant(shape: Shape, at_ms: int) -> float | str:
    """Epoch seconds with a fraction, or ISO 8601 where the model says so (lambda-core: spec §1.1)."""
    if shape.serialization.get("timestampFormat") == "iso8601":
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03}Z"
    return at_ms / 1000
