"""A bake leaves no machine behind, whatever goes away under it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from rekindle.core.errors import BuildFailed, MachineError
from rekindle.core.image import Hook, Hooks
from rekindle.driver.base import Handle, MachineSpec
from rekindle.guest.client import HookResult, RelayGone
from rekindle.node import bake
from rekindle.node.bake import Oven
from rekindle.node.relay import Relay
from tests.node.ground import NOWHERE, TOOLS, Driver, FakeRelay, hands
from tests.store.rows import HandClock, image_rows


class LosesTheRelay(Driver):
    """The relay dies once the machine is there."""

    def __init__(self, relay: FakeRelay) -> None:
        super().__init__()
        self._relay = relay

    async def restore(self, spec: MachineSpec, snap: Path) -> Handle:
        handle = await super().restore(spec, snap)
        self._relay.down = True
        return handle


async def test_a_bake_without_its_relay_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    relay = FakeRelay()
    driver = LosesTheRelay(relay)
    at = hands(tmp_path / "state", driver, relay, HandClock())
    oven = Oven(host=at.host, relay=cast(Relay, relay), toolbox=TOOLS, initrd=NOWHERE, clock=at.clock)
    _, version, _ = image_rows()
    version = replace(version, hooks=Hooks(port=9000, enabled=(Hook(name="validate", timeout_s=1),)))
    with pytest.raises(RelayGone):
        await bake.validate(oven, version, tmp_path, lambda _: None)
    assert driver.calls.count("restore") == 1
    assert driver.running() == []
    assert list(at.host.layout.builds.iterdir()) == []


class EndsAtOnce(Driver):
    """The machine ends as soon as it may run."""

    async def unpause(self, vm: Handle) -> None:
        self.alive[vm.pid].set()
        raise MachineError("its control connection was closed")


class Validating:
    """A throw-away clone whose app answers as it is told."""

    def __init__(self, tmp_path: Path, driver: Driver | None = None) -> None:
        self.driver, self.relay = driver or Driver(), FakeRelay()
        self.at = hands(tmp_path / "state", self.driver, self.relay, HandClock())
        self._oven = Oven(
            host=self.at.host, relay=cast(Relay, self.relay), toolbox=TOOLS, initrd=NOWHERE, clock=self.at.clock
        )
        self._folder = tmp_path
        self.log: list[str] = []

    async def run(self, timeout_s: int = 5) -> str | None:
        """The reason of the failure, or None; nothing is left either way."""
        _, version, _ = image_rows()
        hook = Hook(name="validate", timeout_s=timeout_s)
        version = replace(version, hooks=Hooks(port=9000, enabled=(hook,)))
        try:
            await bake.validate(self._oven, version, self._folder, self.log.append)
        except BuildFailed as err:
            return err.message
        finally:
            assert self.driver.running() == []
            assert list(self.at.host.layout.builds.iterdir()) == []
        return None


async def test_a_machine_that_ends_in_a_bake_leaves_its_end_in_the_log(tmp_path: Path) -> None:
    ground = Validating(tmp_path, EndsAtOnce())
    with pytest.raises(MachineError):
        await ground.run()
    assert ground.log[-1] == "The machine had ended: VMM died."


NOT_YET, REFUSED = HookResult(status=503), HookResult(error="refused")


async def test_a_build_hook_is_asked_again_after_503_and_while_nobody_listens(tmp_path: Path) -> None:
    ground = Validating(tmp_path)
    ground.relay.one.in_turn = [REFUSED, NOT_YET, NOT_YET]
    assert await ground.run() is None
    assert ground.relay.one.hooks == ["validate"] * 4


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, "Validate hook check failed: the application returned a server error (HTTP 5xx) response."),
        (404, "Validate hook check failed: the application returned a client error (HTTP 4xx) response."),
        (302, "Validate hook check failed: the application returned HTTP status 302 instead of 200."),
    ],
)
async def test_any_other_answer_fails_the_build_at_once(tmp_path: Path, status: int, reason: str) -> None:
    ground = Validating(tmp_path)
    ground.relay.one.in_turn = [NOT_YET, HookResult(status=status)]
    assert await ground.run() == reason
    assert ground.relay.one.hooks == ["validate"] * 2


async def test_a_build_hook_that_never_says_200_times_out(tmp_path: Path) -> None:
    ground = Validating(tmp_path)
    ground.relay.one.answers["validate"] = NOT_YET
    assert await ground.run(timeout_s=1) == "Validate hook invocation timed out after PT1S"
    assert ground.relay.one.hooks.count("validate") > 1


async def test_an_app_that_exits_while_it_is_validated_is_told_as_that(tmp_path: Path) -> None:
    ground = Validating(tmp_path)
    ground.relay.one.dies_in.add("validate")
    ground.relay.one.answers["validate"] = REFUSED
    assert await ground.run(timeout_s=60) == "The container exited with code 7 before it was validated."
    assert "bye\n" in ground.log
