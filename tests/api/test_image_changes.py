"""Updates and deletions of images and versions on the wire: projections, refusals, and what is launched meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rekindle.core.image import VersionState
from rekindle.core.lifecycle import Ask, Fact
from rekindle.store.db import Store
from tests.store.rows import OTHER, HandClock, arn, built_image, image_rows, updated_image

from .test_images import ALL_HOOKS, INTERNET
from .wire import BASE, ROLE, RecordingEngine, Wire, create_params

ARN = arn("demo")
OF_1 = {"imageIdentifier": ARN, "imageVersion": "1.0"}
OF_2 = {"imageIdentifier": ARN, "imageVersion": "2.0"}


def update_params(**changes: Any) -> dict[str, Any]:
    params = create_params(**changes)
    del params["name"]
    return {"imageIdentifier": ARN} | params


async def finish(store: Store, version: str, *, good: bool = True) -> None:
    row = await store.version(ARN, version)
    assert row is not None
    row = await store.building(row)
    if good:
        await store.built(row, folder=version, memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1)
    else:
        await store.build_failed(row, reason="CONTAINER_BUILD_FAILED: step 2")


async def remove(store: Store) -> None:
    for version in await store.versions_deleting():
        await store.version_removed(version)


async def test_an_update_answers_every_member_but_tags(
    wire: Wire, store: Store, clock: HandClock, engine: RecordingEngine
) -> None:
    made = await wire.ok("CreateMicrovmImage", **create_params(description="old", hooks=ALL_HOOKS, tags={"a": "b"}))
    await finish(store, "1.0")
    clock.now_ms += 1500
    engine.kicks = 0
    changes = {
        "description": None,
        "environmentVariables": {"MODE": "fast"},
        "resources": [{"minimumMemoryInMiB": 256}],
    }
    assert await wire.ok("UpdateMicrovmImage", **update_params(**changes)) == {
        "additionalOsCapabilities": None,
        "baseImageArn": BASE,
        "baseImageVersion": "1.0",
        "buildPhaseOverrides": None,
        "buildRoleArn": ROLE,
        "codeArtifact": {"uri": "s3://code/demo.zip"},
        "cpuConfigurations": [{"architecture": "X86_64"}],
        "createdAt": clock() / 1000 - 1.5,
        "description": None,
        "egressNetworkConnectors": [INTERNET],
        "environmentVariables": {"MODE": "fast"},
        "hooks": None,
        "id": made["id"],
        "imageArn": ARN,
        "imageVersion": "2.0",
        "latestActiveImageVersion": "1.0",
        "latestFailedImageVersion": None,
        "logging": None,
        "name": "demo",
        "resources": [{"minimumMemoryInMiB": 256}],
        "roleConfiguration": None,
        "state": "UPDATING",
        "updatedAt": clock() / 1000,
    }
    assert engine.kicks == 1
    shown = await wire.ok("GetMicrovmImageVersion", **OF_2)
    assert (shown["state"], shown["status"], shown["createdAt"]) == ("PENDING", "INACTIVE", clock() / 1000)
    first = await wire.ok("GetMicrovmImageVersion", **OF_1)
    assert (first["description"], first["hooks"]) == ("old", ALL_HOOKS)  # a version never changes
    listed = (await wire.ok("ListMicrovmImageVersions", imageIdentifier=ARN))["items"]
    assert [item["imageVersion"] for item in listed] == ["2.0", "1.0"]
    [build] = (await wire.ok("ListMicrovmImageBuilds", **OF_2))["items"]
    assert (build["imageVersion"], build["buildState"]) == ("2.0", "PENDING")
    assert (await wire.ok("GetMicrovmImage", imageIdentifier=ARN))["tags"] == {"a": "b"}


@pytest.mark.parametrize(
    ("good", "state", "active", "failed"),
    [
        (True, "UPDATED", "2.0", None),
        (False, "UPDATE_FAILED", "1.0", "2.0"),
    ],
)
async def test_launches_take_the_newest_version_that_is_whole(
    wire: Wire, store: Store, good: bool, state: str, active: str, failed: str | None
) -> None:
    await built_image(store)
    await wire.ok("UpdateMicrovmImage", **update_params())
    assert (await wire.ok("RunMicrovm", imageIdentifier=ARN))["imageVersion"] == "1.0"  # while it is UPDATING
    refused = await wire.call("RunMicrovm", **OF_2)
    assert (refused.status, refused.error[1]) == (
        404,
        f"No active version found for MicroVM image {ARN} and version 2.0",
    )
    await finish(store, "2.0", good=good)
    image = await wire.ok("GetMicrovmImage", imageIdentifier=ARN)
    assert (image["state"], image["latestActiveImageVersion"], image["latestFailedImageVersion"]) == (
        state,
        active,
        failed,
    )
    assert (await wire.ok("RunMicrovm", imageIdentifier=ARN))["imageVersion"] == active
    assert (await wire.ok("RunMicrovm", **OF_1))["imageVersion"] == "1.0"


async def test_a_client_token_makes_an_update_safe_to_repeat(wire: Wire, store: Store) -> None:
    await built_image(store)
    first = await wire.ok("UpdateMicrovmImage", **update_params(clientToken="t"))
    assert await wire.ok("UpdateMicrovmImage", **update_params(clientToken="t")) == first
    clash = await wire.call("UpdateMicrovmImage", **update_params(clientToken="t", description="other"))
    assert (clash.status, clash.error[0]) == (409, "ConflictException")
    await finish(store, "2.0")
    assert (await wire.ok("UpdateMicrovmImage", **update_params(clientToken="t")))["imageVersion"] == "2.0"
    other = await wire.ok("UpdateMicrovmImage", **update_params(clientToken="u"))
    assert other["imageVersion"] == "3.0"
    again = await wire.ok("UpdateMicrovmImage", **update_params(clientToken="t"))
    assert again["imageVersion"] == "2.0"  # of two updates each token names its own
    assert len((await wire.ok("ListMicrovmImageVersions", imageIdentifier=ARN))["items"]) == 3


async def test_an_update_is_checked_like_a_create(wire: Wire, store: Store) -> None:
    await built_image(store)
    bare = await wire.post("UpdateMicrovmImage", {"imageIdentifier": ARN}, {})
    assert (bare.status, bare.error[1].count("Member must not be null")) == (400, 3)
    for changes, message in (
        ({"baseImageVersion": "999"}, f"No managed MicroVM Image with arn {BASE} and version 999 is available"),
        ({"environmentVariables": {"AWS_REGION": "x"}}, "Environment variable key 'AWS_REGION' is reserved"),
    ):
        answer = await wire.call("UpdateMicrovmImage", **update_params(**changes))
        assert (answer.status, answer.error[1]) == (400, message)
    assert (await wire.ok("GetMicrovmImage", imageIdentifier=ARN))["state"] == "CREATED"


async def test_a_status_is_answered_with_the_version(wire: Wire, store: Store) -> None:
    await built_image(store)
    await updated_image(store)
    before = await wire.ok("GetMicrovmImageVersion", **OF_2)
    off = await wire.ok("UpdateMicrovmImageVersion", **OF_2, status="INACTIVE")
    changed = {"status", "updatedAt", "versionStateTimeBucket"}
    assert {name: one for name, one in off.items() if name not in changed} == {
        name: one for name, one in before.items() if name not in changed
    }
    assert off["status"] == "INACTIVE"
    assert await wire.ok("UpdateMicrovmImageVersion", **OF_2, status="INACTIVE") == off
    assert (await wire.ok("RunMicrovm", imageIdentifier=ARN))["imageVersion"] == "1.0"
    pinned = await wire.call("RunMicrovm", **OF_2)
    assert pinned.status == 404
    await wire.ok("UpdateMicrovmImageVersion", **OF_1, status="INACTIVE")
    none = await wire.call("RunMicrovm", imageIdentifier=ARN)
    assert (none.status, none.error[1]) == (404, f"No active version found for MicroVM image {ARN}")
    await wire.ok("UpdateMicrovmImageVersion", **OF_2, status="ACTIVE")
    assert (await wire.ok("GetMicrovmImage", imageIdentifier=ARN))["latestActiveImageVersion"] == "2.0"


async def test_a_failed_version_cannot_be_activated(wire: Wire, store: Store) -> None:
    await built_image(store)
    await updated_image(store, good=False)
    answer = await wire.call("UpdateMicrovmImageVersion", **OF_2, status="ACTIVE")
    assert (answer.status, answer.error[0]) == (400, "ValidationException")
    assert "FAILED" in answer.error[1]
    odd = await wire.call("UpdateMicrovmImageVersion", **OF_1, status="SLEEPY")
    assert odd.error[1] == (
        "1 validation error detected: Value 'SLEEPY' at 'status' failed to satisfy constraint: "
        "Member must satisfy enum value set: [ACTIVE, INACTIVE]"
    )


async def test_a_version_goes_and_its_image_is_updated(wire: Wire, store: Store, engine: RecordingEngine) -> None:
    await built_image(store)
    await updated_image(store)
    going = {"imageIdentifier": ARN, "imageVersion": "2.0", "state": "DELETING"}
    assert await wire.ok("DeleteMicrovmImageVersion", **OF_2) == going
    assert await wire.ok("DeleteMicrovmImageVersion", **OF_2) == going
    assert engine.kicks == 2
    image = await wire.ok("GetMicrovmImage", imageIdentifier=ARN)
    assert (image["state"], image["latestActiveImageVersion"]) == ("UPDATING", "1.0")
    listed = (await wire.ok("ListMicrovmImageVersions", imageIdentifier=ARN))["items"]
    assert [(item["imageVersion"], item["state"]) for item in listed] == [("2.0", "DELETING"), ("1.0", "SUCCESSFUL")]
    assert listed[0]["versionStateTimeBucket"].startswith("DELETING#")
    chained = await wire.call("DeleteMicrovmImageVersion", **OF_1)
    assert (chained.status, *chained.error) == (
        409,
        "ConflictException",
        "MicroVM Image is already in state: UPDATING",
    )
    await remove(store)
    assert (await wire.ok("GetMicrovmImage", imageIdentifier=ARN))["state"] == "UPDATED"
    for operation in ("GetMicrovmImageVersion", "DeleteMicrovmImageVersion", "ListMicrovmImageBuilds"):
        gone = await wire.call(operation, **OF_2)
        assert (gone.status, gone.error[1]) == (404, f"MicroVMImage not found for MicroVMImage: {ARN}, Version: 2.0")
    last = await wire.call("DeleteMicrovmImageVersion", **OF_1)
    assert (last.status, last.error[0]) == (400, "ValidationException")
    assert (await wire.ok("UpdateMicrovmImage", **update_params()))["imageVersion"] == "3.0"


async def test_machines_hold_their_version_and_their_image(wire: Wire, store: Store) -> None:
    await built_image(store)
    await updated_image(store)
    vm_id = (await wire.ok("RunMicrovm", **OF_1))["microvmId"]
    for _ in range(2):
        version = await wire.call("DeleteMicrovmImageVersion", **OF_1)
        assert (version.status, version.error[0]) == (400, "ValidationException")
        image = await wire.call("DeleteMicrovmImage", imageIdentifier=ARN)
        assert (image.status, *image.error) == (
            400,
            "ValidationException",
            "Cannot delete microvm image with running microvms.",
        )
        await store.ask(vm_id, Ask.TERMINATE)  # the second round: TERMINATING counts
    await store.report(await store.ask(vm_id, Ask.TERMINATE), Fact.STOPPED)
    await wire.ok("DeleteMicrovmImage", imageIdentifier=ARN)
    await remove(store)
    assert (await wire.ok("GetMicrovm", microvmIdentifier=vm_id))["imageVersion"] == "1.0"


async def test_an_image_goes_and_its_name_is_free_again(wire: Wire, store: Store, engine: RecordingEngine) -> None:
    await wire.ok("CreateMicrovmImage", **create_params(clientToken="t", tags={"a": "b"}))
    await finish(store, "1.0")
    await updated_image(store)
    engine.kicks = 0
    going = {"imageIdentifier": ARN, "state": "DELETING"}
    assert await wire.ok("DeleteMicrovmImage", imageIdentifier=ARN) == going
    assert await wire.ok("DeleteMicrovmImage", imageIdentifier=ARN) == going
    assert engine.kicks == 2
    assert (await wire.ok("GetMicrovmImage", imageIdentifier=ARN))["state"] == "DELETING"
    taken = await wire.call("CreateMicrovmImage", **create_params())
    assert (taken.status, taken.error[1]) == (
        400,
        "A MicroVM image with the name 'demo' already exists in this account",
    )
    for pinned in ({}, {"imageVersion": "1.0"}):
        launch = await wire.call("RunMicrovm", imageIdentifier=ARN, **pinned)
        assert (launch.status, launch.error[0]) == (404, "ResourceNotFoundException")
    await remove(store)
    for operation, params in (
        ("GetMicrovmImage", {}),
        ("DeleteMicrovmImage", {}),
        ("UpdateMicrovmImage", update_params()),
    ):
        gone = await wire.call(operation, **({"imageIdentifier": ARN} | params))
        assert (gone.status, *gone.error) == (
            404,
            "ResourceNotFoundException",
            f"MicroVMImage not found for MicroVMImageID: {ARN}",
        )
    new = await wire.ok("CreateMicrovmImage", **create_params(clientToken="t"))
    assert (new["imageVersion"], new["state"]) == ("1.0", "CREATING")
    assert (await wire.ok("GetMicrovmImage", imageIdentifier=ARN))["tags"] == {}


@pytest.mark.parametrize("state", ["CREATING", "UPDATING", "DELETING"])
async def test_one_change_at_a_time(wire: Wire, store: Store, state: str) -> None:
    if state == "CREATING":
        await store.create_image(*image_rows(), client_token=None, token_digest="")
    else:
        await built_image(store)
    if state == "UPDATING":
        await wire.ok("UpdateMicrovmImage", **update_params())
    if state == "DELETING":
        await wire.ok("DeleteMicrovmImage", imageIdentifier=ARN)
    calls = [
        ("UpdateMicrovmImage", update_params()),
        ("UpdateMicrovmImageVersion", OF_1 | {"status": "ACTIVE"}),
    ]
    if state != "DELETING":  # repeating a deletion is fine
        calls.append(("DeleteMicrovmImageVersion", OF_1))
        image = await wire.call("DeleteMicrovmImage", imageIdentifier=ARN)
        assert (image.status, *image.error) == (
            400,
            "ValidationException",
            f"Cannot delete MicroVM image in its current state: {state}",
        )
    for operation, params in calls:
        answer = await wire.call(operation, **params)
        assert (answer.status, *answer.error) == (
            409,
            "ConflictException",
            f"MicroVM Image is already in state: {state}",
        )
        assert answer.json == {"message": answer.error[1], "resourceId": None, "resourceType": None}


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("UpdateMicrovmImage", update_params()),
        ("DeleteMicrovmImage", {}),
        ("UpdateMicrovmImageVersion", {"imageVersion": "1.0", "status": "ACTIVE"}),
        ("DeleteMicrovmImageVersion", {"imageVersion": "1.0"}),
    ],
)
async def test_what_is_not_yours_is_refused(wire: Wire, store: Store, operation: str, more: dict[str, Any]) -> None:
    theirs = await built_image(store, "theirs", OTHER)
    await updated_image(store, "theirs", OTHER)
    answer = await wire.call(operation, **(more | {"imageIdentifier": theirs.image_arn}))
    assert (answer.status, answer.error[0]) == (403, "AccessDeniedException")
    named = await wire.call(operation, **(more | {"imageIdentifier": "theirs"}))
    assert (named.status, named.error[1]) == (400, "Invalid ARN format: theirs")
    nobody = await wire.call(operation, **(more | {"imageIdentifier": arn("nobody")}))
    assert (nobody.status, nobody.error[0]) == (404, "ResourceNotFoundException")
    states = [one.state for one in await store.versions(theirs.image_arn, after=None, limit=9)]
    assert states == [VersionState.SUCCESSFUL] * 2


async def test_the_story_names_who_asked(wire: Wire, store: Store) -> None:
    await built_image(store)
    await wire.ok("UpdateMicrovmImage", **update_params())
    told = [event for event in await store.events(ARN, 9) if event.what == "version 2.0 PENDING"]
    assert [event.by for event in told] == [wire.key[0]]


async def test_of_updates_at_the_same_time_one_is_made(wire: Wire, store: Store) -> None:
    await built_image(store)
    answers = await asyncio.gather(*(wire.call("UpdateMicrovmImage", **update_params()) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    assert len(await store.versions_owing()) == 1


@pytest.mark.parametrize("operation", ["DeleteMicrovmImage", "DeleteMicrovmImageVersion"])
async def test_a_launch_and_a_deletion_at_the_same_time_exclude_each_other(
    wire: Wire, store: Store, operation: str
) -> None:
    await built_image(store)
    await updated_image(store)
    pinned = OF_1 if operation == "DeleteMicrovmImageVersion" else {"imageIdentifier": ARN}
    calls = [wire.call("RunMicrovm", **OF_1), wire.call(operation, **pinned), wire.call("RunMicrovm", **OF_1)]
    answers = await asyncio.gather(*calls)
    launched = [answers[0].status, answers[2].status]
    assert (answers[1].status == 200) is (launched == [404, 404])
    await store.check_invariants()
