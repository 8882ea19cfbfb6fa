"""Every error that an operation models is provoked here, or `docs/compat.toml` says why it cannot come about."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rekindle.api import model
from rekindle.api.operations import OPERATIONS

from .projections import PROJECTIONS
from .scenarios import INSTEAD, PROVOKED, scenario
from .wire import Wire, operation
from .world import World, make_world

COMPAT = tomllib.loads((Path(__file__).parents[2] / "docs" / "compat.toml").read_text())
NEVER = {(name, one["error"]): one["why"] for one in COMPAT["never"] for name in one["operations"]}
PAIRS = [(name, shape.name) for name in PROJECTIONS for shape in operation(name).error_shapes]
PAIRS = [(name, error) for name, error in PAIRS if name in OPERATIONS]
TOLD = [(name, error) for name, error in PAIRS if scenario(name, error) and (name, error) not in NEVER]


@pytest.fixture
async def world(wire: Wire, other: Wire) -> World:
    return await make_world(wire, other)


def test_every_modelled_error_has_its_story_or_its_reason() -> None:
    assert sorted(set(PAIRS) - set(TOLD) - set(NEVER)) == []
    assert sorted(set(NEVER) - set(PAIRS)) == []
    assert all(why.endswith(".") for why in NEVER.values())


def test_no_story_is_told_for_nothing() -> None:
    known = {(name, error) for error, told in PROVOKED.items() if isinstance(told, dict) for name in told} | set(
        INSTEAD
    )
    assert sorted({(name, error) for name, error in known if name in OPERATIONS} - set(PAIRS)) == []
    assert sorted(known & set(NEVER)) == []


@pytest.mark.parametrize(("name", "error"), TOLD, ids=[f"{name}-{error}" for name, error in TOLD])
async def test_provoked(world: World, name: str, error: str) -> None:
    tell = scenario(name, error)
    assert tell is not None
    got = await tell(world, name)
    assert (got.type, got.status) == (error, model.error_status(error)), got.body
    assert "x-amzn-requestid" in got.headers
