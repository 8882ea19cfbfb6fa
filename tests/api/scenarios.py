"""How each error that an operation models comes about: one small story for each, told for any operation that has it.

What cannot come about here stands in `docs/compat.toml` under `never`, with the reason.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

from rekindle.api.app import Api, Edge
from rekindle.config import Ingress, Quotas
from tests.store.rows import ACCOUNT

from .edge import Got, ask
from .requests import USUAL
from .wire import Wire, http, operation, sign
from .world import VPC, World

Scenario = Callable[[World, str], Awaitable[Got]]
#: An identifier of each kind that is well formed and names nothing.
NOTHING = {
    "microvmIdentifier": "microvm-00000000-0000-4000-8000-000000000000",
    "buildId": "00000000-0000-4000-8000-000000000000",
    "Identifier": "nc-00000000-0000-4000-8000-000000000000",
}
TABLES = ("image", "version", "build", "microvm", "connector", "secret")


async def call(world: World, name: str, **changes: Any) -> Got:
    """The usual request with some parameters changed (None: left out), over the whole ASGI app."""
    return await request(world.wire, name, USUAL[name](world) | changes)


async def request(wire: Wire, name: str, params: dict[str, Any]) -> Got:
    given = {name: value for name, value in params.items() if value is not None}
    return await ask(Edge(wire.api), sign(http(operation(name), given), wire.key, wire.region))


# --- any operation


async def broken(world: World, name: str) -> Got:
    """A bug, or a database that lost its tables."""
    database = world.wire.api.tools.config.state / "rekindle.db"
    with closing(sqlite3.connect(database)) as beside:
        beside.executescript(";".join(f"ALTER TABLE {table} RENAME TO lost_{table}" for table in TABLES))
        try:
            return await call(world, name)
        finally:
            beside.executescript(";".join(f"ALTER TABLE lost_{table} RENAME TO {table}" for table in TABLES))


async def unknown(world: World, name: str) -> Got:
    """What the request names is not there."""
    nothing: dict[str, Any] = NOTHING | {"imageIdentifier": world["nobody"], "Resource": world["nobody"]}
    members = operation(name).input_shape.members
    return await call(world, name, **{member: nothing[member] for member in nothing if member in members})


async def unknown_connector(world: World, name: str) -> Got:
    """The connector that a new image is to be built behind is not there."""
    return await call(world, name, egressNetworkConnectors=[f"{world['connectors']}{NOTHING['Identifier']}"])


async def too_long(world: World, name: str) -> Got:
    """A member is longer, or a number larger, than the model allows."""
    members = operation(name).input_shape.members
    for member, shape in members.items():
        if shape.type_name == "string" and "max" in shape.metadata:
            return await call(world, name, **{member: "x" * (shape.metadata["max"] + 1)})
    return await call(world, name, maxResults=51)


NO_POLICY = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}'
NOBODY = ("AKIACCCCCCCCCCCCCCCC", "secret-of-nobody")


async def without_rights(world: World) -> Wire:
    """A key of the same account whose policy allows nothing of this service."""
    await world.store.add_access_key(*NOBODY, ACCOUNT, "nobody", NO_POLICY)
    return replace(world.wire, key=NOBODY)


async def forbidden(world: World, name: str) -> Got:
    """The caller's policy does not allow it."""
    return await request(await without_rights(world), name, USUAL[name](world))


# --- conflicts


async def token_of_another(world: World, name: str) -> Got:
    """The client token was used for a request with other parameters."""
    first = await call(world, name, clientToken="t")
    assert first.status == operation(name).http["responseCode"]
    return await call(world, name, clientToken="t", **_other[name])


_other: dict[str, dict[str, Any]] = {
    "CreateMicrovmImage": {"description": "another"},
    "RunMicrovm": {"maximumDurationInSeconds": 60},
}


def with_vm(which: str) -> Scenario:
    """The microVM is in a state that does not allow it."""

    async def told(world: World, name: str) -> Got:
        return await call(world, name, microvmIdentifier=world[f"vm.{which}"])

    return told


async def shell_ended(world: World, name: str) -> Got:
    """The microVM had a shell and is being terminated."""
    await world.happen(world["vm.shell"], "TerminateMicrovm")
    return await call(world, name)


async def updating(world: World, name: str) -> Got:
    """The image is being updated."""
    return await call(world, name, imageIdentifier=world["updating"])


async def name_taken(world: World, name: str) -> Got:
    """A connector of this name is there."""
    return await call(world, name, Name="office")


async def connector_pending(world: World, name: str) -> Got:
    """The connector is still being made."""
    return await call(world, name, Identifier=world["connector.pending"])


async def connector_deleting(world: World, name: str) -> Got:
    """The connector is being deleted."""
    await world.wire.ok("DeleteNetworkConnector", Identifier=world["connector"])
    return await call(world, name, Resource=world["connector"])


# --- rules of lambda-core that its model does not have


async def no_token(world: World, name: str) -> Got:
    """A member is missing that the model calls optional."""
    return await call(world, name, ClientToken=None)


async def no_protocol(world: World, name: str) -> Got:
    """A member of the configuration is missing that the model calls optional."""
    vpc = {key: value for key, value in VPC["VpcEgressConfiguration"].items() if key != "NetworkProtocol"}
    return await call(world, name, Configuration={"VpcEgressConfiguration": vpc})


async def no_arn(world: World, name: str) -> Got:
    """What begins like an ARN is none."""
    return await call(world, name, Identifier="arn:aws:lambda:x")


async def bad_marker(world: World, name: str) -> Got:
    """The cursor is none that we gave out."""
    return await call(world, name, Marker="nonsense")


# --- limits


def on(world: World, **changes: Any) -> Wire:
    """The same account at a service that is configured otherwise."""
    tools = world.wire.api.tools
    return replace(world.wire, api=Api(replace(tools, config=replace(tools.config, **changes))))


async def no_port(world: World, name: str) -> Got:
    """Every endpoint port of the host is taken."""
    narrow = on(world, ingress=Ingress(first_port=1, last_port=1))
    await request(narrow, name, USUAL[name](world))
    return await request(narrow, name, USUAL[name](world))


async def too_often(world: World, name: str) -> Got:
    """The second call within a second, where one is allowed."""
    rates: dict[str, Any] = {field.name: (1, 1) for field in fields(Quotas) if isinstance(field.default, tuple)}
    slow = on(world, quotas=Quotas(**rates))
    first = await request(slow, name, USUAL[name](world))
    assert first.status == operation(name).http["responseCode"]
    return await request(slow, name, USUAL[name](world))


def beyond(quota: str, **changes: Any) -> Scenario:
    """The account has all that it may have."""
    one: dict[str, Any] = {quota: 1}

    async def told(world: World, name: str) -> Got:
        return await request(on(world, quotas=Quotas(**one)), name, USUAL[name](world) | changes)

    return told


ELSEWHERE = {"VpcEgressConfiguration": VPC["VpcEgressConfiguration"] | {"SubnetIds": ["subnet-2"]}}

PROVOKED: dict[str, Scenario | dict[str, Scenario]] = {
    "InternalServerException": broken,
    "ServiceException": broken,
    "AccessDeniedException": forbidden,
    "ResourceNotFoundException": unknown,
    "ValidationException": too_long,
    "ConflictException": {
        "CreateMicrovmImage": token_of_another,
        "RunMicrovm": token_of_another,
        "SuspendMicrovm": with_vm("pending"),
        "ResumeMicrovm": with_vm("pending"),
        "CreateMicrovmAuthToken": with_vm("terminated"),
        "CreateMicrovmShellAuthToken": shell_ended,
        "UpdateMicrovmImage": updating,
        "UpdateMicrovmImageVersion": updating,
        "DeleteMicrovmImageVersion": updating,
    },
    "ResourceConflictException": {
        "CreateNetworkConnector": name_taken,
        "UpdateNetworkConnector": connector_pending,
        "DeleteNetworkConnector": connector_pending,
        "TagResource": connector_deleting,
        "UntagResource": connector_deleting,
    },
    "InvalidParameterValueException": {
        "CreateNetworkConnector": no_token,
        "UpdateNetworkConnector": no_protocol,
        "GetNetworkConnector": no_arn,
        "DeleteNetworkConnector": no_arn,
        "ListNetworkConnectorVersions": no_arn,
        "ListNetworkConnectors": bad_marker,
    },
    "InsufficientCapacityException": {"RunMicrovm": no_port},
    "ThrottlingException": too_often,
    "TooManyRequestsException": too_often,
    "ServiceQuotaExceededException": {
        "RunMicrovm": beyond("memory_mib"),
        "CreateMicrovmImage": beyond("images"),
        "UpdateMicrovmImage": beyond("versions_per_image"),
    },
    "NetworkConnectorLimitExceededException": {
        "CreateNetworkConnector": beyond("connectors"),
        "UpdateNetworkConnector": beyond("versions_per_connector", Configuration=ELSEWHERE),
    },
}
#: Where the story of an error is another one for one operation.
INSTEAD: dict[tuple[str, str], Scenario] = {("CreateMicrovmImage", "ResourceNotFoundException"): unknown_connector}


def scenario(name: str, error: str) -> Scenario | None:
    told = INSTEAD.get((name, error)) or PROVOKED.get(error)
    return told.get(name) if isinstance(told, dict) else told
