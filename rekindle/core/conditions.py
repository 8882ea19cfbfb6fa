"""The Condition block of a policy statement (IAM user guide, "IAM JSON policy elements: Condition operators").

Every value is read once: numbers, dates, networks and patterns are ready when a request is asked about.
"""

from __future__ import annotations

import ipaddress
import math
import operator as comparing
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rekindle.core.errors import Invalid
from rekindle.core.patterns import Context, pattern

#: Whether one value of a request matches one value of the policy; None: a policy variable is not known.
Test = Callable[[str, Context], bool | None]

_EVERY, _SOME = "ForAllValues", "ForAnyValue"
_SPELLED = re.compile(rf"(?:(?:{_EVERY}|{_SOME}):)?(?P<name>[A-Za-z]+?)(?:IfExists)?")
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "Equals": comparing.eq,
    "LessThan": comparing.lt,
    "LessThanEquals": comparing.le,
    "GreaterThan": comparing.gt,
    "GreaterThanEquals": comparing.ge,
}
_PATTERNS = ("StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike")
_TRUTHS = ("true", "false")
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
OPERATORS = (
    *_PATTERNS,
    *(kind + how for kind in ("Numeric", "Date") for how in _COMPARED),
    "Bool",
    "IpAddress",
    *_NEGATED,
    "Null",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key. `tests` are alternatives; for a negated operator none of them may match."""

    key: str  #: lower case
    tests: tuple[Test, ...]
    negated: bool
    every: bool  #: of several values that the request has, each must pass; else one is enough
    absent: bool  #: the answer when the request does not have the key
    unknown: bool  #: the answer of a negated operator that needs a variable which the request does not have
    names: frozenset[str]  #: the condition keys it looks at

    def holds(self, context: Context) -> bool:
        ours = context.get(self.key)
        if ours is None:
            return self.absent
        if isinstance(ours, str):
            return self._passes(ours, context)
        passed = (self._passes(one, context) for one in ours)
        return all(passed) if self.every else any(passed)

    def _passes(self, ours: str, context: Context) -> bool:
        unsure = False
        for test in self.tests:
            found = test(ours, context)
            if found:
                return not self.negated
            unsure = unsure or found is None
        return self.unknown if self.negated and unsure else self.negated


def conditions(given: Any, where: str, *, allows: bool, variables: bool) -> tuple[Condition, ...]:
    """Read a Condition block of a statement that allows or denies; `variables`: `${...}` has a meaning in it.

    Raises Invalid naming the operator or key and the rule.
    """
    if not isinstance(given, dict):
        raise Invalid(f"{where} must be a structure")
    found = []
    for operator, keys in given.items():
        name = _operator(operator, where)
        if not isinstance(keys, dict) or not keys:
            raise Invalid(f"{where}: {operator} must name keys")
        for key, values in keys.items():
            at = f"{where}: {operator} {key}"
            found.append(_condition(operator, name, key, _values(values, at), at, allows=allows, variables=variables))
    return tuple(found)


def _operator(text: str, where: str) -> str:
    """The bare operator in `ForAnyValue:StringLikeIfExists`. Raises Invalid."""
    match = _SPELLED.fullmatch(text)
    name = match["name"] if match else text
    if name in OPERATORS and (name != "Null" or text == name):
        return name
    raise Invalid(
        f"{where}: '{text}' is not known; known: {', '.join(OPERATORS)}; all but Null also with ...IfExists, "
        f"{_EVERY}: or {_SOME}:"
    )


def _condition(
    operator: str, name: str, key: str, values: tuple[str, ...], at: str, *, allows: bool, variables: bool
) -> Condition:
    negated = name in _NEGATED
    if name == "Null":
        for value in values:
            _truth(value, at)
        lowered = {value.lower() for value in values}
        present = "false" in lowered
        return Condition(
            key.lower(),
            (lambda _ours, _context: present,),
            False,
            False,
            "true" in lowered,
            False,
            frozenset({key.lower()}),
        )
    read = [_read(_NEGATED.get(name, name), value, at, variables=variables) for value in values]
    every = operator.startswith(_EVERY) or (negated and ":" not in operator)
    absent = operator.startswith(_EVERY) or operator.endswith("IfExists") or (negated and ":" not in operator)
    names = frozenset({key.lower()}).union(*(variables_of for _, variables_of in read))
    return Condition(key.lower(), tuple(test for test, _ in read), negated, every, absent, not allows, names)


def _values(given: Any, at: str) -> tuple[str, ...]:
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(one, (str, int, float, bool)) for one in listed):
        raise Invalid(f"{at} must be a text or a list of texts")
    return tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in listed)


# --- one value of the policy, ready to be compared


def _read(name: str, value: str, at: str, *, variables: bool) -> tuple[Test, frozenset[str]]:
    """The test of one value, and the condition keys that its variables name. Raises Invalid."""
    if name.startswith("Arn"):
        return _arn_test(value, at, variables=variables)
    if name.startswith("String"):
        wildcards, ignore_case = name == "StringLike", name == "StringEqualsIgnoreCase"
        read = pattern(value, at, variables=variables, wildcards=wildcards, ignore_case=ignore_case)
        return read.matches, read.variables()
    try:
        return _plain_test(name, value, at), frozenset()
    except (ValueError, OverflowError):
        raise Invalid(f"{at}: '{value}' is no value of that kind") from None


def _plain_test(name: str, value: str, at: str) -> Test:
    """Raises ValueError, OverflowError or Invalid."""
    if name == "Bool":
        theirs = _truth(value, at)
        return lambda ours, _: ours.lower() == theirs
    if name == "IpAddress":
        network = ipaddress.ip_network(value, strict=False)
        return _tolerant(lambda ours: ipaddress.ip_address(ours) in network)
    read = _number if name.startswith("Numeric") else _instant
    compare, bound = _COMPARED[name.removeprefix("Numeric").removeprefix("Date")], read(value)
    return _tolerant(lambda ours: compare(read(ours), bound))


def _tolerant(test: Callable[[str], bool]) -> Test:
    """What the request has may be no number, date or address: then it does not match."""

    def tested(ours: str, _: Context) -> bool:
        try:
            return test(ours)
        except (ValueError, OverflowError):
            return False

    return tested


def _arn_test(value: str, at: str, *, variables: bool) -> tuple[Test, frozenset[str]]:
    """Each of the six parts by itself: a `*` does not reach over a colon, but for the last part."""
    parts = [pattern(one, at, variables=variables) for one in split_arn(value)]
    if len(parts) != 6:
        raise Invalid(f"{at}: '{value}' must be an ARN: arn:partition:service:region:account:resource")

    def test(ours: str, context: Context) -> bool | None:
        given = ours.split(":", 5)
        if len(given) != 6:
            return False
        found = [part.matches(one, context) for part, one in zip(parts, given, strict=True)]
        return False if False in found else None if None in found else True

    return test, frozenset().union(*(part.variables() for part in parts))


def split_arn(text: str) -> list[str]:
    """At most six parts; a colon within `${...}` is none."""
    parts, depth = [""], 0
    for index, char in enumerate(text):
        depth += text.startswith("${", index) - (char == "}" and depth > 0)
        if char == ":" and depth == 0 and len(parts) < 6:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _number(text: str) -> float:
    """Raises ValueError, also for what is not finite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _instant(text: str) -> float:
    """Epoch seconds, or ISO 8601 (UTC unless it says otherwise). Raises ValueError or OverflowError."""
    try:
        return _number(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _truth(text: str, at: str) -> str:
    if text.lower() not in _TRUTHS:
        raise Invalid(f"{at}: '{text}' must be true or false")
    return text.lower()
