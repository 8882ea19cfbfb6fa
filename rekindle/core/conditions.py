"""The Condition block of a policy statement (IAM user guide, "IAM JSON policy elements: Condition operators")."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rekindle.core.errors import Invalid

Test = Callable[[str, str], bool]  #: (what the request has, what the policy names)


def _glob(text: str, pattern: str) -> bool:
    words = (".*" if one == "*" else "." if one == "?" else re.escape(one) for one in re.sub(r"\*+", "*", pattern))
    return re.fullmatch("".join(words), text, re.DOTALL) is not None


def _arn_like(text: str, pattern: str) -> bool:
    """Each of the six parts by itself: a `*` does not reach over a colon, but for the last part."""
    ours, theirs = text.split(":", 5), pattern.split(":", 5)
    return len(ours) == len(theirs) and all(map(_glob, ours, theirs))


def _instant(text: str) -> float:
    """Epoch seconds, or ISO 8601. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _in_network(text: str, network: str) -> bool:
    return ipaddress.ip_address(text) in ipaddress.ip_network(network, strict=False)


#: Positive operators; each has a `...Not...` twin where AWS has one.
_TESTS: dict[str, Test] = {
    "StringEquals": lambda ours, theirs: ours == theirs,
    "StringEqualsIgnoreCase": lambda ours, theirs: ours.lower() == theirs.lower(),
    "StringLike": _glob,
    "NumericEquals": lambda ours, theirs: float(ours) == float(theirs),
    "NumericLessThan": lambda ours, theirs: float(ours) < float(theirs),
    "NumericLessThanEquals": lambda ours, theirs: float(ours) <= float(theirs),
    "NumericGreaterThan": lambda ours, theirs: float(ours) > float(theirs),
    "NumericGreaterThanEquals": lambda ours, theirs: float(ours) >= float(theirs),
    "DateEquals": lambda ours, theirs: _instant(ours) == _instant(theirs),
    "DateLessThan": lambda ours, theirs: _instant(ours) < _instant(theirs),
    "DateLessThanEquals": lambda ours, theirs: _instant(ours) <= _instant(theirs),
    "DateGreaterThan": lambda ours, theirs: _instant(ours) > _instant(theirs),
    "DateGreaterThanEquals": lambda ours, theirs: _instant(ours) >= _instant(theirs),
    "Bool": lambda ours, theirs: ours.lower() == theirs.lower(),
    "IpAddress": _in_network,
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
}
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}
OPERATORS = (*_TESTS, *_NEGATED, "Null")


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key. `values` are alternatives; for a negated operator none of them may match."""

    operator: str
    key: str  #: lower case
    values: tuple[str, ...]
    if_exists: bool

    def holds(self, context: Mapping[str, str]) -> bool:
        """A key that the request does not have fails a positive operator and passes a negated one."""
        ours = context.get(self.key)
        if self.operator == "Null":
            return (ours is None) == (self.values[0].lower() == "true")
        negated = self.operator in _NEGATED
        if ours is None:
            return self.if_exists or negated
        test = _TESTS[_NEGATED.get(self.operator, self.operator)]
        return any(_tested(test, ours, one) for one in self.values) is not negated


def _tested(test: Test, ours: str, theirs: str) -> bool:
    """What the request has may be no number, date or address: then it does not match."""
    try:
        return test(ours, theirs)
    except ValueError:
        return False


def conditions(given: Any, where: str) -> tuple[Condition, ...]:
    """Read a Condition block. Raises Invalid naming the operator or key and the rule."""
    if not isinstance(given, dict):
        raise Invalid(f"{where} must be a structure")
    return tuple(one for operator, keys in given.items() for one in _of_operator(operator, keys, where))


def _of_operator(operator: str, keys: Any, where: str) -> list[Condition]:
    name = operator.removesuffix("IfExists")
    if name not in OPERATORS or (name == "Null" and name != operator):
        raise Invalid(f"{where}: '{operator}' is not known; known: {', '.join(OPERATORS)}, each with ...IfExists")
    if not isinstance(keys, dict) or not keys:
        raise Invalid(f"{where}: {operator} must name keys")
    return [
        Condition(name, key.lower(), _values(name, key, values, where), operator != name)
        for key, values in keys.items()
    ]


def _values(operator: str, key: str, given: Any, where: str) -> tuple[str, ...]:
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(one, (str, int, float, bool)) for one in listed):
        raise Invalid(f"{where}: {operator} {key} must be a text or a list of texts")
    values = tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in listed)
    for one in values:
        _check_value(operator, one, f"{where}: {operator} {key}")
    return values


def _check_value(operator: str, value: str, where: str) -> None:
    kind = _NEGATED.get(operator, operator)
    try:
        if kind.startswith("Numeric"):
            float(value)
        elif kind.startswith("Date"):
            _instant(value)
        elif kind == "IpAddress":
            ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Invalid(f"{where}: '{value}' is no value of that kind") from None
    if kind in ("Bool", "Null") and value.lower() not in ("true", "false"):
        raise Invalid(f"{where}: '{value}' must be true or false")
