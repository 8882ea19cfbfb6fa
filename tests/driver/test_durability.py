"""The order in which a sleep becomes durable, as the kernel sees it (docs/contracts.md, section 6): files, folder,
manifest, the way to it, the row. No power is cut; what a cut could have undone at each moment is worked out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from rekindle.core.lifecycle import Ask, Fact
from rekindle.driver import manifest
from rekindle.image.build import Built
from rekindle.image.buildah import ImageConfig
from rekindle.node import builds, perform
from rekindle.store.db import Store
from tests.driver.conftest import fresh
from tests.driver.lab import Guest, Lab
from tests.driver.trace import Call, Disk, traced, without
from tests.node.ground import FakeRelay, Image, hands
from tests.store.rows import ACCOUNT, HandClock, built_image, started

WAL = "rekindle.db-wal"


def undone(calls: Sequence[Call], snap: Path) -> list[str]:
    """What a power cut could do to a VM whose sleep was made by `calls`; empty: nothing."""
    disk, found, renamed = Disk(), [], False
    disk.folders[str(snap.parents[2])] = [snap.parents[1].name]  # made by the launch, which waits for no disk
    disk.files |= {str(snap / name) for name in ("delta", "state", "disk.qcow2")}  # whoever has written them
    for call in calls:
        if _renames(call, snap / manifest.NAME):
            renamed = True
            found += [f"{path} is named before it is durable" for path in disk.files if path.startswith(f"{snap}/")]
            found += [f"{entry} is named before its entry is durable" for entry in disk.folders.get(str(snap), [])]
        if renamed and call.name == "pwrite64" and call.paths[0].endswith(WAL):
            found += [
                f"the row is written before {folder}/{entry} is there for good"
                for folder in (snap, *snap.parents[:3])
                for entry in disk.folders.get(str(folder), [])
            ]
        disk.follow(call)
    if not renamed:
        found.append("no manifest was renamed in")
    if any(path.endswith(WAL) for path in disk.files):
        found.append("the row itself is not durable")
    return found


def _renames(call: Call, path: Path) -> bool:
    return call.name.startswith("rename") and call.paths[-1] == str(path)


async def _asleep(lab: Lab, store: Store, tmp_path: Path) -> tuple[list[Call], Path]:
    """Put a VM to sleep as the node does, traced, up to the row that says so."""
    clock, relay = HandClock(), FakeRelay()
    at = hands(tmp_path / "state", cast(Any, lab.driver), relay, clock)
    await built_image(store)
    vm = await started(store, clock)
    relay.routes[vm.id] = "running"
    spec = replace(lab.spec(), home=at.host.layout.home(vm.id))
    spec.home.mkdir()
    handle = await lab.restore(spec)
    with Guest(spec.home) as guest:
        await lab.driver.unpause(handle)
        await guest.ask("write first 200")
    vm = await store.report(vm, Fact.STARTED, handle=handle.saved())
    baked = await Image().baked(vm)
    with traced(tmp_path / "trace") as calls:
        vm = await store.ask(vm.id, Ask.SUSPEND)
        done = await perform.suspend(at, vm, handle, baked)
        await store.report(vm, done.fact, **done.changes)
    return calls, at.host.layout.sleep(vm.id, vm.revision)


@pytest.fixture
async def slept(baked: Lab, tmp_path: Path) -> AsyncIterator[tuple[list[Call], Path]]:
    lab = fresh(baked, tmp_path)
    store = await Store.open(tmp_path / "rekindle.db", HandClock())
    await store.add_account(ACCOUNT, "default")
    try:
        yield await _asleep(lab, store, tmp_path)
    finally:
        await lab.close()
        await store.close()


async def test_a_sleep_is_durable_before_its_row_says_so(slept: tuple[list[Call], Path]) -> None:
    calls, snap = slept
    assert undone(calls, snap) == []
    ours = str(snap.parents[2])
    syncs = [at for at, call in enumerate(calls) if call.name == "fsync" and call.paths[0].startswith(ours)]
    assert len(syncs) >= 8  # delta, state, disk, manifest, its folder twice, and the way to it
    for at in syncs:
        assert undone(without(calls, at), snap), f"{calls[at]} could be left out and nobody would see"
    (named,) = [at for at, call in enumerate(calls) if _renames(call, snap / manifest.NAME)]
    early = without(calls, named)
    early.insert(syncs[0], calls[named])
    assert undone(early, snap), "a rename that came too early would not be seen"


def test_an_image_has_its_name_for_good_before_its_row_says_so(tmp_path: Path) -> None:
    making, final = tmp_path / "images/account/.making", tmp_path / "images/account/one"
    (tmp_path / "images").mkdir()
    config = ImageConfig(env={}, argv=("app",), workdir="/", user="", exposed=(), stop_signal="SIGTERM")
    built = Built(config=config, root_disk=making / "root.erofs", code_install_bytes=0, image_bytes=4)
    with traced(tmp_path / "trace") as calls:
        making.mkdir(parents=True)  # the account's first image
        built.root_disk.write_bytes(b"root")
        builds._keep(making, final, built)
    disk = Disk()
    for call in calls:
        if call.name.startswith("rename"):
            assert not disk.files & {str(making / "image.json"), str(built.root_disk)}, "named before it is durable"
        disk.follow(call)
    ours = {path: left for path, left in disk.folders.items() if path.startswith(f"{tmp_path}/images")}
    assert any(call.name == "fsync" for call in calls)
    assert ours == {}
