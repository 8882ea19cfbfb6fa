"""Tags of images and network connectors on the old Lambda routes."""

from __future__ import annotations

from typing import Any

import pytest

from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, built_image, settled_connector

from .wire import Wire, create_params

OWN = f"arn:aws:lambda:{REGION}:{ACCOUNT}"
ABSENT = {
    f"{OWN}:microvm-image:absent": "MicroVMImage not found for MicroVMImageID",
    f"{OWN}:network-connector:nc-x": "Network connector not found for",
    f"{OWN}:function:f": "Resource not found",
}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("ListTags", {}),
    ("TagResource", {"Tags": {"a": "b"}}),
    ("UntagResource", {"TagKeys": ["a"]}),
]


async def subject(store: Store, kind: str) -> str:
    """The ARN of something without tags."""
    if kind == "connector":
        made = await settled_connector(store)
        await store.change_connector_tags(made.arn, {}, list(made.tags))
        return made.arn
    image = (await built_image(store)).image_arn
    await store.change_image_tags(image, {}, list(await store.image_tags(image)))
    return image


@pytest.fixture(params=["image", "connector"])
async def tagged(request: pytest.FixtureRequest, store: Store) -> str:
    return await subject(store, request.param)


async def change(wire: Wire, name: str, **params: Any) -> None:
    """A change answers 204 without a byte."""
    answer = await wire.call(name, **params)
    assert (answer.status, answer.reply.body) == (204, b""), answer.reply.body


async def test_tags_are_merged_and_taken_away(wire: Wire, tagged: str) -> None:
    assert await wire.ok("ListTags", Resource=tagged) == {"Tags": {}}
    await change(wire, "TagResource", Resource=tagged, Tags={"team": "blue", "ru:\u044f @": ""})
    await change(wire, "TagResource", Resource=tagged, Tags={"team": "red", "cost": "42"})
    assert await wire.ok("ListTags", Resource=tagged) == {"Tags": {"team": "red", "ru:\u044f @": "", "cost": "42"}}
    for _ in range(2):
        await change(wire, "UntagResource", Resource=tagged, TagKeys=["team", "cost", "never"])
        assert await wire.ok("ListTags", Resource=tagged) == {"Tags": {"ru:\u044f @": ""}}


async def test_tags_of_a_create_are_tags(wire: Wire) -> None:
    image = await wire.ok("CreateMicrovmImage", **create_params(tags={"a": "1"}))
    assert await wire.ok("ListTags", Resource=image["imageArn"]) == {"Tags": {"a": "1"}}
    await change(wire, "TagResource", Resource=image["imageArn"], Tags={"b": "2"})
    got = await wire.ok("GetMicrovmImage", imageIdentifier=image["imageArn"])
    assert got["tags"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(("name", "params"), CALLS)
async def test_what_is_not_there(wire: Wire, name: str, params: dict[str, Any]) -> None:
    for resource, message in ABSENT.items():
        answer = await wire.call(name, Resource=resource, **params)
        assert answer.status == 404
        assert answer.reply.headers["X-Amzn-Errortype"] == "ResourceNotFoundException"
        assert answer.json == {"message": f"{message}: {resource}", "resourceType": None, "resourceId": None}


@pytest.mark.parametrize(("name", "params"), CALLS)
async def test_tags_of_others(wire: Wire, store: Store, tagged: str, name: str, params: dict[str, Any]) -> None:
    for foreign in (tagged.replace(ACCOUNT, OTHER), tagged.replace(REGION, "eu-west-1")):
        answer = await wire.call(name, Resource=foreign, **params)
        assert (answer.status, answer.error[0]) == (403, "AccessDeniedException")
        assert f"is not authorized to perform: lambda:{name} on resource: {foreign} because" in answer.error[1]


@pytest.mark.parametrize(("name", "params"), CALLS)
@pytest.mark.parametrize(
    "resource",
    [
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm:microvm-1",
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:nc-x:1",
        f"arn:aws:lambda:{REGION}:aws:microvm-image:debian-13",
        "demo",
    ],
)
async def test_what_cannot_have_tags(wire: Wire, name: str, params: dict[str, Any], resource: str) -> None:
    answer = await wire.call(name, Resource=resource, **params)
    assert (answer.status, answer.error[0]) == (400, "ValidationException")
    start = f"1 validation error detected: Value '{resource}' at 'resource' failed to satisfy constraint: "
    assert answer.error[1].startswith(start + "Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)")


async def test_a_resource_has_fifty_tags_and_none_of_aws(wire: Wire, tagged: str) -> None:
    await change(wire, "TagResource", Resource=tagged, Tags={f"t{number}": "" for number in range(50)})
    for tags, message in (
        ({"more": ""}, "A resource has at most 50 tags; this would make 51"),
        ({"aws:x": ""}, "Tag key 'aws:x' is reserved: keys that begin with 'aws:' are AWS's own"),
    ):
        answer = await wire.call("TagResource", Resource=tagged, Tags=tags)
        assert (answer.status, answer.error) == (400, ("ValidationException", message))
    await change(wire, "TagResource", Resource=tagged, Tags={"t0": "again"})
    assert len((await wire.ok("ListTags", Resource=tagged))["Tags"]) == 50


@pytest.mark.parametrize("tags", [{"aws:x": ""}, {f"t{number}": "" for number in range(51)}])
async def test_an_image_is_not_made_with_such_tags(wire: Wire, tags: dict[str, str]) -> None:
    answer = await wire.call("CreateMicrovmImage", **create_params(tags=tags))
    assert (answer.status, answer.error[0]) == (400, "ValidationException")
    assert (await wire.ok("ListMicrovmImages"))["items"] == []


@pytest.mark.parametrize(
    ("kind", "delete", "member"),
    [
        ("connector", "DeleteNetworkConnector", "Identifier"),
        ("image", "DeleteMicrovmImage", "imageIdentifier"),
    ],
)
async def test_what_is_going_keeps_its_tags(wire: Wire, store: Store, kind: str, delete: str, member: str) -> None:
    going = await subject(store, kind)
    await change(wire, "TagResource", Resource=going, Tags={"a": "1"})
    await wire.ok(delete, **{member: going})
    for name, params in CALLS[1:]:
        answer = await wire.call(name, Resource=going, **params)
        message = f"The tags of {going} cannot be changed while it is DELETING"
        assert (answer.status, answer.error) == (409, ("ResourceConflictException", message))
    assert await wire.ok("ListTags", Resource=going) == {"Tags": {"a": "1"}}
