"""Policies are read strictly and judged as IAM judges them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.core.errors import Invalid
from rekindle.core.policy import Ask, Verdict, like, parse

IMAGE = "arn:aws:lambda:us-east-1:000000000000:microvm-image:"


def statement(effect: str = "Allow", **members: Any) -> dict[str, Any]:
    return {"Effect": effect, "Action": "*", "Resource": "*"} | members


def judge(statements: Any, action: str = "lambda:RunMicrovm", resource: str = IMAGE + "a", **context: str) -> Verdict:
    policy = parse(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    return policy.judge(Ask(action, resource, {f"aws:{name}": value for name, value in context.items()}))


def test_nothing_said_means_no_and_a_deny_wins() -> None:
    allow, deny = statement(Action="lambda:*"), statement("Deny", Resource=IMAGE + "secret*")
    assert judge([allow], "s3:GetObject") is Verdict.NOT_ALLOWED
    assert judge([allow]) is Verdict.ALLOWED
    for both in ([allow, deny], [deny, allow]):
        assert judge(both, resource=IMAGE + "secret-1") is Verdict.DENIED
        assert judge(both, resource=IMAGE + "open") is Verdict.ALLOWED


def test_actions_ignore_case_and_resources_do_not() -> None:
    assert judge(statement(Action="LAMBDA:runmicrovm")) is Verdict.ALLOWED
    assert judge(statement(Resource=IMAGE + "A")) is Verdict.NOT_ALLOWED
    assert judge(statement(Action=["lambda:Get*", "lambda:Run?icrovm"])) is Verdict.ALLOWED


def test_everything_but() -> None:
    but = {"Effect": "Allow", "NotAction": "lambda:Run*", "NotResource": IMAGE + "b"}
    assert judge(but) is Verdict.NOT_ALLOWED
    assert judge(but, "lambda:GetMicrovm") is Verdict.ALLOWED
    assert judge(but, "lambda:GetMicrovm", IMAGE + "b") is Verdict.NOT_ALLOWED


def test_variables_stand_for_the_caller() -> None:
    own = statement(Resource=IMAGE + "${aws:username}-*")
    assert judge(own, resource=IMAGE + "ann-1", username="ann") is Verdict.ALLOWED
    assert judge(own, resource=IMAGE + "ann-1", username="bob") is Verdict.NOT_ALLOWED
    assert judge(own, resource=IMAGE + "-1") is Verdict.NOT_ALLOWED, "an unknown variable matches nothing"


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {"aws:x": ["a", "b"]}}, {"x": "b"}, True),
        ({"StringEquals": {"aws:x": "a"}}, {}, False),
        ({"StringEqualsIfExists": {"aws:x": "a"}}, {}, True),
        ({"StringNotEquals": {"aws:x": ["a", "b"]}}, {"x": "b"}, False),
        ({"StringNotEquals": {"aws:x": "a"}}, {}, True),
        ({"StringLike": {"AWS:X": "eu-*"}}, {"x": "eu-west-1"}, True),
        ({"NumericLessThan": {"aws:x": "10"}}, {"x": "9.5"}, True),
        ({"NumericLessThan": {"aws:x": 10}}, {"x": "many"}, False),
        ({"DateLessThan": {"aws:x": "2026-01-01T00:00:00Z"}}, {"x": "2025-12-31T23:59:59Z"}, True),
        ({"DateGreaterThan": {"aws:x": "2026-01-01T00:00:00Z"}}, {"x": "1700000000"}, False),
        ({"Bool": {"aws:x": "true"}}, {"x": "True"}, True),
        ({"IpAddress": {"aws:x": "10.0.0.0/8"}}, {"x": "10.9.8.7"}, True),
        ({"NotIpAddress": {"aws:x": "10.0.0.0/8"}}, {"x": "10.9.8.7"}, False),
        ({"ArnLike": {"aws:x": "arn:aws:iam::*:user/a*"}}, {"x": "arn:aws:iam::1:user/ann"}, True),
        ({"ArnLike": {"aws:x": "arn:*:user/ann"}}, {"x": "arn:aws:iam::1:user/ann"}, False),
        ({"Null": {"aws:x": "true"}}, {}, True),
        ({"Null": {"aws:x": True}}, {"x": "1"}, False),
        ({"StringEquals": {"aws:x": "a"}, "Null": {"aws:y": "false"}}, {"x": "a"}, False),
    ],
)
def test_conditions(condition: Any, context: dict[str, str], holds: Any) -> None:
    assert (judge(statement(Condition=condition), **context) is Verdict.ALLOWED) is holds


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ("nonsense", "must be JSON"),
        ("[]", "must be a structure"),
        ('{"Statement": []}', "one statement or a list"),
        ('{"Version": "2020-01-01", "Statement": {}}', "Version must be"),
        ('{"Statement": {"Effect": "allow", "Action": "*", "Resource": "*"}}', "Statement 1: Effect must be"),
        ('{"Statement": {"Effect": "Allow", "Resource": "*"}}', "either Action or NotAction"),
        ('{"Statement": {"Effect": "Allow", "Action": "*", "NotAction": "*", "Resource": "*"}}', "either Action or"),
        ('{"Statement": {"Effect": "Allow", "Action": "RunMicrovm", "Resource": "*"}}', "must be an action like"),
        ('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "image"}}', "must be an ARN or"),
        ('{"Statement": {"Effect": "Allow", "Action": [], "Resource": "*"}}', "a text or a list of texts"),
        ('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Principal": "*"}}', "'Principal' is not"),
    ],
)
def test_what_is_not_understood_is_refused(document: str, rule: str) -> None:
    with pytest.raises(Invalid, match=rule):
        parse(document)


@pytest.mark.parametrize(
    "condition",
    [
        {"StringSounds": {"aws:x": "a"}},
        {"NullIfExists": {"aws:x": "true"}},
        {"StringEquals": {}},
        {"StringEquals": {"aws:x": []}},
        {"NumericEquals": {"aws:x": "ten"}},
        {"DateEquals": {"aws:x": "soon"}},
        {"IpAddress": {"aws:x": "10.0.0/8"}},
        {"Bool": {"aws:x": "yes"}},
        ["StringEquals"],
    ],
)
def test_conditions_are_read_strictly(condition: Any) -> None:
    with pytest.raises(Invalid, match="Statement 1: Condition"):
        judge(statement(Condition=condition))


LETTERS = st.text("ab*?.", max_size=8)


def reference(pattern: str, text: str) -> bool:
    """Wildcards by their definition."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return reference(pattern[1:], text) or (bool(text) and reference(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and reference(pattern[1:], text[1:])


@given(LETTERS, LETTERS)
def test_wildcards_are_what_they_are_defined_to_be(pattern: str, text: str) -> None:
    assert like(pattern, text) == reference(pattern, text)


STATEMENTS = st.builds(
    statement,
    st.sampled_from(["Allow", "Deny"]),
    Action=st.sampled_from(["*", "lambda:*", "lambda:RunMicrovm", "lambda:Get*", "s3:*"]),
    Resource=st.sampled_from(["*", IMAGE + "*", IMAGE + "a", IMAGE + "b"]),
)


@given(st.lists(STATEMENTS, min_size=1, max_size=5), STATEMENTS, st.randoms())
def test_no_order_matters_and_no_deny_ever_allows(given: list[Any], more: Any, random: Any) -> None:
    before = judge(given)
    shuffled = random.sample(given, len(given))
    assert judge(shuffled) is before
    after = judge([*given, more | {"Effect": "Deny"}])
    assert after in (before, Verdict.DENIED)
