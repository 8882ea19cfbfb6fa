"""The network-connector operations: recorded projections, every refusal, and microVMs and images that name one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from rekindle.api.app import Api
from rekindle.api.context import Tools
from rekindle.config import Egress
from rekindle.core.lifecycle import Ask, Fact
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, HandClock, arn, built_image

from .conftest import KEYS
from .wire import RecordingEngine, Wire, create_params

ROLE = "arn:aws:iam::000000000000:role/operator"
VPC = {
    "AssociatedComputeResourceTypes": ["MicroVm"],
    "NetworkProtocol": "IPv4",
    "SecurityGroupIds": ["sg-f0e6979f"],
    "SubnetIds": ["subnet-15c2f37d"],
}
MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def vpc(**changes: Any) -> dict[str, Any]:
    """`Configuration`; None leaves a member out."""
    members = {name: value for name, value in (VPC | changes).items() if value is not None}
    return {"VpcEgressConfiguration": members}


def params(**changes: Any) -> dict[str, Any]:
    made = {"Name": "net", "Configuration": vpc(), "OperatorRole": ROLE, "ClientToken": "t"}
    return {name: value for name, value in (made | changes).items() if value is not None}


async def active(wire: Wire, store: Store, name: str = "net", **changes: Any) -> str:
    """The ARN of a connector that the node has looked at."""
    made = await wire.ok("CreateNetworkConnector", **params(Name=name, ClientToken=name, **changes))
    await store.settle_connectors()
    return str(made["Arn"])


async def refused(wire: Wire, name: str, /, **given: Any) -> tuple[int, str, str]:
    answer = await wire.call(name, **given)
    code, message = answer.error
    assert answer.reply.headers["X-Amzn-Errortype"] == code
    return answer.status, code, message


# --- projections, as recorded


async def test_what_create_answers(wire: Wire, engine: RecordingEngine) -> None:
    made = await wire.ok("CreateNetworkConnector", **params())
    assert re.fullmatch(r"nc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["Id"])
    assert made == {
        "Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:{made['Id']}",
        "Configuration": vpc(),
        "Id": made["Id"],
        "Name": "net",
        "OperatorRole": ROLE,
        "State": "PENDING",
    }
    assert engine.kicks == 1


async def test_what_get_list_and_delete_answer(wire: Wire, store: Store, engine: RecordingEngine) -> None:
    made = await wire.ok("CreateNetworkConnector", **params())
    await store.settle_connectors()
    got = await wire.ok("GetNetworkConnector", Identifier=made["Id"])
    assert ISO.fullmatch(got["LastModified"])
    known = made | {"State": "ACTIVE"}
    assert got == known | {"LastModified": got["LastModified"], "StateReason": "Initial creation"}
    item = {name: got[name] for name in ("Arn", "Id", "LastModified", "Name", "State")}
    assert await wire.ok("ListNetworkConnectors") == {"NetworkConnectors": [item | {"Type": "VPC_EGRESS"}]}
    assert await wire.ok("DeleteNetworkConnector", Identifier=made["Id"]) == known | {"State": "DELETING"}
    assert engine.kicks == 2
    assert await wire.ok("DeleteNetworkConnector", Identifier="net") == known | {"State": "DELETING"}
    await store.settle_connectors()
    assert (await refused(wire, "GetNetworkConnector", Identifier="net"))[0] == 404


async def test_an_update_that_changes_nothing(wire: Wire, store: Store) -> None:
    made = await active(wire, store)
    got = await wire.ok("GetNetworkConnector", Identifier=made)
    told = await wire.ok("UpdateNetworkConnector", Identifier=made, Configuration=vpc(), OperatorRole=ROLE)
    update = {"LastUpdateStatus": "Successful", "LastUpdateStatusReason": "No configuration changes detected"}
    assert told == {name: value for name, value in got.items() if name != "StateReason"} | update
    assert await wire.ok("GetNetworkConnector", Identifier=made) == got | update
    assert await wire.ok("UpdateNetworkConnector", Identifier=made) == told


async def test_an_update_is_a_new_version(wire: Wire, store: Store, clock: HandClock, engine: RecordingEngine) -> None:
    made = await active(wire, store)
    first = await wire.ok("GetNetworkConnector", Identifier=made)
    clock.pass_minutes(1)
    changes = {"Configuration": vpc(SubnetIds=["subnet-2"]), "ClientToken": "u"}
    kicks = engine.kicks
    told = await wire.ok("UpdateNetworkConnector", Identifier="net", **changes)
    assert engine.kicks == kicks + 1
    assert told == {
        **{name: first[name] for name in ("Arn", "Id", "Name", "OperatorRole", "State")},
        "Configuration": vpc(SubnetIds=["subnet-2"]),
        "LastModified": told["LastModified"],
        "LastUpdateStatus": "InProgress",
        "Version": 2,
        "VersionArn": f"{made}:2",
    }
    assert told["LastModified"] > first["LastModified"]
    assert (await refused(wire, "UpdateNetworkConnector", Identifier=made, OperatorRole=ROLE + "2"))[:2] == (
        409,
        "ResourceConflictException",
    )
    await store.settle_connectors()
    got = await wire.ok("GetNetworkConnector", Identifier=made)
    assert got == {
        **{name: value for name, value in told.items() if name != "VersionArn"},
        "LastUpdateStatus": "Successful",
        "LatestVersion": 2,
        "LatestVersionArn": f"{made}:2",
        "StateReason": "Initial creation",
    }
    (item,) = (await wire.ok("ListNetworkConnectors"))["NetworkConnectors"]
    assert (item["LatestVersion"], item["LatestVersionArn"]) == (2, f"{made}:2")
    again = await wire.ok("UpdateNetworkConnector", Identifier="net", **changes)
    assert again == told | {"LastUpdateStatus": "Successful"}
    old = await wire.ok("GetNetworkConnector", Identifier=f"{made}:1")
    assert old == first | {"Version": 1, "VersionArn": f"{made}:1"}


async def test_versions_are_listed_newest_first(wire: Wire, store: Store) -> None:
    made = await active(wire, store)
    got = await wire.ok("GetNetworkConnector", Identifier=made)
    await wire.ok("UpdateNetworkConnector", Identifier=made, OperatorRole=ROLE + "2")
    listed = await wire.ok("ListNetworkConnectorVersions", Identifier="net")
    same = {name: got[name] for name in ("Arn", "Id", "Name")}
    second, first = listed.pop("NetworkConnectorVersions")
    assert listed == {}
    assert first == same | {
        "LastModified": got["LastModified"],
        "State": "ACTIVE",
        "Version": 1,
        "VersionArn": f"{made}:1",
    }
    assert second == same | {
        "LastModified": second["LastModified"],
        "State": "PENDING",
        "Version": 2,
        "VersionArn": f"{made}:2",
    }
    for state, numbers in (("ACTIVE", [1]), ("PENDING", [2]), ("FAILED", [])):
        listed = await wire.ok("ListNetworkConnectorVersions", Identifier=made, State=state)
        assert [one["Version"] for one in listed["NetworkConnectorVersions"]] == numbers


async def test_one_version_is_deleted_by_its_arn(wire: Wire, store: Store) -> None:
    made = await active(wire, store)
    await wire.ok("UpdateNetworkConnector", Identifier=made, OperatorRole=ROLE + "2")
    await store.settle_connectors()
    gone = await wire.ok("DeleteNetworkConnector", Identifier=f"{made}:1")
    assert gone == {
        "Arn": made,
        "Configuration": vpc(),
        "Id": gone["Id"],
        "Name": "net",
        "OperatorRole": ROLE,
        "State": "DELETING",
        "Version": 1,
        "VersionArn": f"{made}:1",
    }
    assert (await wire.ok("GetNetworkConnector", Identifier=made))["State"] == "ACTIVE"
    for name in ("GetNetworkConnector", "DeleteNetworkConnector"):
        assert await refused(wire, name, Identifier=f"{made}:1") == (
            404,
            "ResourceNotFoundException",
            f"Network connector not found for: {made}:1",
        )
    status, code, message = await refused(wire, "DeleteNetworkConnector", Identifier=f"{made}:2")
    assert (status, code) == (409, "ResourceConflictException")
    assert "is the latest version" in message


# --- pages


async def test_pages_of_connectors(wire: Wire, other: Wire, store: Store) -> None:
    names = [f"net-{number:02}" for number in range(55)]
    for name in names:
        await active(wire, store, name)
    first = await wire.ok("ListNetworkConnectors")
    assert [one["Name"] for one in first["NetworkConnectors"]] == names[:10]
    rest = await wire.ok("ListNetworkConnectors", Marker=first["NextMarker"], MaxItems=100)
    assert [one["Name"] for one in rest["NetworkConnectors"]] == names[10:]
    assert "NextMarker" not in rest
    assert len((await wire.ok("ListNetworkConnectors", MaxItems=100))["NetworkConnectors"]) == 50
    assert await other.ok("ListNetworkConnectors") == {"NetworkConnectors": []}
    assert await wire.ok("ListNetworkConnectors", State="DELETING") == {"NetworkConnectors": []}
    for foreign in ({"Marker": first["NextMarker"], "State": "ACTIVE"}, {"Marker": "AAAA"}, {"Marker": "\u00e9"}):
        answer = await wire.call("ListNetworkConnectors", **foreign)
        assert (answer.status, answer.json) == (400, {"message": None})
    answer = await other.call("ListNetworkConnectors", Marker=first["NextMarker"])
    assert answer.status == 400


async def test_pages_of_versions(wire: Wire, store: Store) -> None:
    made = await active(wire, store)
    for number in range(2, 6):
        await wire.ok("UpdateNetworkConnector", Identifier=made, OperatorRole=f"{ROLE}{number}")
        await store.settle_connectors()
    seen: list[int] = []
    marker: dict[str, str] = {}
    for size in (2, 2, 1):
        page = await wire.ok("ListNetworkConnectorVersions", Identifier=made, MaxItems=2, **marker)
        assert len(page["NetworkConnectorVersions"]) == size
        seen += [one["Version"] for one in page["NetworkConnectorVersions"]]
        marker = {"Marker": page["NextMarker"]} if "NextMarker" in page else {}
    assert (seen, marker) == ([5, 4, 3, 2, 1], {})


# --- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ClientToken": None}, "ClientToken is a required field"),
        ({"Configuration": vpc(NetworkProtocol=None)}, "NetworkProtocol cannot be null or empty"),
        (
            {"Configuration": vpc(AssociatedComputeResourceTypes=None)},
            "AssociatedComputeResourceTypes cannot be null or empty",
        ),
        ({"Configuration": vpc(SubnetIds=None)}, "SubnetIds cannot be null or empty"),
        ({"OperatorRole": None}, "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type"),
        (
            {"Name": f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:net"},
            "Name must be a name, not an ARN",
        ),
        (
            {"Tags": {"aws:x": "y"}},
            "Tag key 'aws:x' is reserved: keys that begin with 'aws:' are AWS's own",
        ),
        (
            {"Tags": {f"t{number}": "" for number in range(51)}},
            "A resource has at most 50 tags; this would make 51",
        ),
    ],
    ids=range(8),
)
async def test_what_the_model_calls_optional(wire: Wire, changes: Mapping[str, Any], message: str) -> None:
    answer = await wire.call("CreateNetworkConnector", **params(**changes))
    assert (answer.status, answer.error) == (400, ("InvalidParameterValueException", message))
    assert answer.json == {"message": message}
    assert await wire.ok("ListNetworkConnectors") == {"NetworkConnectors": []}


SUBNETS = [f"subnet-{number:017}" for number in range(1, 18)]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"Configuration": vpc(SubnetIds=SUBNETS, NetworkProtocol=None), "ClientToken": None},
            f"Value '[{', '.join(SUBNETS)}]' at 'configuration.vpcEgressConfiguration.subnetIds' failed to satisfy "
            "constraint: Member must have length less than or equal to 16",
        ),
        ({"Name": None}, "Value null at 'name' failed to satisfy constraint: Member must not be null"),
        (
            {"Configuration": None},
            "Value null at 'configuration' failed to satisfy constraint: Member must not be null",
        ),
        (
            {"Configuration": {}},
            "Value '{}' at 'configuration' failed to satisfy constraint: "
            "Member must have exactly one of its members set",
        ),
        (
            {"Configuration": vpc(NetworkProtocol="IPv6")},
            "Value 'IPv6' at 'configuration.vpcEgressConfiguration.networkProtocol' failed to satisfy constraint: "
            "Member must satisfy enum value set: [IPv4, DualStack]",
        ),
        (
            {"ClientToken": "x" * 65},
            f"Value '{'x' * 65}' at 'clientToken' failed to satisfy constraint: "
            "Member must have length less than or equal to 64",
        ),
    ],
    ids=range(6),
)
async def test_constraints_of_the_model_come_first(wire: Wire, changes: Mapping[str, Any], fault: str) -> None:
    assert await refused(wire, "CreateNetworkConnector", **params(**changes)) == (
        400,
        "ValidationException",
        f"1 validation error detected: {fault}",
    )


async def test_a_name_is_taken_until_its_connector_is_gone(wire: Wire, other: Wire, store: Store) -> None:
    made = await active(wire, store)
    taken = (
        409,
        "ResourceConflictException",
        "A network connector with the name 'net' already exists in this account",
    )
    assert await refused(wire, "CreateNetworkConnector", **params(ClientToken="2")) == taken
    await wire.ok("DeleteNetworkConnector", Identifier=made)
    assert await refused(wire, "CreateNetworkConnector", **params(ClientToken="2")) == taken
    await other.ok("CreateNetworkConnector", **params())
    await store.settle_connectors()
    assert (await wire.ok("CreateNetworkConnector", **params(ClientToken="2")))["Arn"] != made


async def test_a_client_token_makes_one(wire: Wire, other: Wire) -> None:
    made = await wire.ok("CreateNetworkConnector", **params())
    assert await wire.ok("CreateNetworkConnector", **params()) == made
    assert await refused(wire, "CreateNetworkConnector", **params(Name="another")) == (
        409,
        "ResourceConflictException",
        "The client token was used before with other parameters.",
    )
    assert (await other.ok("CreateNetworkConnector", **params()))["Id"] != made["Id"]


IDENTIFIED = ("GetNetworkConnector", "ListNetworkConnectorVersions", "UpdateNetworkConnector", "DeleteNetworkConnector")


@pytest.mark.parametrize("name", IDENTIFIED)
async def test_who_is_not_there(wire: Wire, other: Wire, store: Store, name: str) -> None:
    own = f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:nc-m80-does-not-exist"
    for identifier in ("nc-m80-does-not-exist", own):
        answer = await wire.call(name, Identifier=identifier)
        assert answer.status == 404
        assert answer.reply.headers["X-Amzn-Errortype"] == "ResourceNotFoundException"
        assert answer.json == {"Message": f"Network connector not found for: {own}"}
    made = await active(wire, store)
    assert (await refused(other, name, Identifier="net"))[0] == 404
    assert (await refused(other, name, Identifier=made.rpartition(":")[2]))[0] == 404
    for foreign in (made, made.replace(ACCOUNT, OTHER).replace(REGION, "eu-west-1")):
        status, code, message = await refused(other, name, Identifier=foreign)
        assert (status, code) == (403, "AccessDeniedException")
        assert f"is not authorized to perform: lambda:{name} on resource: {foreign} because" in message
    assert await refused(wire, name, Identifier="arn:aws:lambda:x") == (
        400,
        "InvalidParameterValueException",
        "Malformed network connector ARN: arn:aws:lambda:x",
    )
    assert (await wire.ok("GetNetworkConnector", Identifier=made))["State"] == "ACTIVE"


@pytest.mark.parametrize("name", ["ListNetworkConnectorVersions", "UpdateNetworkConnector"])
async def test_a_version_is_no_connector(wire: Wire, store: Store, name: str) -> None:
    made = await active(wire, store)
    assert await refused(wire, name, Identifier=f"{made}:1") == (
        400,
        "InvalidParameterValueException",
        f"Identifier must not name a version: {made}:1",
    )


async def test_what_a_connector_is_for_stays(wire: Wire, store: Store) -> None:
    made = await active(wire, store)
    for configuration, message in (
        (
            vpc(AssociatedComputeResourceTypes=["WebFunction"]),
            "AssociatedComputeResourceTypes of a network connector cannot be changed",
        ),
        (vpc(NetworkProtocol=None), "NetworkProtocol cannot be null or empty"),
    ):
        assert await refused(wire, "UpdateNetworkConnector", Identifier=made, Configuration=configuration) == (
            400,
            "InvalidParameterValueException",
            message,
        )
    assert "LatestVersion" not in await wire.ok("GetNetworkConnector", Identifier=made)


async def test_a_pending_connector_waits(wire: Wire) -> None:
    made = await wire.ok("CreateNetworkConnector", **params())
    for name in ("UpdateNetworkConnector", "DeleteNetworkConnector"):
        status, code, message = await refused(wire, name, Identifier=made["Id"])
        assert (status, code) == (409, "ResourceConflictException")
        assert message.endswith("while it is PENDING")


# --- microVMs and images that name one


async def story(store: Store, subject: str) -> list[str | None]:
    return [event.why for event in await store.events(subject, 20) if event.what == "VPC connector"]


@pytest.mark.parametrize("suffix", ["", ":1"])
async def test_a_microvm_with_a_vpc_connector(wire: Wire, store: Store, suffix: str) -> None:
    image = (await built_image(store)).image_arn
    made = await active(wire, store)
    run = {"imageIdentifier": image, "egressNetworkConnectors": [made + suffix], "clientToken": "r"}
    vm = await wire.ok("RunMicrovm", **run)
    assert vm["egressNetworkConnectors"] == [made + suffix]
    assert await wire.ok("RunMicrovm", **run) == vm
    assert await story(store, vm["microvmId"]) == [
        f"{made}: there is no VPC on this machine; egress.vpc is none, so it reaches nothing outside of itself"
    ]
    assert await refused(wire, "DeleteNetworkConnector", Identifier="net") == (
        409,
        "ResourceConflictException",
        f"Network connector {made} is used by MicroVM {vm['microvmId']}",
    )
    ending = await store.ask(vm["microvmId"], Ask.TERMINATE)
    await store.report(ending, Fact.STOPPED)
    await wire.ok("DeleteNetworkConnector", Identifier="net")


async def test_a_microvm_with_a_pending_connector_starts(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    made = await wire.ok("CreateNetworkConnector", **params())
    vm = await wire.ok("RunMicrovm", imageIdentifier=image, egressNetworkConnectors=[made["Arn"]])
    assert vm["egressNetworkConnectors"] == [made["Arn"]]


async def test_the_story_of_a_microvm_without_one_says_nothing(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    vm = await wire.ok("RunMicrovm", imageIdentifier=image, egressNetworkConnectors=[MANAGED + "INTERNET_EGRESS"])
    assert await story(store, vm["microvmId"]) == []


async def test_an_image_passes_its_vpc_connector_on(wire: Wire, store: Store) -> None:
    made = await active(wire, store)
    image = await wire.ok("CreateMicrovmImage", **create_params(egressNetworkConnectors=[made], clientToken="i"))
    assert image["egressNetworkConnectors"] == [made]
    await wire.ok("CreateMicrovmImage", **create_params(egressNetworkConnectors=[made], clientToken="i"))
    assert len(await story(store, image["imageArn"])) == 1
    status, code, message = await refused(wire, "DeleteNetworkConnector", Identifier=made)
    assert (status, code) == (409, "ResourceConflictException")
    assert message == f"Network connector {made} is used by MicroVM image {image['imageArn']} version 1.0"
    version = await store.building((await store.versions_owing())[0])
    await store.built(version, folder="f", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1)
    inherited = await wire.ok("RunMicrovm", imageIdentifier=image["imageArn"])
    assert inherited["egressNetworkConnectors"] == [made]
    assert len(await story(store, inherited["microvmId"])) == 1
    own = await wire.ok(
        "RunMicrovm", imageIdentifier=image["imageArn"], egressNetworkConnectors=[MANAGED + "INTERNET_EGRESS"]
    )
    assert own["egressNetworkConnectors"] == [MANAGED + "INTERNET_EGRESS"]


async def test_an_update_of_an_image_takes_and_drops_a_connector(wire: Wire, store: Store) -> None:
    made = await active(wire, store)
    image = (await built_image(store)).image_arn
    with_it = {name: one for name, one in create_params(egressNetworkConnectors=[made]).items() if name != "name"}
    for _ in range(2):
        told = await wire.ok("UpdateMicrovmImage", imageIdentifier=image, **with_it, clientToken="u")
        assert (told["egressNetworkConnectors"], told["imageVersion"]) == ([made], "2.0")
    assert len(await story(store, image)) == 1
    assert (await refused(wire, "DeleteNetworkConnector", Identifier=made))[2].endswith(f"{image} version 2.0")
    version = await store.building((await store.versions_owing())[0])
    await store.built(version, folder="f", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1)
    del with_it["egressNetworkConnectors"]
    told = await wire.ok("UpdateMicrovmImage", imageIdentifier=image, **with_it)
    assert told["egressNetworkConnectors"] == [MANAGED + "INTERNET_EGRESS"]


async def test_where_a_vpc_connector_means_the_internet(api: Api, store: Store) -> None:
    tools: Tools = replace(api.tools, config=replace(api.tools.config, egress=Egress(vpc="internet")))
    wire = Wire(Api(tools), KEYS[ACCOUNT])
    image = (await built_image(store)).image_arn
    made = await active(wire, store)
    vm = await wire.ok("RunMicrovm", imageIdentifier=image, egressNetworkConnectors=[made])
    assert await story(store, vm["microvmId"]) == [
        f"{made}: there is no VPC on this machine; egress.vpc is internet, so it reaches the internet"
    ]


async def connector_refusals(wire: Wire, store: Store) -> list[tuple[list[str], tuple[int, str, str]]]:
    """What may stand in `egressNetworkConnectors`, and what is said of it."""
    made, web = (
        await active(wire, store),
        await active(wire, store, "web", Configuration=vpc(AssociatedComputeResourceTypes=["WebFunction"])),
    )
    going = await active(wire, store, "going")
    await wire.ok("DeleteNetworkConnector", Identifier=going)
    absent = f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:nc-absent"
    by_name = f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:net"
    foreign = made.replace(ACCOUNT, OTHER)
    far = made.replace(REGION, "eu-west-1")
    user = "User: arn:aws:iam::000000000000:user/test"
    denied = f"{user} is not authorized to perform: lambda:PassNetworkConnector on resource: "
    nobody = " because no resource-based policy allows the lambda:PassNetworkConnector action"
    not_found, invalid = (404, "ResourceNotFoundException"), (400, "ValidationException")
    return [
        ([absent], (*not_found, f"Network connector not found for: {absent}")),
        ([by_name], (*not_found, f"Network connector not found for: {by_name}")),
        ([f"{made}:2"], (*not_found, f"Network connector not found for: {made}:2")),
        ([foreign], (403, "AccessDeniedException", denied + foreign + nobody)),
        ([far], (403, "AccessDeniedException", denied + far + nobody)),
        ([going], (409, "ConflictException", f"Network connector {going} is being deleted")),
        ([web], (*invalid, f"Network connector {web} is not for MicroVm")),
        (["net"], (*invalid, "Malformed network connector ARN")),
        ([MANAGED + "X"], (*invalid, f"Unrecognized managed network connector ARN: {MANAGED}X")),
    ]


async def test_connectors_that_no_microvm_and_no_image_can_have(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    cases = await connector_refusals(wire, store)
    for egress, said in cases:
        run = {"imageIdentifier": image, "egressNetworkConnectors": egress}
        create = create_params(name="x", egressNetworkConnectors=egress)
        for name, given in (("RunMicrovm", run), ("CreateMicrovmImage", create)):
            status, code, message = await refused(wire, name, **given)
            assert (status, code) == said[:2], egress
            assert message.endswith(said[2]), egress
    both = [MANAGED + "INTERNET_EGRESS", cases[0][0][0]]
    assert await refused(wire, "RunMicrovm", imageIdentifier=image, egressNetworkConnectors=both) == (
        400,
        "ValidationException",
        "Only one egress network connector can be provided",
    )
    assert (await wire.ok("ListMicrovms"))["items"] == []
    assert [item["imageArn"] for item in (await wire.ok("ListMicrovmImages"))["items"]] == [arn("demo")]


async def test_ingress_is_managed(wire: Wire, store: Store) -> None:
    image = (await built_image(store)).image_arn
    made = await active(wire, store)
    assert await refused(wire, "RunMicrovm", imageIdentifier=image, ingressNetworkConnectors=[made]) == (
        400,
        "ValidationException",
        f"A VPC network connector cannot be used for ingress: {made}",
    )
    pair = [MANAGED + "ALL_INGRESS", MANAGED + "SHELL_INGRESS"]
    vm = await wire.ok("RunMicrovm", imageIdentifier=image, ingressNetworkConnectors=pair)
    assert vm["ingressNetworkConnectors"] == pair
