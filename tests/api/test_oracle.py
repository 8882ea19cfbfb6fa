"""botocore is the oracle, both ways, for every operation; so is the older model that the AWS CLI brings along."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rekindle.api import codec, errors, model
from rekindle.api.operations import OPERATIONS
from rekindle.api.router import route

from .shapes import structures
from .wire import http, operation, raw, read

#: The product's own operations: lambda-core's runtimes are another product.
OURS = [one.name for one in model.operations() if "Runtime" not in one.name]
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@cache
def _cli(service: str) -> ServiceModel:
    """The CLI's model, read as a file: importing awscli puts its own botocore in place of the real one."""
    package = find_spec("awscli")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "botocore" / "data"
    loader = Loader(extra_search_paths=[str(folder)], include_default_search_paths=False)
    return ServiceModel(loader.load_service_model(service, "service-2"), service)


OLD = [name for service in model.SERVICES for name in _cli(service).operation_names]


def older(name: str) -> OperationModel:
    return next(_cli(one).operation_model(name) for one in model.SERVICES if name in _cli(one).operation_names)


def test_there_are_thirty() -> None:
    assert len(OURS) == 30
    assert set(OPERATIONS) <= set(OURS)
    assert len(OLD) == 29
    assert set(OURS) - set(OLD) == {"ListNetworkConnectorVersions"}


@pytest.mark.parametrize("name", OURS)
@FEW
@given(data=st.data())
def test_what_botocore_sends_is_what_we_read(name: str, data: st.DataObject) -> None:
    assert_read(operation(name), data)


@pytest.mark.parametrize("name", OLD)
@FEW
@given(data=st.data())
def test_what_the_cli_sends_is_what_we_read(name: str, data: st.DataObject) -> None:
    assert_read(older(name), data)


def assert_read(sender: OperationModel, data: st.DataObject) -> None:
    params = data.draw(structures(sender.input_shape))
    request = raw(http(sender, params))
    found, labels = route(request.method, request.path)
    assert found.name == sender.name
    assert codec.parse(found.model, labels, request.query, request.body) == params


@pytest.mark.parametrize("name", OURS)
@FEW
@given(data=st.data())
def test_what_we_answer_is_what_botocore_reads(name: str, data: st.DataObject) -> None:
    assert_understood(name, operation(name), data)


@pytest.mark.parametrize("name", OLD)
@FEW
@given(data=st.data())
def test_what_we_answer_is_what_the_cli_reads(name: str, data: st.DataObject) -> None:
    assert_understood(name, older(name), data)


#: Members that the live service adds and no model has (spec §1.1), of every type.
STRANGERS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=5),
        "buildPhaseOverrides": st.none(),
        "roleConfiguration": st.none() | st.dictionaries(st.text(max_size=3), st.booleans(), max_size=2),
        "versionStateTimeBucket": st.just("SUCCESSFUL#26073006"),
        "terminationReasonCode": st.none(),
    },
)


def assert_understood(name: str, reader: OperationModel, data: st.DataObject) -> None:
    """What is answered, unset members as null and strangers among them, is what a reader of its own model gets."""
    op = operation(name)
    result = data.draw(structures(op.output_shape)) if op.output_shape else {}
    shown = with_nulls(op.output_shape, result, data.draw(STRANGERS)) if op.output_shape else {}
    reply = codec.answer(op, shown)
    assert reply.status == op.http["responseCode"]
    assert milliseconds(reader.output_shape, read(reader, reply)) == within(reader.output_shape, result)


@pytest.mark.parametrize("name", OLD)
def test_the_cli_reads_errors_that_its_model_does_not_have(name: str) -> None:
    newest = next(one for one in model.operations() if one.name == name)
    for kind in (*errors.SHAPE, *errors.FRONT):
        parsed = read(older(name), errors.refusal(kind("why"), newest))
        assert parsed["Error"]["Code"] == errors.shape_name(kind("why"), newest)
        assert parsed["Error"]["Message"] in ("why", "Internal service error.")


def with_nulls(shape: Shape, value: Any, strangers: Mapping[str, Any]) -> Any:
    match shape.type_name:
        case "structure" if shape.is_tagged_union:
            return value
        case "structure":
            members = {
                name: with_nulls(member, value[name], strangers) if name in value else None
                for name, member in shape.members.items()
            }
            return {**strangers, **members}
        case "list":
            return [with_nulls(shape.member, one, strangers) for one in value]
        case _:
            return value


def within(shape: Shape | None, value: Any) -> Any:
    """What of `value` a model with `shape` knows."""
    if shape is None:
        return {}
    match shape.type_name:
        case "structure":
            known = {name: within(shape.members[name], one) for name, one in value.items() if name in shape.members}
            if shape.is_tagged_union and not known:
                [stranger] = value
                return {"SDK_UNKNOWN_MEMBER": {"name": stranger}}
            return known
        case "list":
            return [within(shape.member, one) for one in value]
        case _:
            return value


def milliseconds(shape: Shape | None, value: Any) -> Any:
    """botocore's datetimes back as epoch milliseconds."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, list) and shape is not None:
        return [milliseconds(shape.member, one) for one in value]
    if isinstance(value, dict) and shape is not None and shape.type_name == "structure":
        return {
            name: milliseconds(shape.members[name], one) if name in shape.members else one
            for name, one in value.items()
        }
    return value
