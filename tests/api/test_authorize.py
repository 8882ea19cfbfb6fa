"""What each operation asks of a key's policy, over the whole API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rekindle.api.app import Api
from rekindle.core.arn import managed_connector
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, REGION, HandClock, arn, built_image, started

from .wire import ROLE, Wire, create_params

KEY = ("AKIACCCCCCCCCCCCCCCC", "secret-of-the-third")
EXECUTION = "arn:aws:iam::123456789012:role/run"
HTTP, INTERNET = managed_connector(REGION, "HTTP_INGRESS"), managed_connector(REGION, "INTERNET_EGRESS")


def allow(*actions: str, on: Any = "*", **members: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": on} | members


async def restricted(api: Api, *statements: Any) -> Wire:
    policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    await api.tools.store.add_access_key(*KEY, ACCOUNT, "ann", policy)
    return Wire(api, KEY)


def refused(action: str, resource: str, why: str | None = None) -> tuple[str, str]:
    why = why or f"because no identity-based policy allows the {action} action"
    user = f"arn:aws:iam::{ACCOUNT}:user/ann"
    return "AccessDeniedException", f"User: {user} is not authorized to perform: {action} on resource: {resource} {why}"


async def test_a_microvm_is_asked_of_by_its_image(api: Api, store: Store, clock: HandClock) -> None:
    for name in ("a", "b"):
        await built_image(store, name)
    vms = {name: await started(store, clock, name) for name in ("a", "b")}
    wire = await restricted(api, allow("lambda:*Microvm*", on=arn("a")))
    assert (await wire.call("GetMicrovm", microvmIdentifier=vms["a"].id)).status == 200
    answer = await wire.call("GetMicrovm", microvmIdentifier=vms["b"].id)
    assert (answer.status, answer.error) == (403, refused("lambda:GetMicrovm", arn("b")))
    assert set(answer.json) == {"Message"}
    for name in ("SuspendMicrovm", "ResumeMicrovm", "TerminateMicrovm"):
        answer = await wire.call(name, microvmIdentifier=vms["b"].id)
        assert answer.error == refused(f"lambda:{name}", arn("b"))
    ports = [{"port": 8080}]
    token = {"expirationInMinutes": 5, "allowedPorts": ports}
    answer = await wire.call("CreateMicrovmAuthToken", microvmIdentifier=vms["b"].id, **token)
    assert answer.error == refused("lambda:CreateMicrovmAuthToken", arn("b"))
    nobody = "microvm-00000000-0000-0000-0000-000000000000"
    answer = await wire.call("GetMicrovm", microvmIdentifier=nobody)
    assert answer.error == refused("lambda:GetMicrovm", "*"), "whether it exists is not told"


async def test_running_asks_for_connectors_and_roles_too(api: Api, store: Store) -> None:
    await built_image(store, "a")
    params = {"imageIdentifier": arn("a"), "executionRoleArn": EXECUTION}
    run = allow("lambda:RunMicrovm", on=arn("a"))
    passing = allow(
        "iam:PassRole", on=EXECUTION, Condition={"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
    )
    connecting = allow("lambda:PassNetworkConnector", on=f"arn:aws:lambda:{REGION}:aws:network-connector:*")
    wire = await restricted(api, run)
    assert (await wire.call("RunMicrovm", **params)).error == refused("iam:PassRole", EXECUTION)
    await store.remove_access_key(KEY[0], keep_one_of="")
    wire = await restricted(api, run, passing)
    answer = await wire.call("RunMicrovm", **params)
    version = await store.version(arn("a"), "1.0")
    assert version is not None
    assert answer.error == refused("lambda:PassNetworkConnector", version.egress[0]), "the image's own"
    await store.remove_access_key(KEY[0], keep_one_of="")
    wire = await restricted(api, run, passing, connecting)
    params["egressNetworkConnectors"] = [INTERNET]  # type: ignore[assignment]
    assert (await wire.call("RunMicrovm", **params)).status == 200


async def test_creating_is_asked_on_everything(api: Api) -> None:
    wire = await restricted(api, allow("lambda:CreateMicrovmImage", on=arn("demo")))
    assert (await wire.call("CreateMicrovmImage", **create_params())).error == refused("lambda:CreateMicrovmImage", "*")
    await api.tools.store.remove_access_key(KEY[0], keep_one_of="")
    wire = await restricted(api, allow("lambda:CreateMicrovmImage", "lambda:PassNetworkConnector"))
    assert (await wire.call("CreateMicrovmImage", **create_params())).error == refused("iam:PassRole", ROLE)
    await api.tools.store.remove_access_key(KEY[0], keep_one_of="")
    wire = await restricted(api, allow("*"))
    assert (await wire.call("CreateMicrovmImage", **create_params())).status == 201


async def test_an_explicit_deny_says_so(api: Api) -> None:
    wire = await restricted(api, allow("*"), {"Effect": "Deny", "Action": "lambda:List*", "Resource": "*"})
    answer = await wire.call("ListMicrovms")
    assert answer.error == refused("lambda:ListMicrovms", "*", "with an explicit deny in an identity-based policy")


async def test_the_region_can_be_a_condition(api: Api) -> None:
    wire = await restricted(api, allow("*", Condition={"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}))
    assert (await wire.call("ListMicrovms")).error == refused("lambda:ListMicrovms", "*")
    assert (await Wire(api, KEY, "eu-west-1").call("ListMicrovms")).status == 200


async def test_a_policy_reaches_no_other_account(api: Api, other: Wire, store: Store, clock: HandClock) -> None:
    await built_image(store, "a")
    answer = await other.call("GetMicrovmImage", imageIdentifier=arn("a"))
    assert answer.status == 403
    assert answer.error[1].endswith("because no resource-based policy allows the lambda:GetMicrovmImage action")


async def test_a_removed_key_is_unknown_with_the_next_request(api: Api, store: Store) -> None:
    wire = await restricted(api, allow("*"))
    assert (await wire.call("ListMicrovms")).status == 200
    await store.remove_access_key(KEY[0], keep_one_of=ACCOUNT)
    assert (await wire.call("ListMicrovms")).error[0] == "UnrecognizedClientException"


@pytest.mark.parametrize("role", ["arn:aws:iam::1:role/x", "role", "arn:aws:iam::123456789012:user/x"])
async def test_a_role_must_be_the_arn_of_one(wire: Wire, role: str) -> None:
    answer = await wire.call("CreateMicrovmImage", **create_params(buildRoleArn=role))
    assert answer.status == 400, answer.json
    assert answer.error[0] == "ValidationException"
