"""microVMs on the wire: exact projections, messages, isolation, idempotency, tokens."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rekindle.api import model
from rekindle.api.app import Api
from rekindle.config import Ingress, Lifetime
from rekindle.core.lifecycle import WIRE, Ask, Fact, Phase
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, HandClock, arn, build_row, built_image, image_rows, started

from .conftest import KEYS
from .wire import TOKEN_KEY, RecordingEngine, Wire, operation

CONNECTOR = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
IDLE = {"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 1800, "autoResumeEnabled": True}


@pytest.fixture(autouse=True)
async def image(store: Store) -> str:
    """An image with hooks, ready to run."""
    return (await built_image(store)).image_arn


async def hookless(store: Store) -> str:
    image, version, _ = image_rows("plain")
    version = replace(version, hooks=None, egress=(CONNECTOR + "NO_EGRESS",))
    await store.create_image(image, version, build_row(version), client_token=None, token_digest="")
    version = await store.building(version)
    await store.built(version, folder="p", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1)
    return image.arn


async def test_run_answers_every_member(
    wire: Wire, image: str, clock: HandClock, engine: RecordingEngine, store: Store
) -> None:
    vm = await wire.ok("RunMicrovm", imageIdentifier=image, idlePolicy=IDLE, runHookPayload="hello")
    row = await store.microvm(vm["microvmId"])
    assert row is not None
    assert row.run_hook_payload == "hello"
    assert row.endpoint_id not in row.id
    assert vm == {
        "egressNetworkConnectors": ["INTERNET_EGRESS"],
        "endpoint": f"localhost:{row.endpoint_port}",
        "executionRoleArn": None,
        "idlePolicy": IDLE,
        "imageArn": image,
        "imageVersion": "1.0",
        "ingressNetworkConnectors": [CONNECTOR + "HTTP_INGRESS"],
        "maximumDurationInSeconds": 28800,
        "microvmId": row.id,
        "startedAt": clock() / 1000,
        "state": "PENDING",
        "stateReason": None,
        "terminatedAt": None,
        "terminationReasonCode": None,
    }
    assert engine.admitted == [row.id]
    assert await wire.ok("GetMicrovm", microvmIdentifier=row.id) == vm
    listed = await wire.ok("ListMicrovms")
    members = ("imageArn", "imageVersion", "microvmId", "startedAt", "state")
    assert listed == {"items": [{name: vm[name] for name in members}], "nextToken": None}


@pytest.mark.parametrize("most", [3600, 604_800])
async def test_the_operator_says_how_long_a_life_may_be(api: Api, image: str, most: int) -> None:
    config = replace(api.tools.config, lifetime=Lifetime(max_duration_s=most))
    wire = Wire(Api(replace(api.tools, config=config)), KEYS[ACCOUNT])
    longest = await wire.ok("RunMicrovm", imageIdentifier=image, maximumDurationInSeconds=most)
    assert longest["maximumDurationInSeconds"] == most
    answer = await wire.call("RunMicrovm", imageIdentifier=image, maximumDurationInSeconds=most + 1)
    fault = f"Value '{most + 1}' at 'maximumDurationInSeconds' failed to satisfy constraint: Member must have value"
    assert answer.error == (
        "ValidationException",
        f"1 validation error detected: {fault} less than or equal to {most}",
    )
    unsaid = await wire.ok("RunMicrovm", imageIdentifier=image)
    assert unsaid["maximumDurationInSeconds"] == min(most, 28_800)


async def test_an_image_passes_its_connector_on(wire: Wire, store: Store) -> None:
    plain = await hookless(store)
    inherited = await wire.ok("RunMicrovm", imageIdentifier=plain, egressNetworkConnectors=[])
    assert inherited["egressNetworkConnectors"] == [CONNECTOR + "NO_EGRESS"]
    own = await wire.ok(
        "RunMicrovm",
        imageIdentifier=plain,
        egressNetworkConnectors=[CONNECTOR + "INTERNET_EGRESS"],
        ingressNetworkConnectors=[CONNECTOR + "NO_INGRESS"],
    )
    assert own["egressNetworkConnectors"] == [CONNECTOR + "INTERNET_EGRESS"]
    assert own["ingressNetworkConnectors"] == [CONNECTOR + "NO_INGRESS"]
    assert own["idlePolicy"] is None


async def test_a_life_on_the_wire(
    wire: Wire, image: str, store: Store, engine: RecordingEngine, clock: HandClock
) -> None:
    vm_id = (await wire.ok("RunMicrovm", imageIdentifier=image))["microvmId"]

    async def state() -> str:
        return str((await wire.ok("GetMicrovm", microvmIdentifier=vm_id))["state"])

    async def found(fact: Fact) -> None:
        vm = await store.microvm(vm_id)
        assert vm is not None
        await store.report(vm, fact)

    seen = []
    for step in (
        Fact.STARTED,
        "SuspendMicrovm",
        "SuspendMicrovm",
        Fact.SUSPENDED,
        "SuspendMicrovm",
        "ResumeMicrovm",
        Fact.RESUMED,
        "ResumeMicrovm",
        "TerminateMicrovm",
        "TerminateMicrovm",
        Fact.STOPPED,
        "TerminateMicrovm",
    ):
        if isinstance(step, Fact):
            await found(step)
        else:
            assert await wire.ok(step, microvmIdentifier=vm_id) == {}
        seen.append(await state())
    assert seen == [
        "RUNNING",
        "SUSPENDING",
        "SUSPENDING",
        "SUSPENDED",
        "SUSPENDED",
        "SUSPENDED",  # RESUMING is ours
        "RUNNING",
        "RUNNING",
        "TERMINATING",
        "TERMINATING",
        "TERMINATED",
        "TERMINATED",
    ]
    assert engine.kicks == 8
    over = await wire.ok("GetMicrovm", microvmIdentifier=vm_id)
    assert (over["stateReason"], over["terminatedAt"]) == ("Success.", clock() / 1000)
    for name in ("SuspendMicrovm", "ResumeMicrovm"):
        answer = await wire.call(name, microvmIdentifier=vm_id)
        assert (answer.status, *answer.error) == (
            400,
            "ValidationException",
            f"The MicroVM {vm_id} has been terminated and its state cannot be changed.",
        )


async def test_suspending_before_it_runs_conflicts(wire: Wire, image: str) -> None:
    vm_id = (await wire.ok("RunMicrovm", imageIdentifier=image))["microvmId"]
    answer = await wire.call("SuspendMicrovm", microvmIdentifier=vm_id)
    assert (answer.status, *answer.error) == (
        409,
        "ConflictException",
        f"Cannot suspend MicroVM {vm_id} while it is PENDING.",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imageIdentifier": "demo"}, "Malformed ARN - doesn't start with 'arn:'"),
        (
            {"idlePolicy": {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 0}},
            "1 validation error detected: Value null at 'idlePolicy.autoResumeEnabled' failed to satisfy constraint: "
            "Member must not be null",
        ),
        (
            {"runHookPayload": "x" * 4097},
            "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: "
            "Member must have length less than or equal to 4096",
        ),
        (
            {"maximumDurationInSeconds": 28801},
            "1 validation error detected: Value '28801' at 'maximumDurationInSeconds' failed to satisfy constraint: "
            "Member must have value less than or equal to 28800",
        ),
        (
            {"logging": {"cloudWatch": {"logGroup": "g"}}},
            "Logging cannot be enabled without providing executionRoleArn",
        ),
        (
            {"egressNetworkConnectors": [CONNECTOR + "INTERNET_EGRESS", CONNECTOR + "NO_EGRESS"]},
            "Only one egress network connector can be provided",
        ),
        (
            {"ingressNetworkConnectors": [CONNECTOR + "INTERNET_EGRESS"]},
            f"Unrecognized managed network connector ARN: {CONNECTOR}INTERNET_EGRESS",
        ),
    ],
)
async def test_run_refuses(wire: Wire, image: str, store: Store, changes: dict[str, Any], message: str) -> None:
    answer = await wire.call("RunMicrovm", **({"imageIdentifier": image} | changes))
    assert (answer.status, *answer.error) == (400, "ValidationException", message)
    assert await store.microvms(ACCOUNT, REGION) == []


async def test_a_payload_needs_a_hook(wire: Wire, store: Store) -> None:
    answer = await wire.call("RunMicrovm", imageIdentifier=await hookless(store), runHookPayload="x")
    assert answer.error[1] == "The run hook must be enabled in the MicroVM image to pass the run hook payload."


async def test_only_an_active_version_starts(wire: Wire, store: Store, image: str) -> None:
    pending, version, build = image_rows("pending")
    await store.create_image(pending, version, build, client_token=None, token_digest="")
    for target, pinned in ((pending.arn, None), (pending.arn, "1.0"), (arn("nobody"), None), (image, "2.0")):
        params = {"imageIdentifier": target} | ({"imageVersion": pinned} if pinned else {})
        answer = await wire.call("RunMicrovm", **params)
        message = f"No active version found for MicroVM image {target}{f' and version {pinned}' if pinned else ''}"
        assert (answer.status, *answer.error) == (404, "ResourceNotFoundException", message)
    assert (await wire.ok("RunMicrovm", imageIdentifier=image, imageVersion="1.0"))["imageVersion"] == "1.0"


async def test_no_port_left_is_no_capacity(wire: Wire, image: str) -> None:
    tools = wire.api.tools
    one_port = replace(tools.config, ingress=Ingress(first_port=20000, last_port=20000))
    narrow = Wire(Api(replace(tools, config=one_port)), wire.key)
    await narrow.ok("RunMicrovm", imageIdentifier=image)
    answer = await narrow.call("RunMicrovm", imageIdentifier=image)
    assert (answer.status, answer.error[0]) == (500, "InsufficientCapacityException")


async def test_a_client_token_makes_a_retry_safe(
    wire: Wire, other: Wire, image: str, engine: RecordingEngine, store: Store
) -> None:
    first = await wire.ok("RunMicrovm", imageIdentifier=image, clientToken="t")
    assert await wire.ok("RunMicrovm", imageIdentifier=image, clientToken="t") == first
    clash = await wire.call("RunMicrovm", imageIdentifier=image, clientToken="t", maximumDurationInSeconds=5)
    assert (clash.status, clash.error[0]) == (409, "ConflictException")
    assert set(engine.admitted) == {first["microvmId"]}
    await store.report(await store.ask(first["microvmId"], Ask.TERMINATE), Fact.STOPPED)
    await store.delete_image(image)
    again = await wire.ok("RunMicrovm", imageIdentifier=image, clientToken="t")
    assert (again["microvmId"], again["state"]) == (first["microvmId"], "TERMINATED")
    theirs = await other.call("RunMicrovm", imageIdentifier=image, clientToken="t")
    assert theirs.status == 403


PER_VM = ("GetMicrovm", "SuspendMicrovm", "ResumeMicrovm", "TerminateMicrovm", "CreateMicrovmAuthToken")


@pytest.mark.parametrize("name", PER_VM)
async def test_nobody_touches_what_is_not_theirs(wire: Wire, store: Store, clock: HandClock, name: str) -> None:
    await built_image(store, "demo", OTHER)
    vm = await started(store, clock, "demo", OTHER)
    more: dict[str, Any] = {}
    if name == "CreateMicrovmAuthToken":
        more = {"expirationInMinutes": 5, "allowedPorts": [{"port": 8080}]}
    for vm_id in (vm.id, "microvm-nobody"):
        answer = await wire.call(name, microvmIdentifier=vm_id, **more)
        assert (answer.status, *answer.error) == (404, "ResourceNotFoundException", f"MicroVM not found: {vm_id}")
        assert answer.json == {"message": answer.error[1], "resourceId": None, "resourceType": None}
    assert await store.microvm(vm.id) == vm
    assert (await wire.ok("ListMicrovms"))["items"] == []
    run = await wire.call("RunMicrovm", imageIdentifier=vm.image_arn)
    assert (run.status, run.error[0]) == (403, "AccessDeniedException")
    listed = await wire.call("ListMicrovms", imageIdentifier=vm.image_arn)
    assert listed.status == 403


async def test_lists_select_and_page(wire: Wire, image: str, store: Store, clock: HandClock) -> None:
    plain = await hookless(store)
    made = []
    for number in range(12):
        clock.now_ms += 1
        made.append((await wire.ok("RunMicrovm", imageIdentifier=plain if number % 6 == 0 else image))["microvmId"])
    seen: list[str] = []
    token = None
    while token is not None or not seen:
        page = await wire.ok("ListMicrovms", maxResults=5, **({"nextToken": token} if token else {}))
        seen += [item["microvmId"] for item in page["items"]]
        token = page["nextToken"]
    assert seen == list(reversed(made))
    of_plain = await wire.ok("ListMicrovms", imageIdentifier=plain, imageVersion="1.0")
    assert [item["microvmId"] for item in of_plain["items"]] == [made[6], made[0]]


def opened(token: str) -> Any:
    header, _, iv, text, tag = token.split(".")
    part = [base64.urlsafe_b64decode(one + "=" * (-len(one) % 4)) for one in (iv, text, tag)]
    return json.loads(AESGCM(TOKEN_KEY.secret).decrypt(part[0], part[1] + part[2], header.encode()))


async def test_a_token_says_which_ports_and_until_when(wire: Wire, image: str, clock: HandClock) -> None:
    vm_id = (await wire.ok("RunMicrovm", imageIdentifier=image))["microvmId"]
    ports = [{"port": 8080}, {"range": {"startPort": 9000, "endPort": 9001}}, {"allPorts": {}}]
    answer = await wire.ok(
        "CreateMicrovmAuthToken", microvmIdentifier=vm_id, expirationInMinutes=60, allowedPorts=ports
    )
    assert list(answer) == ["authToken"]
    assert list(answer["authToken"]) == ["X-aws-proxy-auth"]
    claims = opened(answer["authToken"]["X-aws-proxy-auth"])
    assert claims["vm"] == vm_id
    assert claims["ports"] == [[8080, 8080], [9000, 9001], [1, 65535]]
    assert claims["exp"] == clock() // 1000 + 3600


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"expirationInMinutes": 61}, "ValidationException", "ExpirationMinutes 61 exceeded max allowed of 60."),
        (
            {"expirationInMinutes": 0},
            "ValidationException",
            "1 validation error detected: Value '0' at 'expirationInMinutes' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1",
        ),
        ({"allowedPorts": [{"allPorts": True}]}, "SerializationException", "Expected null"),
        (
            {"allowedPorts": [{"port": 70000}]},
            "ValidationException",
            "1 validation error detected: Value '70000' at 'allowedPorts.1.member.port' failed to satisfy constraint: "
            "Member must have value less than or equal to 65535",
        ),
        (
            {"allowedPorts": [{"range": {"startPort": 2, "endPort": 1}}]},
            "ValidationException",
            "The port range 2-1 ends before it starts.",
        ),
        (
            {"allowedPorts": []},
            "ValidationException",
            "1 validation error detected: Value '[]' at 'allowedPorts' failed to satisfy constraint: "
            "Member must have length greater than or equal to 1",
        ),
        (
            {"allowedPorts": [{}]},
            "ValidationException",
            "1 validation error detected: Value '{}' at 'allowedPorts.1.member' failed to satisfy constraint: "
            "Member must have exactly one of its members set",
        ),
    ],
)
async def test_a_token_is_refused(wire: Wire, image: str, changes: dict[str, Any], code: str, message: str) -> None:
    vm_id = (await wire.ok("RunMicrovm", imageIdentifier=image))["microvmId"]
    params = {"expirationInMinutes": 5, "allowedPorts": [{"port": 8080}]} | changes
    reply = await wire.post("CreateMicrovmAuthToken", {"microvmIdentifier": vm_id}, params)
    assert (reply.status, *reply.error) == (400, code, message)


async def test_the_dead_get_no_token(wire: Wire, image: str, store: Store) -> None:
    vm_id = (await wire.ok("RunMicrovm", imageIdentifier=image))["microvmId"]
    await store.ask(vm_id, Ask.TERMINATE)
    params = {"microvmIdentifier": vm_id, "expirationInMinutes": 5, "allowedPorts": [{"port": 8080}]}
    assert (await wire.call("CreateMicrovmAuthToken", **params)).status == 409


def test_every_phase_has_a_name_that_the_model_knows() -> None:
    known = operation("GetMicrovm").output_shape.members["state"].metadata["enum"]
    assert {WIRE[phase] for phase in Phase} == set(known)
    assert model.maximum("RunMicrovmRequestMaximumDurationInSecondsInteger") == 28800


async def test_regions_are_apart(wire: Wire, image: str) -> None:
    vm_id = (await wire.ok("RunMicrovm", imageIdentifier=image))["microvmId"]
    elsewhere = Wire(wire.api, wire.key, "eu-west-1")
    assert (await elsewhere.ok("ListMicrovms"))["items"] == []
    assert (await elsewhere.call("TerminateMicrovm", microvmIdentifier=vm_id)).status == 404
    assert (await elsewhere.call("RunMicrovm", imageIdentifier=image)).status == 403


async def test_a_region_must_look_like_one(wire: Wire) -> None:
    answer = await Wire(wire.api, wire.key, "US:EAST").call("ListMicrovms")
    assert (answer.status, *answer.error) == (403, "AccessDeniedException", "'US:EAST' is not a region")
