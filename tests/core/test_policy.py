"""Policies are read strictly and judged as IAM judges them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.core.errors import Invalid
from rekindle.core.patterns import like, pattern
from rekindle.core.policy import Ask, Policy, Verdict, parse

IMAGE = "arn:aws:lambda:us-east-1:000000000000:microvm-image:"


def statement(effect: str = "Allow", **members: Any) -> dict[str, Any]:
    return {"Effect": effect, "Action": "*", "Resource": "*"} | members


def judge(statements: Any, action: str = "lambda:RunMicrovm", resource: str = IMAGE + "a", **context: str) -> Verdict:
    return read(statements).judge(Ask(action, resource, {f"aws:{name}": value for name, value in context.items()}))


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
        ({"ArnLike": {"aws:x": "arn:aws:*:*:*:ann"}}, {"x": "arn:aws:iam::1:user/ann"}, False),
        ({"Null": {"aws:x": "true"}}, {}, True),
        ({"Null": {"aws:x": True}}, {"x": "1"}, False),
        ({"Null": {"aws:x": ["true", "false"]}}, {"x": "1"}, True),
        ({"StringEqualsIgnoreCase": {"aws:x": "AbC"}}, {"x": "aBc"}, True),
        ({"StringEquals": {"aws:x": "a*"}}, {"x": "ab"}, False),
        ({"StringEquals": {"aws:x": "${aws:y}"}}, {"x": "a", "y": "a"}, True),
        ({"StringEquals": {"aws:x": "${aws:y}"}}, {"x": "a"}, False),
        ({"StringLike": {"aws:x": "${aws:y}"}}, {"x": "ab", "y": "*"}, False),
        ({"StringNotEquals": {"aws:x": "${aws:y}"}}, {"x": "a"}, False),
        ({"ArnLike": {"aws:x": "arn:aws:iam::*:user/${aws:y}"}}, {"x": "arn:aws:iam::1:user/ann", "y": "ann"}, True),
        ({"NumericEquals": {"aws:x": "1"}}, {"x": "nan"}, False),
        ({"DateEquals": {"aws:x": "2026-01-01T01:00:00+01:00"}}, {"x": "2026-01-01T00:00:00Z"}, True),
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
        ('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "image"}}', "must be \\* or an ARN"),
        ('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "arn:aws:lambda"}}', "must be \\* or an ARN"),
        ('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Sid": "a b"}}', "letters and digits"),
        (
            '{"Statement": {"Effect": "Deny", "Effect": "Allow", "Action": "*", "Resource": "*"}}',
            "'Effect' stands twice",
        ),
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
        {"ForEveryValue:StringEquals": {"aws:x": "a"}},
        {"ForAnyValue:Null": {"aws:x": "true"}},
        {"StringEquals": {"aws:x": "${aws:y"}},
        {"NumericEquals": {"aws:x": "nan"}},
        {"NumericEquals": {"aws:x": "${aws:y}"}},
        {"ArnLike": {"aws:x": "arn:aws"}},
        {"Null": {"aws:x": "perhaps"}},
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
    assert like(text, pattern) == reference(pattern, text)


@given(st.lists(st.text("ab*", max_size=3), max_size=4), LETTERS)
def test_wildcards_of_a_variables_value_are_text(parts: list[str], text: str) -> None:
    """`${aws:x}` for each second part: there a star stands for itself."""
    context = {f"aws:{number}": part for number, part in enumerate(parts)}
    written = "".join(f"${{aws:{number}}}" if number % 2 else part for number, part in enumerate(parts))
    inert = "".join(part.replace("*", "#") if number % 2 else part for number, part in enumerate(parts))
    found = pattern(written, "test").matches(text, context)
    tries = [text] if "*" not in text else _starred(text)
    assert found is any(reference(inert, one) for one in tries)


def _starred(text: str) -> list[str]:
    """`text` with each choice of its stars made the literal star of `inert`."""
    if "*" not in text:
        return [text]
    before, _, after = text.partition("*")
    return [before + middle + rest for rest in _starred(after) for middle in ("#", "+")]


def test_a_match_never_goes_back_over_the_text() -> None:
    """A regular expression that did would need more than the age of this machine here."""
    assert not like("a" * 2048, "*a" * 40 + "*b")
    assert like("a" * 2048 + "b", "*a" * 40 + "*b")


def test_variables_have_defaults_and_spell_the_wildcards() -> None:
    some = statement(Resource=IMAGE + "${aws:username, 'guest'}")
    assert judge(some, resource=IMAGE + "guest") is Verdict.ALLOWED
    assert judge(some, resource=IMAGE + "guest", username="ann") is Verdict.NOT_ALLOWED
    star = statement(Resource=IMAGE + "${*}")
    assert judge(star, resource=IMAGE + "*") is Verdict.ALLOWED
    assert judge(star, resource=IMAGE + "a") is Verdict.NOT_ALLOWED
    with pytest.raises(Invalid, match=r"Statement 1: .* must spell its variables"):
        judge(statement(Resource=IMAGE + "${aws:username"))


def test_variables_came_with_the_second_version() -> None:
    old = parse(json.dumps({"Version": "2008-10-17", "Statement": statement(Resource=IMAGE + "${aws:username}")}))
    assert old.judge(Ask("lambda:RunMicrovm", IMAGE + "ann", {"aws:username": "ann"})) is Verdict.NOT_ALLOWED
    assert old.judge(Ask("lambda:RunMicrovm", IMAGE + "${aws:username}", {})) is Verdict.ALLOWED


def test_everything_but_an_unknown_variable_gives_nothing_and_denies_all() -> None:
    but = {"Action": "*", "NotResource": IMAGE + "${aws:nobody}"}
    assert judge({"Effect": "Allow"} | but) is Verdict.NOT_ALLOWED
    assert judge([statement(), {"Effect": "Deny"} | but]) is Verdict.DENIED


@pytest.mark.parametrize(
    ("operator", "keys", "holds"),
    [
        ("ForAllValues:StringEquals", ("a", "b"), True),
        ("ForAllValues:StringEquals", ("a", "c"), False),
        ("ForAllValues:StringEquals", None, True),
        ("ForAnyValue:StringEquals", ("c", "b"), True),
        ("ForAnyValue:StringEquals", ("c",), False),
        ("ForAnyValue:StringEquals", None, False),
        ("ForAnyValue:StringEqualsIfExists", None, True),
        ("ForAnyValue:StringNotEquals", ("a", "c"), True),
        ("ForAnyValue:StringNotEquals", None, False),
        ("ForAllValues:StringNotEquals", ("a", "c"), False),
        ("StringEquals", ("c", "b"), True),
        ("StringNotEquals", ("c", "b"), False),
    ],
)
def test_keys_with_several_values(operator: str, keys: tuple[str, ...] | None, holds: Any) -> None:
    policy = read(statement(Condition={operator: {"aws:TagKeys": ["a", "b"]}}))
    context = {} if keys is None else {"aws:tagkeys": keys}
    assert (policy.judge(Ask("lambda:TagResource", "*", context)) is Verdict.ALLOWED) is holds


def test_a_policy_knows_which_keys_it_looks_at() -> None:
    one = statement(Condition={"StringLike": {"AWS:ResourceTag/Team": "${aws:UserName}"}})
    assert read([one, statement(Resource=IMAGE + "${aws:userid}")]).keys == {
        "aws:resourcetag/team",
        "aws:username",
        "aws:userid",
    }


def read(statements: Any) -> Policy:
    return parse(json.dumps({"Version": "2012-10-17", "Statement": statements}))


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
