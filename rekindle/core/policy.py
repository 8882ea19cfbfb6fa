"""IAM policy documents: read once, then asked often. Identity-based policies only, as attached to an access key.

A request is allowed when some statement allows it and none denies it; nothing said means no (IAM user guide, "Policy
evaluation logic"). What is not understood is refused when the document is read, never skipped when it is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from rekindle.core.conditions import Condition, conditions, split_arn
from rekindle.core.errors import Invalid
from rekindle.core.patterns import Context, Pattern, pattern

MAX_BYTES = 20_480
_VERSIONS = ("2012-10-17", "2008-10-17")
_ARN_PARTS = 6
_DOCUMENT = {"Version", "Id", "Statement"}
_STATEMENT = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
_SID = re.compile(r"[A-Za-z0-9]*")
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
    context: Context


@dataclass(frozen=True, slots=True)
class Matcher:
    """A list of patterns, or everything but them."""

    patterns: tuple[Pattern, ...]
    negated: bool
    unknown: bool  #: the answer of a negated list that names a variable which the request does not have

    def matches(self, text: str, context: Context) -> bool:
        unsure = False
        for one in self.patterns:
            found = one.matches(text, context)
            if found:
                return not self.negated
            unsure = unsure or found is None
        return self.unknown if self.negated and unsure else self.negated


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

    def keys(self) -> frozenset[str]:
        """The condition keys it looks at, in lower case."""
        found: frozenset[str] = frozenset()
        return found.union(
            *(one.variables() for one in self.resources.patterns), *(one.names for one in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    statements: tuple[Statement, ...]
    keys: frozenset[str]  #: the condition keys that it looks at, in lower case; no other needs to be in a context

    def judge(self, ask: Ask) -> Verdict:
        speaking = [one.allows for one in self.statements if one.speaks_of(ask)]
        if not speaking:
            return Verdict.NOT_ALLOWED
        return Verdict.ALLOWED if all(speaking) else Verdict.DENIED


def refusal(principal: str, ask: Ask, verdict: Verdict, *, quote: str = "") -> str:
    """IAM's words for a verdict that is not ALLOWED (recorded: spec §1.8); S3 puts the ARN in quotes."""
    why = f"because no identity-based policy allows the {ask.action} action"
    if verdict is Verdict.DENIED:
        why = "with an explicit deny in an identity-based policy"
    on = f"{quote}{ask.resource}{quote}"
    return f"User: {principal} is not authorized to perform: {ask.action} on resource: {on} {why}"


@lru_cache(maxsize=1024)
def parse(text: str) -> Policy:
    """Read a document. Raises Invalid naming the statement and the rule."""
    if len(text.encode()) > MAX_BYTES:
        raise Invalid(f"Policy: must be smaller than {MAX_BYTES} bytes")
    document = _json(text)
    _check_members(document, _DOCUMENT, "Policy")
    version = document.get("Version", _VERSIONS[1])
    if version not in _VERSIONS:
        raise Invalid(f"Policy: Version must be {' or '.join(_VERSIONS)}")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise Invalid("Policy: Statement must be one statement or a list of them")
    variables = version == _VERSIONS[0]  # before, `${...}` was text like any other
    read = tuple(
        _statement(one, f"Policy: Statement {number}", variables=variables) for number, one in enumerate(statements, 1)
    )
    _check_sids(statements)
    return Policy(read, frozenset().union(*(one.keys() for one in read)))


def _json(text: str) -> Any:
    """Raises Invalid, also for a member that stands twice: what the second hides could be a Deny."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Invalid("Policy: must be JSON") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise Invalid(f"Policy: '{twice}' stands twice in one structure")
    return made


def _check_sids(statements: Sequence[Mapping[str, Any]]) -> None:
    seen = set()
    for number, one in enumerate(statements, 1):
        sid = one.get("Sid", "")
        if not isinstance(sid, str) or _SID.fullmatch(sid) is None:
            raise Invalid(f"Policy: Statement {number}: Sid must be letters and digits")
        if sid and sid in seen:
            raise Invalid(f"Policy: Statement {number}: Sid '{sid}' stands twice")
        seen.add(sid)


def _statement(given: Any, where: str, *, variables: bool) -> Statement:
    _check_members(given, _STATEMENT, where)
    if given.get("Effect") not in ("Allow", "Deny"):
        raise Invalid(f"{where}: Effect must be Allow or Deny")
    allows = given["Effect"] == "Allow"
    negated, texts = _listed(given, "Action", where)
    for one in texts:
        if _ACTION.fullmatch(one) is None:
            raise Invalid(f"{where}: '{one}' must be an action like lambda:RunMicrovm")
    actions = tuple(pattern(one, where, variables=False, ignore_case=True) for one in texts)
    but, texts = _listed(given, "Resource", where)
    for one in texts:
        if one != "*" and (not one.startswith("arn:") or len(split_arn(one)) < _ARN_PARTS):
            raise Invalid(f"{where}: '{one}' must be * or an ARN: arn:partition:service:region:account:resource")
    resources = tuple(pattern(one, where, variables=variables) for one in texts)
    held = conditions(given.get("Condition", {}), f"{where}: Condition", allows=allows, variables=variables)
    unknown = not allows
    return Statement(allows, Matcher(actions, negated, unknown), Matcher(resources, but, unknown), held)


def _listed(given: Mapping[str, Any], name: str, where: str) -> tuple[bool, list[str]]:
    """`<name>` or `Not<name>`, exactly one of them: whether it is the latter, and its texts."""
    present = [one for one in (name, f"Not{name}") if one in given]
    if len(present) != 1:
        raise Invalid(f"{where}: must have either {name} or Not{name}")
    values = given[present[0]]
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        raise Invalid(f"{where}: {present[0]} must be a text or a list of texts")
    return present[0] != name, values


def _check_members(given: Any, known: Iterable[str], where: str) -> None:
    if not isinstance(given, dict):
        raise Invalid(f"{where}: must be a structure")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise Invalid(f"{where}: '{unknown[0]}' is not known; known: {', '.join(sorted(known))}")
