"""Every operation asked what the model allows: a success with exactly the recorded members, or a modelled error."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rekindle.api import model
from rekindle.api.errors import FRONT, INTERNAL
from rekindle.api.operations import OPERATIONS

from .projections import PROJECTIONS, assert_projected
from .requests import USUAL, requests
from .wire import Answer, Wire, operation
from .world import World, make_world

#: What layers in front of an operation answer, whatever it models.
IN_FRONT = {*FRONT.values(), "AccessDeniedException"}
SOME = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
async def world(wire: Wire, other: Wire) -> World:
    return await make_world(wire, other)


def test_every_operation_has_its_members_and_a_usual_request() -> None:
    assert set(OPERATIONS) <= set(PROJECTIONS) == set(USUAL)
    for name, projection in PROJECTIONS.items():
        output = operation(name).output_shape
        assert projection["source"]
        if output is not None and name not in (
            "CreateMicrovmImage",
            "UpdateMicrovmImage",
        ):  # these say more (spec §1.6)
            unmodelled = set(projection["members"][""]) - set(output.members)
            assert unmodelled <= {"id", "tags", "terminationReasonCode", "versionStateTimeBucket"}, name


@pytest.mark.parametrize("name", sorted(OPERATIONS))
async def test_the_usual_answer_has_the_recorded_members(world: World, name: str) -> None:
    answer = await world.wire.call(name, **USUAL[name](world))
    assert answer.status == operation(name).http["responseCode"], answer.reply.body
    assert_projected(name, answer.reply.body)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@SOME
@given(data=st.data())
async def test_an_answer_is_a_whole_success_or_a_modelled_error(world: World, name: str, data: st.DataObject) -> None:
    params = data.draw(requests(operation(name).input_shape, world))
    assert_answered(name, await world.wire.call(name, **params))


def assert_answered(name: str, answer: Answer) -> None:
    op = operation(name)
    if answer.status == op.http["responseCode"]:
        assert_projected(name, answer.reply.body)
        return
    error = answer.reply.headers["X-Amzn-Errortype"]
    assert error in {shape.name for shape in op.error_shapes} | IN_FRONT
    assert error not in INTERNAL
    assert answer.status == model.error_status(error)
    assert answer.error[0] == error
