"""Rules of the model in the service's words, on shapes that the golden messages of the operations do not reach."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.api import model
from rekindle.api.validate import validate
from rekindle.core.errors import Invalid

from .shapes import structures
from .wire import create_params, operation

CREATE = operation("CreateMicrovmImage").input_shape
TAG_RULES = (
    "[Member must have length less than or equal to 128, Member must have length greater than or equal to 1, "
    r"Member must satisfy regular expression pattern: ([\p{L}\p{Z}\p{N}_.:/=+\-@]*), Member must not be null]"
)


def faults(**changes: Any) -> str:
    with pytest.raises(Invalid) as caught:
        validate(CREATE, create_params(**changes))
    return caught.value.message


@pytest.mark.parametrize("key", ["team", "équipe", "チーム", "a b", "a\u3000b", "x_1.:/=+-@", "\u00bd"])
def test_smithy_classes_mean_the_same_in_python(key: str) -> None:
    validate(CREATE, create_params(tags={key: key}))


@pytest.mark.parametrize("key", ["!", "a\nb", "\u0301", "", "k" * 129])
def test_a_bad_tag_key_is_reported_with_all_rules(key: str) -> None:
    assert faults(tags={key: "x"}) == (
        f"1 validation error detected: Value '{{{key}=x}}' at 'tags' failed to satisfy constraint: "
        f"Map keys must satisfy constraint: {TAG_RULES}"
    )


def test_a_scalar_in_a_list_is_reported_at_the_list() -> None:
    assert faults(additionalOsCapabilities=["ALL", "SOME"]) == (
        "1 validation error detected: Value '[ALL, SOME]' at 'additionalOsCapabilities' failed to satisfy constraint: "
        "Member must satisfy constraint: [Member must satisfy enum value set: [ALL], Member must not be null]"
    )


def test_null_in_a_list_or_a_map_is_no_value() -> None:
    assert "Member must not be null" in faults(additionalOsCapabilities=[None])
    assert "Value null at 'cpuConfigurations.1.member'" in faults(cpuConfigurations=[None])
    secret = faults(environmentVariables={"A": None})
    assert secret.startswith("1 validation error detected: Value at 'environmentVariables' failed")


def test_a_secret_value_is_not_repeated() -> None:
    assert "hunter2" not in faults(environmentVariables={"bad key": "hunter2"})


def test_two_members_of_a_union_are_one_too_many() -> None:
    both: dict[str, Any] = {"disabled": {}, "cloudWatch": {}}
    assert faults(logging=both) == (
        "1 validation error detected: Value '{disabled={}, cloudWatch={}}' at 'logging' failed to satisfy constraint: "
        "Member must have exactly one of its members set"
    )


@settings(max_examples=50, deadline=None)
@given(params=structures(operation("CreateMicrovmAuthToken").input_shape), length=st.integers(257, 300))
def test_one_broken_rule_is_one_fault(params: dict[str, Any], length: int) -> None:
    """Whatever else is valid: the count and the name are those of the one member that is not."""
    shape = operation("CreateMicrovmAuthToken").input_shape
    params["allowedPorts"] = params["allowedPorts"] or [{"port": 1}]
    validate(shape, params)
    with pytest.raises(Invalid, match=r"^1 validation error detected: .* at 'microvmIdentifier' failed"):
        validate(shape, params | {"microvmIdentifier": "x" * length})


def test_limits_are_read_and_not_typed() -> None:
    assert model.maximum("ListMicrovmsRequestMaxResultsInteger") == 50
