"""Deletions: files before rows, whatever cuts them off; and one way for the AWS API and the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rekindle.core.errors import Invalid, NotFound, Stale
from rekindle.core.image import ImageState, Version, VersionState
from rekindle.core.lifecycle import Ask
from rekindle.driver.base import Snapshot
from rekindle.image.build import Built
from rekindle.image.buildah import ImageConfig
from rekindle.node import bake, builds, removals
from rekindle.node.agent import Agent
from rekindle.node.builds import Workshop
from rekindle.node.layout import Layout
from rekindle.node.operator import Operating
from rekindle.node.perform import remove_tree
from rekindle.node.relay import Relay as RealRelay
from rekindle.store.db import Store
from tests.node.ground import Driver, hands
from tests.node.test_agent import Relay, at_work
from tests.store.rows import ACCOUNT, HandClock, arn, built_image, image_rows, started, updated_image
from tests.waiting import until_async

ARN = arn("demo")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


async def paths(store: Store, state: Path, version: Version) -> list[Path]:
    """The folder and the log of a version."""
    assert version.folder is not None
    [build] = await store.builds(version.image_arn, version.version)
    layout = Layout(state)
    return [layout.image(version.folder), layout.build_log(build.id)]


async def with_files(store: Store, state: Path, version: Version) -> list[Path]:
    Layout(state).make()
    folder, log = await paths(store, state, version)
    (folder / "snapshot").mkdir(parents=True)
    (folder / "snapshot/ram").write_bytes(b"ram")
    (folder / "root.erofs").write_bytes(b"root")
    log.write_text("STEP 1\n")
    return [folder, log]


async def two_versions(store: Store, state: Path) -> tuple[list[Path], list[Path]]:
    first = await with_files(store, state, await built_image(store))
    return first, await with_files(store, state, await updated_image(store))


@asynccontextmanager
async def operating(state: Path, store: Store) -> AsyncIterator[tuple[Agent, Operating]]:
    relay = Relay()
    async with at_work(state, store, relay) as agent:
        host = hands(state, Driver(), relay, HandClock()).host
        yield (
            agent,
            Operating(
                agent=agent, store=store, host=host, relay=cast(RealRelay, relay), addresses={}, stop=lambda: None
            ),
        )


async def test_a_version_goes_with_its_files_and_no_other(state: Path, store: Store) -> None:
    first, second = await two_versions(store, state)
    async with at_work(state, store, Relay()) as agent:
        await store.delete_version(ARN, "1.0")
        agent.kick()
        await asyncio.wait_for(agent.removed(ARN, "1.0"), 5)
    assert [path.exists() for path in first + second] == [False, False, True, True]
    assert await store.version(ARN, "1.0") is None
    image = await store.image(ARN)
    assert image is not None
    assert (image.state, image.latest_active_version) == (ImageState.UPDATED, "2.0")


async def test_an_image_goes_with_everything(state: Path, store: Store) -> None:
    first, second = await two_versions(store, state)
    async with at_work(state, store, Relay()) as agent:
        await store.delete_image(ARN)
        agent.kick()
        await asyncio.wait_for(agent.removed(ARN), 5)
    assert [path.exists() for path in first + second] == [False] * 4
    assert await store.image(ARN) is None


@pytest.mark.parametrize("reached", ["nothing", "half a folder", "the folder", "all files", "one row"])
async def test_a_removal_that_was_cut_off_is_finished_at_the_next_start(
    state: Path, store: Store, reached: str
) -> None:
    """Every point at which the service may have died, as rows and files are then."""
    first, second = await two_versions(store, state)
    await store.delete_image(ARN)
    folder, log = first
    if reached == "half a folder":
        (folder / "snapshot/ram").unlink()
    elif reached != "nothing":
        remove_tree(folder)
    if reached in ("all files", "one row"):
        log.unlink()
    if reached == "one row":
        await store.version_removed((await store.versions_deleting())[0])
    before = Agent(hands(state, Driver(), Relay(), HandClock()), store, cast(Workshop, None), {})
    await before.start()
    assert all(path.exists() for path in second)  # a row still names them: they are not left over
    async with at_work(state, store, Relay()) as agent:
        await asyncio.wait_for(agent.removed(ARN), 5)
    assert [path.exists() for path in first + second] == [False] * 4
    assert await store.image(ARN) is None


async def test_files_that_no_row_names_are_swept_at_the_start(state: Path, store: Store) -> None:
    """The row's end was durable, the folder's was not."""
    first, second = await two_versions(store, state)
    await store.delete_version(ARN, "1.0")
    await store.version_removed((await store.versions_deleting())[0])
    await Agent(hands(state, Driver(), Relay(), HandClock()), store, cast(Workshop, None), {}).start()
    assert [path.exists() for path in first + second] == [False, False, True, True]


async def test_a_removal_that_fails_is_tried_again(state: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "AGAIN_S", 0.01)
    first, _ = await two_versions(store, state)
    folder = first[0]
    remove_tree(folder)
    folder.write_text("no folder: it cannot be removed as one")
    async with at_work(state, store, Relay()) as agent:
        await store.delete_version(ARN, "1.0")
        agent.kick()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.removed(ARN, "1.0"), 0.1)
        version = await store.version(ARN, "1.0")
        assert version is not None
        assert version.state is VersionState.DELETING
        folder.unlink()
        await asyncio.wait_for(agent.removed(ARN, "1.0"), 5)
    assert await store.version(ARN, "1.0") is None


async def test_the_operator_removes_as_the_api_does(state: Path, store: Store) -> None:
    first, second = await two_versions(store, state)
    async with operating(state, store) as (agent, operator):
        vm = await started(store, HandClock())
        with pytest.raises(Invalid, match="running microvms"):
            await operator.remove_image(ARN)
        with pytest.raises(Invalid, match="running microvms"):
            await operator.remove_image(ARN, "1.0")
        await operator.remove_image(ARN, "2.0")
        assert [path.exists() for path in first + second] == [True, True, False, False]
        with pytest.raises(NotFound):
            await operator.remove_image(ARN, "2.0")
        await store.ask(vm.id, Ask.TERMINATE)
        agent.kick()
        await asyncio.wait_for(agent.empty(), 5)
        await operator.remove_image(ARN)
        assert await store.image(ARN) is None
        assert [path.exists() for path in first] == [False, False]
        with pytest.raises(NotFound):
            await operator.remove_image(ARN)


async def test_whoever_waits_for_a_removal_that_goes_on_sees_its_end(state: Path, store: Store) -> None:
    await two_versions(store, state)
    async with operating(state, store) as (_, operator):
        await asyncio.wait_for(asyncio.gather(*(operator.remove_image(ARN) for _ in range(3))), 5)
    assert await store.image(ARN) is None


async def test_a_builder_whose_row_moved_on_ends_without_a_word(
    state: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def make(_: Any, version: Version) -> None:
        asked.append(version.version)
        raise Stale("the row moved on")

    monkeypatch.setattr(builds, "make", make)
    await store.create_image(*image_rows(), client_token=None, token_digest="")
    async with at_work(state, store, Relay()) as agent:
        agent.kick()

        async def tried() -> bool:
            return bool(asked)

        await until_async(tried, 5, "the build is tried")
    version = await store.version(ARN, "1.0")
    assert version is not None
    assert version.state is VersionState.PENDING  # nobody called it failed


async def test_an_image_whose_row_moved_on_leaves_no_folder(
    state: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was whole and had its lasting name; another service has said meanwhile how the build ended."""
    images: list[Path] = []
    layout, keep = Layout(state), builds._keep

    async def built(_shop: Workshop, _version: Version, _work: Path, out: Path, _log: object) -> Built:
        (out / "root.erofs").write_bytes(b"root")
        config = ImageConfig(env={}, argv=("/app",), workdir="/", user="", exposed=(), stop_signal="SIGTERM")
        return Built(config=config, root_disk=out / "root.erofs", code_install_bytes=1, image_bytes=4)

    async def baked(_oven: object, version: Version, _config: object, folder: Path, _log: object) -> Snapshot:
        await store.build_failed(version, reason="by another service")
        return Snapshot(folder=folder / "snapshot", memory_bytes=1, disk_bytes=1, private_bytes=1)

    async def valid(*_: object) -> None:
        pass

    def kept(making: Path, final: Path, built: Built) -> None:
        keep(making, final, built)
        assert (final / "image.json").exists()
        images.append(final)

    monkeypatch.setattr(builds, "_build", built)
    monkeypatch.setattr(builds, "_keep", kept)
    monkeypatch.setattr(bake, "bake", baked)
    monkeypatch.setattr(bake, "validate", valid)
    at = hands(state, Driver(), Relay(), HandClock())
    shop = cast(Workshop, SimpleNamespace(oven=SimpleNamespace(host=at.host), store=store, clock=at.clock))
    _, version = await store.create_image(*image_rows(), client_token=None, token_digest="")
    with pytest.raises(Stale):
        await builds.make(shop, version)
    assert len(images) == 1, "there was something to remove"
    assert list((layout.images / ACCOUNT).iterdir()) == []
    assert list(layout.builds.iterdir()) == []
