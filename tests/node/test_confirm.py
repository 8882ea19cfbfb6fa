"""A guest that does not confirm every step of its thaw is not served, whatever the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.core.errors import GuestError
from rekindle.core.lifecycle import Ask, Phase
from rekindle.guest.client import Thawed
from rekindle.node import agent, confirm
from rekindle.node.confirm import Asked
from rekindle.node.layout import Layout
from tests.node.ground import Driver, FakeRelay, hands
from tests.node.test_keeper import Stage, stage  # noqa: F401 - a fixture
from tests.store.rows import HandClock

ASKED = Asked(hostname="a-clone", machine_id="1" * 32, now_ns=10**18, seed=b"seed")
GOOD: dict[str, Any] = {
    "seeded": True,
    "held": True,
    "cut": True,
    "clock_ns": 10**18,
    "hostname": "a-clone",
    "machine_id": "1" * 32,
    "boot_id": "e22be3b5-d9f8-4df2-9b3b-6c4a5e6b5c2c",
    "generation": 1,
}
LIES = [
    ("seeded", False, "reseeded"),
    ("seeded", 1, "reseeded"),
    ("held", False, "stood still"),
    ("cut", None, "connections"),
    ("clock_ns", 10**18 - 1, "clock"),
    ("clock_ns", 10**18 + 3600 * 10**9, "clock"),
    ("clock_ns", None, "clock"),
    ("hostname", "localhost", "host name"),
    ("machine_id", "2" * 32, "machine-id"),
    ("boot_id", "e22be3b5-d9f8-4df2-9b3b-000000000000", "boot id"),
    ("generation", 0, "told its app"),
    ("generation", True, "told its app"),
]


@pytest.mark.parametrize(("member", "value", "names"), LIES)
def test_each_step_must_be_confirmed(member: str, value: object, names: str) -> None:
    good = GOOD | {"boot_id": confirm.boot_id_of("1" * 32)}
    confirm.check("it", ASKED, Thawed.of(good))
    with pytest.raises(GuestError, match=names):
        confirm.check("it", ASKED, Thawed.of(good | {member: value}))


def test_an_agent_from_before_there_was_more_confirms_the_seed_alone() -> None:
    old = Thawed.of({"seeded": True, "clock_step_ns": 5, "hook": None})
    confirm.check("it", ASKED, old, all_of_it=False)
    with pytest.raises(GuestError, match="stood still"):
        confirm.check("it", ASKED, old)
    with pytest.raises(GuestError, match="reseeded"):
        confirm.check("it", ASKED, Thawed.of({"clock_step_ns": 5}), all_of_it=False)


@pytest.mark.parametrize(("said", "want"), [({}, False), ({"confirms": 2}, True), ({"confirms": "2"}, False)])
async def test_the_image_and_not_the_guest_says_how_much_is_confirmed(tmp_path: Path, said: object, want: bool) -> None:
    layout = Layout(tmp_path)
    layout.make()
    layout.image("a/b").mkdir(parents=True)
    (layout.image("a/b") / "image.json").write_text(json.dumps(said))

    assert agent.confirms(hands(tmp_path, Driver(), FakeRelay(), HandClock()), "a/b") is want


@pytest.mark.parametrize(("member", "value", "names"), LIES)
async def test_a_new_vm_that_does_not_confirm_is_not_served(
    stage: Stage,  # noqa: F811
    member: str,
    value: object,
    names: str,
) -> None:
    async with stage() as scene:
        scene.relay.one.says = {member: value}
        await scene.reaches(Phase.TERMINATED)
        story = [str(event) for event in await scene.store.events(scene.vm_id, 100)]
        assert any(names in event for event in story), story
        assert "running" not in scene.relay.routes.values()
        assert not scene.driver.running()


async def test_a_vm_that_does_not_confirm_its_resume_sleeps_on(stage: Stage) -> None:  # noqa: F811
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.SUSPEND)
        slept = await scene.reaches(Phase.SUSPENDED)
        scene.relay.one.says = {"held": False}
        await scene.ask(Ask.RESUME)
        await scene.called("kill", times=2)
        still = await scene.reaches(Phase.SUSPENDED)
        assert still.snapshot == slept.snapshot
        assert not scene.driver.running()
