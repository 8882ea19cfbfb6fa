"""IAM policy documents: read once, then asked often. Identity-based policies only, as attached to an access key.

A request is allowed when some statement allows it and none denies it; nothing said means no (IAM user guide, "Policy
evaluation logic"). What is not understood is refused when the document is read, never skipped when it is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from rekindle.core.conditions import Condition, conditions
from rekindle.core.errors import Invalid

MAX_BYTES = 20_480
_VERSIONS = ("2012-10-17", "2008-10-17")
_DOCUMENT = {"Version", "Id", "Statement"}
_STATEMENT = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
_ACTION = re.compile(r"\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+")


class Verdict(Enum):
    ALLOWED = "allowed"
    DENIED = "explicitly denied"  # a Deny statement matches
    NOT_ALLOWED = "not allowed"  # no statement speaks of it


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: may this action be done to this resource? `context` has the condition keys in lower case."""

    action: str  #: `lambda:RunMicrovm`
    resource: str  #: an ARN, or `*` for actions on no resource
    context: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Matcher:
    """A list of patterns, or everything but them."""

    patterns: tuple[str, ...]
    negated: bool
    ignore_case: bool

    def matches(self, text: str, context: Mapping[str, str]) -> bool:
        found = any(like(_filled(one, context), text, ignore_case=self.ignore_case) for one in self.patterns)
        return found is not self.negated


@dataclass(frozen=True, slots=True)
class Statement:
    allows: bool
    actions: Matcher
    resources: Matcher
    conditions: tuple[Condition, ...]

    def speaks_of(self, ask: Ask) -> bool:
        return (
            self.actions.matches(ask.action, ask.context)
            and self.resources.matches(ask.resource, ask.context)
            and all(one.holds(ask.context) for one in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    statements: tuple[Statement, ...]

    def judge(self, ask: Ask) -> Verdict:
        speaking = [one.allows for one in self.statements if one.speaks_of(ask)]
        if not speaking:
            return Verdict.NOT_ALLOWED
        return Verdict.ALLOWED if all(speaking) else Verdict.DENIED


@lru_cache(maxsize=1024)
def parse(text: str) -> Policy:
    """Read a document. Raises Invalid naming the statement and the rule."""
    if len(text.encode()) > MAX_BYTES:
        raise Invalid(f"Policy: must be smaller than {MAX_BYTES} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid("Policy: must be JSON") from None
    _check_members(document, _DOCUMENT, "Policy")
    if document.get("Version", _VERSIONS[1]) not in _VERSIONS:
        raise Invalid(f"Policy: Version must be {' or '.join(_VERSIONS)}")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise Invalid("Policy: Statement must be one statement or a list of them")
    return Policy(tuple(_statement(one, f"Policy: Statement {number}") for number, one in enumerate(statements, 1)))


def _statement(given: Any, where: str) -> Statement:
    _check_members(given, _STATEMENT, where)
    if given.get("Effect") not in ("Allow", "Deny"):
        raise Invalid(f"{where}: Effect must be Allow or Deny")
    actions = _matcher(given, "Action", where, ignore_case=True)
    for one in actions.patterns:
        if _ACTION.fullmatch(one) is None:
            raise Invalid(f"{where}: '{one}' must be an action like lambda:RunMicrovm")
    resources = _matcher(given, "Resource", where, ignore_case=False)
    for one in resources.patterns:
        if one != "*" and not one.startswith("arn:"):
            raise Invalid(f"{where}: '{one}' must be an ARN or *")
    return Statement(
        given["Effect"] == "Allow", actions, resources, conditions(given.get("Condition", {}), f"{where}: Condition")
    )


def _matcher(given: Mapping[str, Any], name: str, where: str, *, ignore_case: bool) -> Matcher:
    """`<name>` or `Not<name>`, exactly one of them."""
    present = [one for one in (name, f"Not{name}") if one in given]
    if len(present) != 1:
        raise Invalid(f"{where}: must have either {name} or Not{name}")
    values = given[present[0]]
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        raise Invalid(f"{where}: {present[0]} must be a text or a list of texts")
    return Matcher(tuple(values), present[0] != name, ignore_case)


def _check_members(given: Any, known: Iterable[str], where: str) -> None:
    if not isinstance(given, dict):
        raise Invalid(f"{where}: must be a structure")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise Invalid(f"{where}: '{unknown[0]}' is not known; known: {', '.join(sorted(known))}")


# --- wildcards and variables

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def like(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    """`*` is any run of characters, `?` any one; everything else is itself."""
    return _compiled(pattern, ignore_case).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001  # a key of the cache
    words = (".*" if one == "*" else "." if one == "?" else re.escape(one) for one in re.sub(r"\*+", "*", pattern))
    return re.compile("".join(words), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _filled(pattern: str, context: Mapping[str, str]) -> str:
    """`${aws:username}` and the like, by the request; `${*}`, `${?}` and `${$}` are those characters themselves.

    An unknown variable makes a pattern that nothing matches.
    """
    if "${" not in pattern:
        return pattern
    return _VARIABLE.sub(lambda match: context.get(match[1].lower(), "\0"), pattern)
