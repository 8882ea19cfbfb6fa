"""What each operation asks of a key's policy, over the whole API."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from rekindle.api import authorize, model
from rekindle.api.app import Api
from rekindle.api.authorize import On
from rekindle.config import Iam
from rekindle.core.arn import managed_connector
from rekindle.core.arrival import Arrival
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, HandClock, arn, built_image, image_rows, settled_connector, started

from .wire import ROLE, Wire, create_params, http, operation, sign

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


async def test_a_version_behind_a_connector_leads_around_no_deny(api: Api, store: Store) -> None:
    await built_image(store, "a")
    connector = await settled_connector(store)
    denied = {"Effect": "Deny", "Action": "lambda:*", "Resource": connector.arn}
    wire = await restricted(api, allow("*"), denied)
    why = "with an explicit deny in an identity-based policy"
    for named in (connector.arn, f"{connector.arn}:1"):
        answer = await wire.call("RunMicrovm", imageIdentifier=arn("a"), egressNetworkConnectors=[named])
        assert answer.error == refused("lambda:PassNetworkConnector", connector.arn, why)
    answer = await wire.call("ListTags", Resource=connector.arn)
    assert answer.error == refused("lambda:ListTags", connector.arn, why)
    for named in (connector.id, connector.name, connector.arn, f"{connector.arn}:1"):
        answer = await wire.call("GetNetworkConnector", Identifier=named)
        assert answer.error == refused("lambda:GetNetworkConnector", connector.arn, why)


async def test_a_refusal_tells_nothing_of_another_accounts_image(api: Api, store: Store) -> None:
    """The default connector is named, not the one that the other account chose."""
    image, version, build = image_rows("theirs", OTHER)
    secret = replace(version, egress=(managed_connector(REGION, "NO_EGRESS"),))
    await store.create_image(image, secret, build, client_token=None, token_digest="")
    wire = await restricted(api, allow("lambda:RunMicrovm"))
    answer = await wire.call("RunMicrovm", imageIdentifier=arn("theirs", OTHER), imageVersion="1.0")
    assert answer.error == refused("lambda:PassNetworkConnector", INTERNET)


async def test_which_roles_the_service_knows_is_for_those_who_may_pass_them(api: Api) -> None:
    api.tools = replace(api.tools, config=replace(api.tools.config, iam=Iam(roles=(EXECUTION,))))
    wire = await restricted(api, allow("lambda:*"))
    assert (await wire.call("CreateMicrovmImage", **create_params())).error == refused("iam:PassRole", ROLE)
    await api.tools.store.remove_access_key(KEY[0], keep_one_of="")
    wire = await restricted(api, allow("*"))
    answer = await wire.call("CreateMicrovmImage", **create_params())
    assert answer.status == 400
    assert answer.error[1].startswith("We were unable to assume the role provided")
    assert (await wire.call("CreateMicrovmImage", **create_params(buildRoleArn=EXECUTION))).status == 201


async def test_tags_of_what_is_asked_can_be_a_condition(api: Api, store: Store, clock: HandClock) -> None:
    for name in ("a", "b"):
        await built_image(store, name)
    await store.change_image_tags(arn("b"), {"team": "red"}, [])
    vms = {name: await started(store, clock, name) for name in ("a", "b")}
    wire = await restricted(api, allow("*", Condition={"StringEquals": {"aws:ResourceTag/Team": "blue"}}))
    assert (await wire.call("GetMicrovm", microvmIdentifier=vms["a"].id)).status == 200
    assert (await wire.call("GetMicrovm", microvmIdentifier=vms["b"].id)).status == 403
    assert (await wire.call("GetMicrovmImage", imageIdentifier=arn("a"))).status == 200
    assert (await wire.call("GetMicrovmImage", imageIdentifier=arn("b"))).status == 403
    connector = await settled_connector(store)
    assert (await wire.call("GetNetworkConnector", Identifier=connector.name)).status == 200
    await store.change_connector_tags(connector.arn, {}, ["team"])
    assert (await wire.call("GetNetworkConnector", Identifier=connector.name)).status == 403


async def test_tags_that_a_request_brings_can_be_a_condition(api: Api, store: Store) -> None:
    await built_image(store, "a")
    only = {"ForAllValues:StringEquals": {"aws:TagKeys": ["team", "stage"]}}
    some = {"StringEqualsIfExists": {"aws:RequestTag/team": ["blue", "green"]}}
    wire = await restricted(api, allow("*", Condition=only | some))
    resource = arn("a")
    assert (await wire.call("TagResource", Resource=resource, Tags={"team": "green"})).status == 204
    assert (await wire.call("TagResource", Resource=resource, Tags={"team": "red"})).status == 403
    assert (await wire.call("TagResource", Resource=resource, Tags={"stage": "1", "cost": "2"})).status == 403
    assert (await wire.call("UntagResource", Resource=resource, TagKeys=["team", "cost"])).status == 403
    assert (await wire.call("UntagResource", Resource=resource, TagKeys=["team"])).status == 204
    assert (await wire.call("CreateMicrovmImage", **create_params(tags={"cost": "1"}))).status == 403


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"IpAddress": {"aws:SourceIp": "10.1.0.0/16"}}, 200),
        ({"IpAddress": {"aws:SourceIp": "10.2.0.0/16"}}, 403),
        ({"Bool": {"aws:SecureTransport": "true"}}, 200),
        ({"Bool": {"aws:SecureTransport": "false"}}, 403),
        ({"StringLike": {"aws:UserAgent": "tool/*"}}, 200),
        ({"NumericLessThan": {"aws:EpochTime": "1"}}, 403),
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, 200),
        ({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::*:user/ann"}}, 200),
        (
            {"StringEquals": {"aws:PrincipalAccount": ACCOUNT, "aws:username": "ann", "aws:userid": "AIDA" + "C" * 16}},
            200,
        ),
    ],
)
async def test_how_a_request_came_can_be_a_condition(api: Api, condition: Any, status: int) -> None:
    await restricted(api, allow("*", Condition=condition))
    request = sign(http(operation("ListMicrovms"), {}), KEY)
    came = Arrival(source_ip="10.1.2.3", secure=True, user_agent="tool/1.0")
    assert (await api.answer(replace(request, came=came))).status == status


def test_every_operation_is_asked_on_something() -> None:
    """The members that say what an operation is about; a new one of the model must be thought of."""
    asked = {one.name: authorize.asked_on(one.model) for one in model.operations() if "Runtime" not in one.name}
    assert len(asked) == 30
    assert {name for name, on in asked.items() if on is On.ALL} == {
        "CreateMicrovmImage",
        "CreateNetworkConnector",
        "ListManagedMicrovmImages",
        "ListManagedMicrovmImageVersions",
        "ListMicrovmImages",
        "ListMicrovms",
        "ListNetworkConnectors",
    }
    assert {name for name, on in asked.items() if on is On.TAGGED} == {"ListTags", "TagResource", "UntagResource"}
    members = {member for one in model.operations() for member in (one.model.input_shape.members or ())}
    assert {one for one in members if one.lower().endswith(("rolearn", "operatorrole"))} == set(authorize.ROLES)
