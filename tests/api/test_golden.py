"""The exchanges that others recorded or measured on the live service (spec §1.8, Appendix A), against our own.

In `tests/golden/exchanges`, `${name}` is something of the `World`, `${*}` anything, `${*uuid}` and its like anything of
that form, `{"$text": "x", "$times": 4097}` a long text. A body is compared whole; null: zero bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rekindle.api import model
from rekindle.api.operations import OPERATIONS
from rekindle.config import Config, Quotas

from .scenarios import on, without_rights
from .wire import Answer, Wire
from .world import World, make_world

FOLDER = Path(__file__).parents[1] / "golden" / "exchanges"
RECORDED = [one for file in sorted(FOLDER.glob("*.json")) for one in json.loads(file.read_text())]
EXCHANGES = [one for one in RECORDED if one["request"]["operation"] in OPERATIONS]
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
FORMS = {
    "${*}": ".+",
    "${*uuid}": UUID,
    "${*iso}": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "${*hour}": r"\d{8}",
    "${*token}": r"[\w-]+\.\.[\w-]+\.[\w-]+\.[\w-]+",
}


async def no_memory(world: World) -> World:
    return replace(world, wire=on(world, quotas=Quotas(memory_mib=1)))


async def no_policy(world: World) -> World:
    return replace(world, wire=await without_rights(world))


GIVEN: dict[str, Callable[[World], Awaitable[World]]] = {"no memory": no_memory, "no policy": no_policy}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """As installed: no size and no limit of our own."""
    return Config(state=tmp_path, tools_dir=tmp_path / "tools")


@pytest.fixture
async def world(wire: Wire, other: Wire) -> World:
    return await make_world(wire, other)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[one["name"].replace(" ", "-") for one in EXCHANGES])
async def test_exchange(world: World, exchange: Mapping[str, Any]) -> None:
    if "given" in exchange:
        world = await GIVEN[exchange["given"]](world)
    request, want = filled(exchange["request"], world.things), filled(exchange["answer"], world.things)
    got = await answered(world.wire, request)
    assert (got.status, got.reply.headers.get("X-Amzn-Errortype")) == (want["status"], want["type"]), got.reply.body
    assert_body(want["body"], got)


async def answered(wire: Wire, request: Mapping[str, Any]) -> Answer:
    """`body` is for what botocore would not write."""
    if "body" in request:
        return await wire.post(request["operation"], request["labels"], request["body"])
    return await wire.call(request["operation"], **request["params"])


def test_names_and_sources() -> None:
    names = [one["name"] for one in EXCHANGES]
    assert len(names) == len(set(names))
    for one in EXCHANGES:
        assert re.match(r"\[(R|M|BC)\] (spec|Appendix)", one["source"]), one["name"]
        if one["answer"]["type"] is not None:
            assert one["answer"]["status"] == model.error_status(one["answer"]["type"])


def filled(value: Any, things: Mapping[str, str]) -> Any:
    match value:
        case {"$text": str(text), "$times": int(times)}:
            return text * times
        case str():
            return re.sub(r"\$\{([^*}]+)\}", lambda match: things[match[1]], value)
        case dict():
            return {name: filled(one, things) for name, one in value.items()}
        case list():
            return [filled(one, things) for one in value]
        case _:
            return value


def assert_body(want: Any, got: Answer) -> None:
    if want is None:
        assert got.reply.body == b""
    else:
        assert_like(want, got.json, "")


def assert_like(want: Any, got: Any, where: str) -> None:
    match want:
        case "${*number}":
            assert isinstance(got, int | float), where
        case str() if "${*" in want:
            assert re.fullmatch(_expression(want), got), (where, got)
        case dict():
            assert isinstance(got, dict), where
            assert set(got) == set(want), where
            for name, one in want.items():
                assert_like(one, got[name], f"{where}.{name}")
        case list():
            assert len(got) == len(want), where
            for wanted, found in zip(want, got, strict=True):
                assert_like(wanted, found, f"{where}[]")
        case _:
            assert got == want, where


def _expression(text: str) -> str:
    parts = re.split(r"(\$\{\*\w*\})", text)
    return "".join(FORMS[part] if part in FORMS else re.escape(part) for part in parts)
