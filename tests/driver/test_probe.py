"""Which accelerator is usable, found by trying."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.core.errors import Invalid, MachineError
from rekindle.driver import probe
from rekindle.driver.base import Accel
from rekindle.image.toolbox import Toolbox
from tests.accel import ACCEL
from tests.waiting import SLOWNESS


async def test_the_guest_of_the_probe_comes_to_its_end_where_a_guest_can_run(toolbox: Toolbox) -> None:
    assert await probe.try_guest(ACCEL, toolbox.root, toolbox.vmlinux, 60 * SLOWNESS) == ""


async def test_a_guest_that_hangs_or_dies_is_not_usable(toolbox: Toolbox, tmp_path: Path) -> None:
    assert "hung" in await probe.try_guest(ACCEL, toolbox.root, toolbox.vmlinux, 0.05)
    broken = tmp_path / "vmlinux"
    broken.write_text("no kernel")
    assert "died" in await probe.try_guest(ACCEL, toolbox.root, broken, 20 * SLOWNESS)


async def test_the_answer_is_remembered_until_the_machine_starts_again(toolbox: Toolbox, tmp_path: Path) -> None:
    remember = tmp_path / "accel.json"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    told = {"boot_id": boot_id, "tools": toolbox.digest, "accel": "kvm", "why": "tried before"}
    remember.write_text(json.dumps(told))
    assert await probe.choose("auto", toolbox, remember) == (Accel.KVM, "tried before")
    assert await probe.choose("tcg", toolbox, remember) == (Accel.TCG, "machine.accel says so")
    remember.write_text(json.dumps(told | {"accel": "tcg", "why": "hung"}))
    with pytest.raises(MachineError, match="hung"):
        await probe.choose("kvm", toolbox, remember)


async def test_what_was_remembered_of_another_boot_or_toolbox_is_tried_again(toolbox: Toolbox, tmp_path: Path) -> None:
    remember = tmp_path / "accel.json"
    remember.write_text('{"boot_id": "another"}')
    nowhere = replace(toolbox, root=tmp_path / "no-tree")
    accel, why = await probe.choose("auto", nowhere, remember)
    assert accel is Accel.TCG
    assert why
    assert json.loads(remember.read_text())["why"] == why


async def test_an_unknown_setting_is_named(toolbox: Toolbox) -> None:
    with pytest.raises(Invalid, match=r"machine\.accel"):
        await probe.choose("hvf", toolbox, None)


def test_the_probe_leaves_no_process() -> None:
    children = [(task / "children").read_text() for task in Path(f"/proc/{os.getpid()}/task").iterdir()]
    assert "".join(children).strip() == ""
