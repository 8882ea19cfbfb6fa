"""Images on the wire: exact projections (spec §1.6) and what a create refuses (spec §1.4, §1.8)."""

from __future__ import annotations

from typing import Any

import pytest

from rekindle.core.image import Hook, Version
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, HandClock, arn, built_image

from .wire import AWS_BASE, BASE, ROLE, RecordingEngine, Wire, create_params

INTERNET = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:INTERNET_EGRESS"
NO_EGRESS = INTERNET.replace("INTERNET_EGRESS", "NO_EGRESS")
ALL_HOOKS = {
    "port": 9000,
    "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120, "validate": "ENABLED"},
    "microvmHooks": {"run": "ENABLED", "suspend": "DISABLED", "resumeTimeoutInSeconds": 5},
}


async def stored(store: Store, name: str = "demo") -> Version:
    version = await store.version(arn(name), "1.0")
    assert version is not None
    return version


async def test_create_answers_every_member(wire: Wire, clock: HandClock, engine: RecordingEngine) -> None:
    made = await wire.ok("CreateMicrovmImage", **create_params(tags={"team": "blue"}))
    image_id = made.pop("id")
    assert len(image_id) == 36
    assert made == {
        "additionalOsCapabilities": None,
        "baseImageArn": BASE,
        "baseImageVersion": "1.0",
        "buildPhaseOverrides": None,
        "buildRoleArn": ROLE,
        "codeArtifact": {"uri": "s3://code/demo.zip"},
        "cpuConfigurations": [{"architecture": "X86_64"}],
        "createdAt": clock() / 1000,
        "description": None,
        "egressNetworkConnectors": [INTERNET],
        "environmentVariables": None,
        "hooks": None,
        "imageArn": arn("demo"),
        "imageVersion": "1.0",
        "latestActiveImageVersion": None,
        "latestFailedImageVersion": None,
        "logging": None,
        "name": "demo",
        "resources": [{"minimumMemoryInMiB": 2048}],
        "roleConfiguration": None,
        "state": "CREATING",
        "tags": None,
        "updatedAt": clock() / 1000,
    }
    assert engine.kicks == 1
    assert await wire.ok("GetMicrovmImage", imageIdentifier=arn("demo")) == {
        "createdAt": clock() / 1000,
        "id": image_id,
        "imageArn": arn("demo"),
        "latestActiveImageVersion": None,
        "latestFailedImageVersion": None,
        "name": "demo",
        "state": "CREATING",
        "tags": {"team": "blue"},
        "updatedAt": clock() / 1000,
    }
    listed = await wire.ok("ListMicrovmImages")
    assert listed["nextToken"] is None
    assert [set(item) for item in listed["items"]] == [
        {
            "createdAt",
            "id",
            "imageArn",
            "latestActiveImageVersion",
            "latestFailedImageVersion",
            "name",
            "state",
        }
    ]


async def test_a_version_echoes_what_was_asked_for(wire: Wire, store: Store) -> None:
    asked = create_params(
        hooks=ALL_HOOKS,
        environmentVariables={"MODE": "fast"},
        additionalOsCapabilities=["ALL"],
        resources=[{"minimumMemoryInMiB": 256}],
        description="a demo",
        egressNetworkConnectors=[NO_EGRESS],
        logging={"disabled": {}},
        baseImageVersion="1",
    )
    await wire.ok("CreateMicrovmImage", **asked)
    shown = await wire.ok("GetMicrovmImageVersion", imageIdentifier=arn("demo"), imageVersion="1.0")
    for name in asked.keys() - {"name", "baseImageVersion"}:
        assert shown[name] == asked[name]
    assert set(shown) == {
        *asked.keys() - {"name"},
        "cpuConfigurations",
        "createdAt",
        "imageArn",
        "imageVersion",
        "state",
        "stateReason",
        "status",
        "tags",
        "updatedAt",
        "versionStateTimeBucket",
    }
    assert (shown["baseImageVersion"], shown["state"], shown["status"]) == ("1.0", "PENDING", "INACTIVE")
    assert shown["versionStateTimeBucket"].startswith("PENDING#")
    assert len(shown["versionStateTimeBucket"]) == len("PENDING#26073006")
    assert (await wire.ok("ListMicrovmImageVersions", imageIdentifier=arn("demo")))["items"] == [shown]
    row = await stored(store)
    assert (row.memory_mib, row.vcpus, row.os_capabilities_all, row.egress) == (256, 1, True, (NO_EGRESS,))
    assert row.hooks is not None
    assert row.hooks.enabled == (
        Hook(name="ready", timeout_s=120),
        Hook(name="validate", timeout_s=30),
        Hook(name="run", timeout_s=1),
    )


async def test_a_build_shows_its_sizes_when_it_has_them(wire: Wire, store: Store) -> None:
    await wire.ok("CreateMicrovmImage", **create_params())
    [item] = (await wire.ok("ListMicrovmImageBuilds", imageIdentifier=arn("demo"), imageVersion="1.0"))["items"]
    build_id = item.pop("buildId")
    created_at = item.pop("createdAt")
    assert item == {
        "architecture": "X86_64",
        "buildState": "PENDING",
        "chipset": "INTEL",
        "chipsetGeneration": "1",
        "imageArn": arn("demo"),
        "imageVersion": "1.0",
        "stateReason": None,
        "terminationReasonCode": None,
    }
    get = {"imageIdentifier": arn("demo"), "imageVersion": "1.0", "buildId": build_id}
    pending = await wire.ok("GetMicrovmImageBuild", **get)
    assert pending == {**item, "buildId": build_id, "createdAt": created_at, "snapshotBuild": None}
    version = await store.building(await stored(store))
    await store.built(version, folder="f", memory_snapshot_bytes=3, disk_snapshot_bytes=2, code_install_bytes=1)
    done = await wire.ok("GetMicrovmImageBuild", **get)
    assert done["buildState"] == "SUCCESSFUL"
    assert done["snapshotBuild"] == {
        "codeInstallSizeInBytes": 1,
        "diskSnapshotSizeInBytes": 2,
        "memorySnapshotSizeInBytes": 3,
    }
    other = {"imageIdentifier": arn("demo"), "imageVersion": "1.0", "architecture": "ARM_64"}
    assert (await wire.ok("ListMicrovmImageBuilds", **other))["items"] == []


async def test_managed_images_are_ours(wire: Wire) -> None:
    assert await wire.ok("ListManagedMicrovmImages") == {
        "items": [
            {"createdAt": 1_780_000_000.0, "imageArn": arn, "updatedAt": 1_780_000_000.0} for arn in (BASE, AWS_BASE)
        ],
        "nextToken": None,
    }
    assert await wire.ok("ListManagedMicrovmImageVersions", imageIdentifier=BASE) == {
        "items": [
            {
                "createdAt": 1_780_000_000.0,
                "imageArn": BASE,
                "imageVersion": "1",
                "status": "AVAILABLE",
                "supportedCpuConfigurations": [{"architecture": "X86_64"}],
                "updatedAt": 1_780_000_000.0,
            }
        ],
        "nextToken": None,
    }
    unknown = await wire.call("ListManagedMicrovmImageVersions", imageIdentifier=BASE.replace("debian-13", "x"))
    assert unknown.status == 404


def broken(count: int, *faults: str) -> str:
    return f"{count} validation error{'s' if count > 1 else ''} detected: {'; '.join(faults)}"


def fault(value: str, where: str, rule: str) -> str:
    return f"Value {value}at '{where}' failed to satisfy constraint: {rule}"


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"baseImageArn": None, "codeArtifact": None, "buildRoleArn": None},
        broken(
            3,
            *(
                fault("null ", name, "Member must not be null")
                for name in ("baseImageArn", "codeArtifact", "buildRoleArn")
            ),
        ),
    ),
    (
        {"name": "bad name!"},
        "1 validation error detected: Value 'bad name!' at 'name' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+",
    ),
    (
        {"name": "n" * 65},
        broken(1, fault(f"'{'n' * 65}' ", "name", "Member must have length less than or equal to 64")),
    ),
    (
        {"hooks": {"port": 70000, "microvmHooks": {"runTimeoutInSeconds": 0}}},
        broken(
            2,
            fault("'70000' ", "hooks.port", "Member must have value less than or equal to 65535"),
            fault(
                "'0' ", "hooks.microvmHooks.runTimeoutInSeconds", "Member must have value greater than or equal to 1"
            ),
        ),
    ),
    (
        {"cpuConfigurations": [{"architecture": "MIPS"}]},
        broken(
            1,
            fault(
                "'MIPS' ",
                "cpuConfigurations.1.member.architecture",
                "Member must satisfy enum value set: [ARM_64, X86_64]",
            ),
        ),
    ),
    (
        {"environmentVariables": {"A": "x" * 4097}},
        broken(
            1,
            fault(
                "",
                "environmentVariables",
                "Map value must satisfy constraint: [Member must have length less than or equal to 4096, "
                "Member must have length greater than or equal to 0, Member must not be null]",
            ),
        ),
    ),
    (
        {"egressNetworkConnectors": [INTERNET, INTERNET]},
        broken(
            1,
            fault(
                f"'[{INTERNET}, {INTERNET}]' ",
                "egressNetworkConnectors",
                "Member must have length less than or equal to 1",
            ),
        ),
    ),
    (
        {"resources": [{"minimumMemoryInMiB": 3072}]},
        f"The requested memory size of 3072 MiB is not supported by base MicroVM image {BASE}. "
        "Supported memory sizes in MiB are: [256, 512, 1024, 2048, 4096, 8192].",
    ),
    (
        {"baseImageVersion": "1.0"},
        "Invalid baseMicroVMImageVersion: 1.0. Expected a single major version number (e.g., 1).",
    ),
    ({"baseImageVersion": "999"}, f"No managed MicroVM Image with arn {BASE} and version 999 is available"),
    ({"baseImageArn": "arn:x"}, "No managed MicroVM Image with arn arn:x is available"),
    (
        {"codeArtifact": {"uri": "https://example.com/x.zip"}},
        "CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>",
    ),
    ({"environmentVariables": {"AWS_REGION": "x"}}, "Environment variable key 'AWS_REGION' is reserved"),
    (
        {"environmentVariables": {"A=B": "x"}},
        "Environment variable key 'A=B' or its value holds '=' or a NUL, which no process can get",
    ),
    (
        {"hooks": {"port": 9000, "microvmHooks": {"run": "ENABLED"}}},
        "The ready (/ready) MicroVM image hook must be enabled when any MicroVM lifecycle hook "
        "(run, resume, suspend, or terminate) is enabled.",
    ),
    (
        {"hooks": {"microvmImageHooks": {"ready": "ENABLED"}}},
        broken(1, fault("null ", "hooks.port", "Member must not be null")),
    ),
    (
        {"egressNetworkConnectors": [INTERNET.replace("INTERNET", "X")]},
        f"Unrecognized managed network connector ARN: {INTERNET.replace('INTERNET', 'X')}",
    ),
    ({"egressNetworkConnectors": ["nonsense"]}, "Malformed network connector ARN"),
    (
        {"cpuConfigurations": [{"architecture": "ARM_64"}]},
        "Architecture ARM_64 is not available; this machine offers X86_64.",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[str(list(changes)) for changes, _ in REFUSED])
async def test_create_refuses(wire: Wire, store: Store, changes: dict[str, Any], message: str) -> None:
    answer = await wire.call("CreateMicrovmImage", **create_params(**changes))
    assert (answer.status, *answer.error) == (400, "ValidationException", message)
    assert answer.json == {"message": message}
    assert answer.reply.headers["X-Amzn-Errortype"] == "ValidationException"
    assert await store.versions_owing() == []


async def test_a_name_is_taken_once(wire: Wire, other: Wire) -> None:
    await wire.ok("CreateMicrovmImage", **create_params())
    again = await wire.call("CreateMicrovmImage", **create_params())
    assert (again.status, again.error[1]) == (
        400,
        "A MicroVM image with the name 'demo' already exists in this account",
    )
    await other.ok("CreateMicrovmImage", **create_params())


async def test_a_client_token_makes_a_retry_safe(wire: Wire) -> None:
    first = await wire.ok("CreateMicrovmImage", **create_params(clientToken="t"))
    assert await wire.ok("CreateMicrovmImage", **create_params(clientToken="t")) == first
    clash = await wire.call("CreateMicrovmImage", **create_params(clientToken="t", description="other"))
    assert (clash.status, clash.error[0]) == (409, "ConflictException")
    assert clash.json == {"message": clash.error[1], "resourceId": None, "resourceType": None}


@pytest.mark.parametrize(
    ("operation", "more", "message"),
    [
        ("GetMicrovmImage", {}, "MicroVMImage not found for MicroVMImageID: {arn}"),
        ("ListMicrovmImageVersions", {}, "MicroVMImage not found for MicroVMImageID: {arn}"),
        (
            "GetMicrovmImageVersion",
            {"imageVersion": "1.0"},
            "MicroVMImage not found for MicroVMImage: {arn}, Version: 1.0",
        ),
        (
            "ListMicrovmImageBuilds",
            {"imageVersion": "1.0"},
            "MicroVMImage not found for MicroVMImage: {arn}, Version: 1.0",
        ),
        (
            "GetMicrovmImageBuild",
            {"imageVersion": "1.0", "buildId": "b"},
            "MicroVMImage not found for MicroVMImage: {arn}, Version: 1.0",
        ),
    ],
)
async def test_what_is_not_there_and_what_is_not_yours(
    wire: Wire, store: Store, operation: str, more: dict[str, str], message: str
) -> None:
    answer = await wire.call(operation, imageIdentifier=arn("nobody"), **more)
    assert (answer.status, *answer.error) == (404, "ResourceNotFoundException", message.format(arn=arn("nobody")))
    assert answer.json == {"message": answer.error[1], "resourceId": None, "resourceType": None}
    await built_image(store, "theirs", OTHER)
    theirs = await wire.call(operation, imageIdentifier=arn("theirs", OTHER), **more)
    assert (theirs.status, theirs.error[0]) == (403, "AccessDeniedException")
    for bad in ("demo", "arn:nonsense"):
        named = await wire.call(operation, imageIdentifier=bad, **more)
        assert (named.status, named.error[1]) == (400, f"Invalid ARN format: {bad}")
    slash = await wire.call(operation, imageIdentifier=arn("x").replace("image:x", "image/x"), **more)
    assert slash.status == 403


async def test_a_build_id_of_another_version_is_not_found(wire: Wire, store: Store) -> None:
    await built_image(store, "a")
    await built_image(store, "b")
    [build] = await store.builds(arn("a"), "1.0")
    answer = await wire.call("GetMicrovmImageBuild", imageIdentifier=arn("b"), imageVersion="1.0", buildId=build.id)
    assert answer.status == 404


async def test_lists_come_in_pages_of_their_account(wire: Wire, other: Wire, store: Store) -> None:
    names = [f"image-{number:02}" for number in range(13)]
    for name in names:
        await built_image(store, name)
    await built_image(store, "theirs", OTHER)
    first = await wire.ok("ListMicrovmImages")
    second = await wire.ok("ListMicrovmImages", nextToken=first["nextToken"])
    assert [item["name"] for item in first["items"] + second["items"]] == names
    assert (len(first["items"]), second["nextToken"]) == (10, None)
    assert [item["name"] for item in (await other.ok("ListMicrovmImages"))["items"]] == ["theirs"]
    only = await wire.ok("ListMicrovmImages", nameFilter="-1", maxResults=2)
    assert [item["name"] for item in only["items"]] == ["image-10", "image-11"]


async def test_a_cursor_opens_only_its_own_list(wire: Wire, other: Wire, store: Store) -> None:
    for number in range(3):
        await built_image(store, f"image-{number}")
        await built_image(store, f"image-{number}", OTHER)
    token = (await wire.ok("ListMicrovmImages", maxResults=1))["nextToken"]
    for answer in (
        await other.call("ListMicrovmImages", nextToken=token),
        await wire.call("ListMicrovms", nextToken=token),
        await wire.call("ListMicrovmImages", nextToken=token, nameFilter="i"),
        await wire.call("ListMicrovmImages", nextToken=token[:-4]),
        await wire.call("ListMicrovmImages", nextToken="%%%"),
        await wire.call("ListMicrovmImages", nextToken="ü"),
        await wire.call("ListMicrovmImages", nextToken=""),
    ):
        assert (answer.status, answer.json) == (400, {"message": None})
    much = await wire.call("ListMicrovmImages", maxResults=51)
    assert much.error[1].endswith(
        "'maxResults' failed to satisfy constraint: Member must have value less than or equal to 50"
    )


async def test_regions_are_apart(wire: Wire, store: Store) -> None:
    await built_image(store)
    elsewhere = Wire(wire.api, wire.key, "eu-west-1")
    assert (await elsewhere.ok("ListMicrovmImages"))["items"] == []
    assert (await elsewhere.call("GetMicrovmImage", imageIdentifier=arn("demo"))).status == 403
    assert ACCOUNT in arn("demo")
