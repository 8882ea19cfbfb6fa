"""What programs written for AWS name and this machine does not have: taken, echoed, and told in the thing's story."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rekindle.api import logs
from rekindle.core.microvm import MicroVM
from rekindle.store.db import Store
from tests.store.rows import REGION, HandClock, arn, built_image, image_rows, vm_row

from .wire import AWS_BASE, BASE, ROLE, RecordingEngine, Wire, create_params

CONNECTOR = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
KEY = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab"


async def notes(store: Store, subject: str) -> list[str | None]:
    return [event.why for event in await store.events(subject, 50) if event.what == "note"]


# -- the base image ----------------------------------------------------------------------------------------------------


async def test_awss_base_has_two_versions_newest_first(wire: Wire) -> None:
    listed = await wire.ok("ListManagedMicrovmImageVersions", imageIdentifier=AWS_BASE)
    assert [(one["imageArn"], one["imageVersion"]) for one in listed["items"]] == [(AWS_BASE, "1"), (AWS_BASE, "0")]
    first = await wire.ok("ListManagedMicrovmImageVersions", imageIdentifier=AWS_BASE, maxResults=1)
    rest = await wire.ok(
        "ListManagedMicrovmImageVersions", imageIdentifier=AWS_BASE, maxResults=1, nextToken=first["nextToken"]
    )
    assert [one["imageVersion"] for one in (*first["items"], *rest["items"])] == ["1", "0"]
    assert rest["nextToken"] is None


async def test_both_names_are_listed_one_a_page(wire: Wire) -> None:
    first = await wire.ok("ListManagedMicrovmImages", maxResults=1)
    rest = await wire.ok("ListManagedMicrovmImages", maxResults=1, nextToken=first["nextToken"])
    assert [one["imageArn"] for one in (*first["items"], *rest["items"])] == [BASE, AWS_BASE]


@pytest.mark.parametrize("base", [AWS_BASE, AWS_BASE.replace(REGION, "eu-west-1")])
async def test_images_are_made_from_awss_base_as_named(wire: Wire, store: Store, base: str) -> None:
    made = await wire.ok("CreateMicrovmImage", **create_params(baseImageArn=base, baseImageVersion="0"))
    assert (made["baseImageArn"], made["baseImageVersion"]) == (base, "0.0")
    version = await wire.ok("GetMicrovmImageVersion", imageIdentifier=made["imageArn"], imageVersion="1.0")
    assert (version["baseImageArn"], version["baseImageVersion"]) == (base, "0.0")
    (note,) = await notes(store, made["imageArn"])
    assert note is not None
    assert note.startswith("al2023-1 is a name for Rekindle's own base image, debian-13 1. buildRoleArn is not assumed")


async def test_an_update_takes_it_too(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    params = {name: value for name, value in create_params(baseImageArn=AWS_BASE).items() if name != "name"}
    made = await wire.ok("UpdateMicrovmImage", imageIdentifier=image, **params, kmsKeyIdentifier=KEY)
    assert (made["baseImageArn"], made["baseImageVersion"], made["kmsKeyIdentifier"]) == (AWS_BASE, "1.0", KEY)
    (note,) = await notes(store, image)
    assert note is not None
    assert "al2023-1" in note
    assert "kmsKeyIdentifier is not used" in note


async def test_versions_that_aws_does_not_have_are_refused_in_its_words(wire: Wire) -> None:
    for version, message in (
        ("999", f"No managed MicroVM Image with arn {AWS_BASE} and version 999 is available"),
        ("1.0", "Invalid baseMicroVMImageVersion: 1.0. Expected a single major version number (e.g., 1)."),
    ):
        answer = await wire.call("CreateMicrovmImage", **create_params(baseImageArn=AWS_BASE, baseImageVersion=version))
        assert (answer.status, *answer.error) == (400, "ValidationException", message)


# -- notes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"executionRoleArn": ROLE}, ["executionRoleArn is not assumed"]),
        ({"kmsKeyIdentifier": KEY}, ["kmsKeyIdentifier is not used"]),
        ({"logging": {"disabled": {}}}, ["nothing is sent anywhere", "rekindle logs"]),
        (
            {"executionRoleArn": ROLE, "logging": {"cloudWatch": {"logGroup": "mine"}}},
            ["executionRoleArn is not assumed", "logging.cloudWatch is not used", "rekindle logs"],
        ),
        ({"ingressNetworkConnectors": [CONNECTOR + "SHELL_INGRESS"]}, ["the endpoint has no shell"]),
    ],
)
async def test_a_launch_tells_in_one_event(wire: Wire, store: Store, params: dict[str, Any], told: list[str]) -> None:
    image = (await built_image(store)).image_arn
    vm = await wire.ok("RunMicrovm", imageIdentifier=image, **params)
    (note,) = await notes(store, vm["microvmId"])
    assert note is not None
    assert all(sentence in note for sentence in told)
    assert note.count(". ") == len(params) - 1


async def test_a_launch_that_asks_nothing_of_the_kind_tells_nothing(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    vm = await wire.ok("RunMicrovm", imageIdentifier=image)
    assert [event.what for event in await store.events(vm["microvmId"], 50)] == ["PENDING"]
    assert "kmsKeyIdentifier" not in vm


async def test_a_repeated_call_tells_once(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    calls = [
        await wire.ok("RunMicrovm", imageIdentifier=image, executionRoleArn=ROLE, clientToken="same") for _ in range(2)
    ]
    assert len(await notes(store, calls[1]["microvmId"])) == 1


async def test_a_key_is_echoed(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    vm = await wire.ok("RunMicrovm", imageIdentifier=image, kmsKeyIdentifier=KEY)
    assert vm["kmsKeyIdentifier"] == KEY
    assert (await wire.ok("GetMicrovm", microvmIdentifier=vm["microvmId"]))["kmsKeyIdentifier"] == KEY
    made = await wire.ok("CreateMicrovmImage", **create_params(name="sealed"), kmsKeyIdentifier=KEY)
    assert made["kmsKeyIdentifier"] == KEY
    shown = await wire.ok("GetMicrovmImageVersion", imageIdentifier=arn("sealed"), imageVersion="1.0")
    assert shown["kmsKeyIdentifier"] == KEY
    await wire.ok("CreateMicrovmImage", **create_params(name="plain"))
    shown = await wire.ok("GetMicrovmImageVersion", imageIdentifier=arn("plain"), imageVersion="1.0")
    assert "kmsKeyIdentifier" not in shown


async def test_a_refused_launch_tells_nothing(wire: Wire, store: Store, engine: RecordingEngine) -> None:
    image = (await built_image(store)).image_arn
    answer = await wire.call("RunMicrovm", imageIdentifier=image, logging={"cloudWatch": {}})
    assert answer.error == ("ValidationException", "Logging cannot be enabled without providing executionRoleArn")
    assert engine.admitted == []


# -- names of logs -----------------------------------------------------------------------------------------------------


def vm_with(clock: HandClock, logging: dict[str, object] | None) -> MicroVM:
    return replace(vm_row(clock), logging=logging, started_at_ms=1_789_516_799_999)  # 2026-09-15 23:59:59.999 UTC


def test_names_of_a_microvms_logs(clock: HandClock) -> None:
    vm = vm_with(clock, None)
    default = f"2026/09/15[1.0]{vm.id}"
    assert logs.of_microvm(vm) == logs.LogNames("/aws/lambda-microvms/demo", default)
    assert logs.microvm_id(default) == vm.id
    given = logs.of_microvm(vm_with(clock, {"cloudWatch": {"logGroup": "/mine", "logStream": "all of it"}}))
    assert given == logs.LogNames("/mine", "all of it")
    assert logs.of_microvm(vm_with(clock, {"cloudWatch": {"logStream": "one"}})).group == "/aws/lambda-microvms/demo"
    assert logs.of_microvm(vm_with(clock, {"disabled": {}})) == logs.LogNames(None, None)
    for other in (vm.id, f"2026/09/15[1.0]{vm.id}x", "2026/09/15[1.0]", f"x2026/09/15[1.0]{vm.id}"):
        assert logs.microvm_id(other) is None


def test_names_of_a_builds_log() -> None:
    _, version, build = image_rows()
    build = replace(build, created_at_ms=1_789_516_800_000)  # a millisecond later: the next day
    assert logs.of_build(version, build) == logs.LogNames(
        "/aws/lambda-microvms/demo", f"2026/09/16[0.0]microvm-{build.id}"
    )
    off = replace(version, request={"logging": {"disabled": {}}})
    assert logs.of_build(off, build).group is None
