from __future__ import annotations

from dataclasses import replace

import pytest

from rekindle.core.errors import Invalid, Refused, Stale
from rekindle.core.image import ImageState, VersionState, VersionStatus
from rekindle.store.db import Store

from .rows import ACCOUNT, OTHER, REGION, arn, build_row, built_image, image_rows


async def test_rows_come_back_as_they_were(store: Store) -> None:
    image, version, build = image_rows()
    assert await store.create_image(image, version, build, client_token="t", token_digest="d") == (image, version)
    assert await store.image(image.arn) == image
    assert await store.version(image.arn, "1.0") == version
    assert await store.build(build.id) == build
    assert await store.builds(image.arn, "1.0") == [build]
    assert await store.versions_owing() == [version]


async def test_a_name_is_taken_per_account_and_region(store: Store) -> None:
    await store.create_image(*image_rows(), client_token=None, token_digest="")
    with pytest.raises(Invalid, match="A MicroVM image with the name 'demo' already exists in this account"):
        await store.create_image(*image_rows(), client_token=None, token_digest="")
    await store.create_image(*image_rows(account=OTHER), client_token=None, token_digest="")
    assert [one.account for one in await store.images(OTHER, REGION, after=None, limit=9, name_contains=None)] == [
        OTHER
    ]


async def test_a_client_token_finds_what_it_made(store: Store) -> None:
    first = image_rows()
    await store.create_image(*first, client_token="t", token_digest="d")
    assert (await store.create_image(*image_rows(), client_token="t", token_digest="d"))[0] == first[0]
    with pytest.raises(Refused, match="other parameters"):
        await store.create_image(*image_rows("x"), client_token="t", token_digest="e")
    other, _ = await store.create_image(*image_rows("x", OTHER), client_token="t", token_digest="e")
    assert other.account == OTHER


async def test_a_build_that_succeeds_changes_all_three_rows(store: Store) -> None:
    version = await built_image(store)
    assert (version.state, version.status) == (VersionState.SUCCESSFUL, VersionStatus.ACTIVE)
    image = await store.image(version.image_arn)
    assert image is not None
    assert (image.state, image.latest_active_version) == (ImageState.CREATED, "1.0")
    [build] = await store.builds(version.image_arn, "1.0")
    assert (build.state, build.memory_snapshot_bytes, build.disk_snapshot_bytes, build.code_install_bytes) == (
        VersionState.SUCCESSFUL,
        3,
        2,
        1,
    )
    assert await store.version_folders() == {version.folder}
    assert await store.active_version(version.image_arn) == version
    assert await store.versions_owing() == []
    story = [event.what for event in await store.events(version.image_arn, 9)]
    assert story == [
        "image CREATING",
        "version 1.0 PENDING",
        "version 1.0 IN_PROGRESS",
        "version 1.0 SUCCESSFUL",
        "image CREATED",
    ]


async def test_a_build_that_fails_says_why(store: Store) -> None:
    _, version, _ = rows = image_rows()
    await store.create_image(*rows, client_token=None, token_digest="")
    version = await store.build_failed(await store.building(version), reason="no Dockerfile", code_install_bytes=7)
    assert (version.state, version.status, version.state_reason) == (
        VersionState.FAILED,
        VersionStatus.INACTIVE,
        "no Dockerfile",
    )
    image = await store.image(version.image_arn)
    assert image is not None
    assert (image.state, image.latest_failed_version) == (ImageState.CREATE_FAILED, "1.0")
    [build] = await store.builds(version.image_arn, "1.0")
    assert (build.state_reason, build.code_install_bytes) == ("no Dockerfile", 7)
    assert await store.active_version(version.image_arn) is None


async def test_a_late_builder_is_stale(store: Store) -> None:
    _, version, _ = rows = image_rows()
    await store.create_image(*rows, client_token=None, token_digest="")
    first = await store.building(version)
    second = await store.building(first)  # after a crash: begun again
    with pytest.raises(Stale):
        await store.build_failed(first, reason="late")
    done = await store.built(second, folder="f", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1)
    with pytest.raises(Stale):
        await store.building(done)


async def test_lists_go_on_behind_a_place(store: Store) -> None:
    for name in ("c", "a", "b"):
        await store.create_image(*image_rows(name), client_token=None, token_digest="")
    names = [one.name for one in await store.images(ACCOUNT, REGION, after=arn("a"), limit=1, name_contains=None)]
    assert names == ["b"]
    assert [one.name for one in await store.images(ACCOUNT, REGION, after=None, limit=9, name_contains="c")] == ["c"]
    assert [one.version for one in await store.versions(arn("a"), after=None, limit=9)] == ["1.0"]
    assert await store.versions(arn("a"), after="1.0", limit=9) == []
    [build] = await store.builds(arn("a"), "1.0", architecture="X86_64", chipset="INTEL", chipset_generation="1")
    assert await store.builds(arn("a"), "1.0", after=build.id) == []
    assert await store.builds(arn("a"), "1.0", architecture="ARM_64") == []


async def test_half_a_create_leaves_nothing(store: Store) -> None:
    image, version, build = image_rows()
    await store.create_image(image, version, build, client_token=None, token_digest="")
    other, other_version, _ = image_rows("other")
    clash = replace(build_row(other_version), id=build.id)
    with pytest.raises(Exception, match="UNIQUE"):
        await store.create_image(other, other_version, clash, client_token="t", token_digest="")
    assert await store.image(other.arn) is None
