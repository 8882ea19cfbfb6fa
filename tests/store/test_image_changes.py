"""New versions, their status, and deletion: who is refused, what the image says of its versions, what is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rekindle.core.errors import Invalid, NotFound, Refused, Stale
from rekindle.core.image import Image, ImageState, Version, VersionState, VersionStatus
from rekindle.core.lifecycle import Ask, Fact
from rekindle.core.microvm import MicroVM
from rekindle.store.db import Store

from .rows import PORTS, HandClock, arn, built_image, image_rows, started, updated_image, vm_row

ARN = arn("demo")


async def image(store: Store) -> Image:
    found = await store.image(ARN)
    assert found is not None
    return found


async def version(store: Store, name: str) -> Version:
    found = await store.version(ARN, name)
    assert found is not None
    return found


async def ask_update(store: Store, token: str | None = None, digest: str = "") -> tuple[Image, Version]:
    _, row, build = image_rows()
    return await store.update_image(row, build, client_token=token, token_digest=digest)


async def end(store: Store, vm: MicroVM) -> None:
    await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)


async def removed(store: Store) -> None:
    """What the node does, without files."""
    for one in await store.versions_deleting():
        await store.version_removed(one)


async def test_an_update_is_a_version_with_a_build_of_its_own(store: Store) -> None:
    first = await built_image(store)
    changed, second = await ask_update(store)
    assert (changed.state, changed.last_number, changed.latest_active_version) == (ImageState.UPDATING, 2, "1.0")
    assert (second.version, second.state, second.status) == ("2.0", VersionState.PENDING, VersionStatus.INACTIVE)
    assert await store.versions_owing() == [second]
    assert [build.version for build in await store.builds(ARN, "2.0")] == ["2.0"]
    assert await store.active_version(ARN) == first
    assert [event.what for event in await store.events(ARN, 2)] == ["image UPDATING", "version 2.0 PENDING"]


@pytest.mark.parametrize(("good", "state"), [(True, ImageState.UPDATED), (False, ImageState.UPDATE_FAILED)])
async def test_the_end_of_the_build_is_the_end_of_the_update(store: Store, good: bool, state: ImageState) -> None:
    await built_image(store)
    await updated_image(store, good=good)
    after = await image(store)
    assert after.state is state
    assert (after.latest_active_version, after.latest_failed_version) == (("2.0", None) if good else ("1.0", "2.0"))
    assert (await store.events(ARN, 1))[0].what == f"image {state.value}"


async def test_a_number_is_never_given_twice(store: Store) -> None:
    await built_image(store)
    await updated_image(store)
    await store.delete_version(ARN, "2.0")
    await removed(store)
    _, third = await ask_update(store)
    assert third.version == "3.0"
    assert [one.version for one in await store.versions(ARN, after=None, limit=9)] == ["3.0", "1.0"]


async def test_a_first_build_that_failed_may_be_followed_by_a_good_one(store: Store) -> None:
    _, row, _ = rows = image_rows()
    await store.create_image(*rows, client_token=None, token_digest="")
    await store.build_failed(await store.building(row), reason="x")
    await updated_image(store)
    after = await image(store)
    assert (after.state, after.latest_active_version, after.latest_failed_version) == (ImageState.UPDATED, "2.0", "1.0")


async def test_a_client_token_finds_the_version_it_made(store: Store) -> None:
    await built_image(store)
    first = await ask_update(store, "t", "d")
    assert await ask_update(store, "t", "d") == first
    with pytest.raises(Refused, match="other parameters"):
        await ask_update(store, "t", "e")
    await store.built(
        await store.building(first[1]), folder="2", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1
    )
    assert (await ask_update(store, "t", "d"))[1].version == "2.0"
    await store.delete_version(ARN, "2.0")
    await removed(store)
    assert (await ask_update(store, "t", "d"))[1].version == "3.0"  # the token went with its version


async def test_half_an_update_leaves_nothing(store: Store) -> None:
    await built_image(store)
    _, row, build = image_rows()
    [first] = await store.builds(ARN, "1.0")
    with pytest.raises(Exception, match="UNIQUE"):
        await store.update_image(row, replace(build, id=first.id), client_token="t", token_digest="d")
    assert (await image(store)).last_number == 1
    assert (await ask_update(store, "t", "other"))[1].version == "2.0"


async def test_while_something_changes_nothing_else_does(store: Store) -> None:
    _, row, _ = rows = image_rows()
    await store.create_image(*rows, client_token=None, token_digest="")
    await refused_as(store, "CREATING")
    with pytest.raises(Invalid, match="Cannot delete MicroVM image in its current state: CREATING"):
        await store.delete_image(ARN)
    await store.built(
        await store.building(row), folder="1", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1
    )
    await ask_update(store)
    await refused_as(store, "UPDATING")
    with pytest.raises(Invalid, match="Cannot delete MicroVM image in its current state: UPDATING"):
        await store.delete_image(ARN)
    await store.build_failed(await store.building(await version(store, "2.0")), reason="x")
    await store.delete_image(ARN)
    with pytest.raises(Refused, match="already in state: DELETING"):
        await ask_update(store)


async def refused_as(store: Store, state: str) -> None:
    text = f"^MicroVM Image is already in state: {state}$"
    with pytest.raises(Refused, match=text):
        await ask_update(store)
    with pytest.raises(Refused, match=text):
        await store.set_version_status(ARN, "1.0", VersionStatus.ACTIVE)
    with pytest.raises(Refused, match=text):
        await store.delete_version(ARN, "1.0")


async def test_the_status_decides_what_is_latest(store: Store) -> None:
    await built_image(store)
    await updated_image(store)
    off = await store.set_version_status(ARN, "2.0", VersionStatus.INACTIVE)
    assert (off.status, (await image(store)).latest_active_version) == (VersionStatus.INACTIVE, "1.0")
    await store.set_version_status(ARN, "1.0", VersionStatus.INACTIVE)
    assert ((await image(store)).latest_active_version, await store.active_version(ARN)) == (None, None)
    on = await store.set_version_status(ARN, "2.0", VersionStatus.ACTIVE)
    told = await store.events(ARN, 99)
    assert await store.set_version_status(ARN, "2.0", VersionStatus.ACTIVE) == on
    assert await store.events(ARN, 99) == told
    assert (await image(store)).state is ImageState.UPDATED
    assert told[-1].what == "version 2.0 ACTIVE"


async def test_only_a_whole_version_has_a_status(store: Store) -> None:
    await built_image(store)
    await updated_image(store, good=False)
    with pytest.raises(Invalid, match=r"2\.0, which is FAILED"):
        await store.set_version_status(ARN, "2.0", VersionStatus.ACTIVE)
    with pytest.raises(NotFound, match=rf"MicroVMImage not found for MicroVMImage: {ARN}, Version: 9\.0"):
        await store.set_version_status(ARN, "9.0", VersionStatus.ACTIVE)


async def test_a_version_goes_when_its_files_are_gone(store: Store) -> None:
    await built_image(store)
    second = await updated_image(store)
    going = await store.delete_version(ARN, "2.0")
    assert (going.state, going.status, going.folder) == (VersionState.DELETING, VersionStatus.INACTIVE, second.folder)
    assert await store.delete_version(ARN, "2.0") == going
    between = await image(store)
    assert (between.state, between.latest_active_version) == (ImageState.UPDATING, "1.0")
    assert second.folder in await store.version_folders()  # nobody sweeps it before its row says so
    await store.check_invariants()
    [owed] = await store.versions_deleting()
    await store.version_removed(owed)
    assert (await image(store)).state is ImageState.UPDATED
    assert (await store.version(ARN, "2.0"), await store.builds(ARN, "2.0")) == (None, [])
    with pytest.raises(Stale):
        await store.version_removed(owed)
    with pytest.raises(NotFound):
        await store.delete_version(ARN, "2.0")
    told = [event.what for event in await store.events(ARN, 4)]
    assert told == ["version 2.0 DELETING", "image UPDATING", "version 2.0 DELETED", "image UPDATED"]


async def test_a_version_in_use_and_the_only_one_stay(store: Store, clock: HandClock) -> None:
    await built_image(store)
    with pytest.raises(Invalid, match="only version"):
        await store.delete_version(ARN, "1.0")
    await updated_image(store)
    vm = await started(store, clock)  # of 1.0
    with pytest.raises(Invalid, match="running microvms"):
        await store.delete_version(ARN, "1.0")
    await store.ask(vm.id, Ask.TERMINATE)
    with pytest.raises(Invalid, match="running microvms"):  # TERMINATING counts
        await store.delete_version(ARN, "1.0")
    assert (await image(store)).state is ImageState.UPDATED
    await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)
    await store.delete_version(ARN, "1.0")
    await removed(store)
    assert (await image(store)).latest_active_version == "2.0"


async def test_a_version_may_go_while_machines_of_another_live(store: Store, clock: HandClock) -> None:
    await built_image(store)
    await updated_image(store)
    vm = await started(store, clock)  # of 1.0
    await store.delete_version(ARN, "2.0")
    await started(store, clock)  # 1.0 is still launched meanwhile
    await removed(store)
    assert (await store.microvm(vm.id)) == vm


async def test_a_failed_version_that_is_gone_is_not_the_latest(store: Store) -> None:
    await built_image(store)
    await updated_image(store, good=False)
    await store.delete_version(ARN, "2.0")
    assert (await image(store)).latest_failed_version is None
    await removed(store)


async def test_an_image_goes_with_its_last_version(store: Store, clock: HandClock) -> None:
    await store.create_image(*(rows := image_rows()), client_token="t", token_digest="d")
    await store.built(
        await store.building(rows[1]), folder="1", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1
    )
    await updated_image(store)
    vm = await started(store, clock)
    with pytest.raises(Invalid, match=r"^Cannot delete microvm image with running microvms\.$"):
        await store.delete_image(ARN)
    await end(store, vm)
    going = await store.delete_image(ARN)
    assert (going.state, going.latest_active_version) == (ImageState.DELETING, None)
    assert await store.delete_image(ARN) == going
    assert [one.state for one in await store.versions(ARN, after=None, limit=9)] == [VersionState.DELETING] * 2
    with pytest.raises(Invalid, match="already exists"):
        await store.create_image(*image_rows(), client_token=None, token_digest="")
    await store.check_invariants()
    first, second = await store.versions_deleting()
    await store.version_removed(first)
    assert (await image(store)).state is ImageState.DELETING
    await store.version_removed(second)
    assert (await store.image(ARN), await store.version_folders(), await store.build_ids()) == (None, set(), set())
    told = [(event.what, event.by) for event in await store.events(ARN, 3)]
    assert told == [
        ("version 1.0 DELETED", "service"),
        ("version 2.0 DELETED", "service"),
        ("image DELETED", "service"),
    ]
    with pytest.raises(NotFound, match=f"^MicroVMImage not found for MicroVMImageID: {ARN}$"):
        await store.delete_image(ARN)
    # The token went with its image: the same create makes a new one instead of a ghost.
    again, _ = await store.create_image(*image_rows(), client_token="t", token_digest="d")
    assert again.id != rows[0].id


@pytest.mark.parametrize("going", ["image", "version", "inactive"])
async def test_a_launch_that_comes_after_its_version_went_is_refused(
    store: Store, clock: HandClock, going: str
) -> None:
    """The caller looked before; the transaction looks again."""
    await built_image(store)
    await updated_image(store)
    await store.set_version_status(ARN, "1.0", VersionStatus.INACTIVE)
    if going == "image":
        await store.delete_image(ARN)
    elif going == "version":
        await store.delete_version(ARN, "1.0")
    with pytest.raises(NotFound, match=rf"No active version found for MicroVM image {ARN} and version 1\.0"):
        await store.run_microvm(vm_row(clock), PORTS, client_token="t", token_digest="d")
    assert await store.all_microvms("local") == []


async def test_a_failure_in_the_middle_of_a_deletion_changes_nothing(store: Store) -> None:
    await built_image(store)
    before = await image(store)
    store._db.queries = {**store._db.queries, "move_image": "SELECT * FROM image WHERE 0"}
    with pytest.raises(Stale):
        await store.delete_image(ARN)
    assert (await version(store, "1.0")).state is VersionState.SUCCESSFUL
    assert await image(store) == before


async def test_broken_rows_are_named(store: Store) -> None:
    await built_image(store)
    for wrong, right, rule in (
        ("latest_active_version = NULL", "latest_active_version = '1.0'", "images_know_their_latest_versions"),
        ("last_number = 0", "last_number = 1", "no_version_number_is_ahead_of_its_image"),
        ("state = 'UPDATING'", "state = 'CREATED'", "images_that_change_say_what"),
        ("state = 'DELETING'", "state = 'CREATED'", "an_image_that_goes_has_only_versions_that_go"),
    ):
        store._db._connection.execute(f"UPDATE image SET {wrong}")
        with pytest.raises(AssertionError, match=rule):
            await store.check_invariants()
        store._db._connection.execute(f"UPDATE image SET {right}")
