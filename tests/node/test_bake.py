"""A bake leaves no machine behind, whatever goes away under it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from rekindle.core.image import Hook, Hooks
from rekindle.driver.base import Handle, MachineSpec
from rekindle.guest.client import RelayGone
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
