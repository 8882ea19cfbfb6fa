"""Requests that refer to what is in a `World`: one usual one for each operation, and strategies for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore.model import Shape
from hypothesis import strategies as st

from .shapes import values
from .wire import BASE, ROLE, create_params
from .world import HOOKS, IDLE, VPC, World

UPDATE = {name: value for name, value in create_params().items() if name != "name"}
VERSION = {"imageVersion": "1.0"}
TOKEN = {"expirationInMinutes": 5}

#: A request that succeeds, with all optional members of the answer set where that takes one.
USUAL: dict[str, Callable[[World], dict[str, Any]]] = {
    "CreateMicrovmImage": lambda world: create_params(name="fresh", hooks=HOOKS),
    "UpdateMicrovmImage": lambda world: {"imageIdentifier": world["image"], **UPDATE},
    "GetMicrovmImage": lambda world: {"imageIdentifier": world["image"]},
    "ListMicrovmImages": lambda world: {},
    "DeleteMicrovmImage": lambda world: {"imageIdentifier": world["spare"]},
    "GetMicrovmImageVersion": lambda world: {"imageIdentifier": world["image"], **VERSION},
    "UpdateMicrovmImageVersion": lambda world: {"imageIdentifier": world["image"], **VERSION, "status": "INACTIVE"},
    "ListMicrovmImageVersions": lambda world: {"imageIdentifier": world["two"]},
    "DeleteMicrovmImageVersion": lambda world: {"imageIdentifier": world["two"], **VERSION},
    "ListMicrovmImageBuilds": lambda world: {"imageIdentifier": world["image"], **VERSION},
    "GetMicrovmImageBuild": lambda world: {"imageIdentifier": world["image"], **VERSION, "buildId": world["build"]},
    "ListManagedMicrovmImages": lambda world: {},
    "ListManagedMicrovmImageVersions": lambda world: {"imageIdentifier": world["base"]},
    "RunMicrovm": lambda world: {"imageIdentifier": world["image"], "idlePolicy": IDLE},
    "GetMicrovm": lambda world: {"microvmIdentifier": world["vm.running"]},
    "ListMicrovms": lambda world: {},
    "SuspendMicrovm": lambda world: {"microvmIdentifier": world["vm.running"]},
    "ResumeMicrovm": lambda world: {"microvmIdentifier": world["vm.suspended"]},
    "TerminateMicrovm": lambda world: {"microvmIdentifier": world["vm.running"]},
    "CreateMicrovmAuthToken": lambda world: {
        "microvmIdentifier": world["vm.running"],
        "allowedPorts": [{"port": 80}],
        **TOKEN,
    },
    "CreateMicrovmShellAuthToken": lambda world: {"microvmIdentifier": world["vm.shell"], **TOKEN},
    "ListTags": lambda world: {"Resource": world["image"]},
    "TagResource": lambda world: {"Resource": world["image"], "Tags": {"team": "red"}},
    "UntagResource": lambda world: {"Resource": world["image"], "TagKeys": ["team"]},
    "CreateNetworkConnector": lambda world: {
        "Name": "fresh",
        "Configuration": VPC,
        "OperatorRole": ROLE,
        "ClientToken": "t",
    },
    "GetNetworkConnector": lambda world: {"Identifier": world["connector"]},
    "ListNetworkConnectors": lambda world: {},
    "ListNetworkConnectorVersions": lambda world: {"Identifier": world["connector"]},
    "UpdateNetworkConnector": lambda world: {"Identifier": world["connector"], "Configuration": VPC},
    "DeleteNetworkConnector": lambda world: {"Identifier": world["connector"]},
}


def requests(shape: Shape, world: World) -> st.SearchStrategy[dict[str, Any]]:
    """Parameters that obey the model, most of which name something that is there."""
    known = _known(world)
    members = {name: _member(member, known.get(name)) for name, member in shape.members.items()}
    required = {name: made for name, made in members.items() if name in shape.required_members}
    optional = {name: made for name, made in members.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


def _member(shape: Shape, known: list[Any] | None) -> st.SearchStrategy[Any]:
    """Two times of three what is known."""
    made = values(shape, smallest=1 if shape.serialization.get("location") == "querystring" else 0)
    return made if known is None else st.one_of(st.sampled_from(known), st.sampled_from(known), made)


def _known(world: World) -> Mapping[str, list[Any]]:
    things = world.things
    connectors = [things["connector"], things["connector"].rpartition(":")[2], "office", f"{things['connector']}:1"]
    images = [things[name] for name in ("image", "hooked", "two", "spare", "pending", "failed", "updating", "nobody")]
    managed = [[], [f"{things['managed']}INTERNET_EGRESS"], [things["connector"]]]
    return {
        "name": ["fresh", "fresh-2", "demo"],
        "Name": ["fresh", "office"],
        "imageIdentifier": [*images, things["theirs"], BASE],
        "imageVersion": ["1.0", "2.0", "3.0"],
        "buildId": [things["build"]],
        "microvmIdentifier": [one for name, one in things.items() if name.startswith("vm.")],
        "Identifier": [*connectors, things["connector.pending"]],
        "Resource": [*images, things["connector"], things["connector.pending"]],
        "baseImageArn": [BASE],
        "baseImageVersion": ["1"],
        "buildRoleArn": [ROLE],
        "executionRoleArn": [ROLE],
        "OperatorRole": [ROLE],
        "codeArtifact": [{"uri": "s3://code/demo.zip"}],
        "hooks": [HOOKS],
        "resources": [[{"minimumMemoryInMiB": size}] for size in (256, 512, 8192)],
        "cpuConfigurations": [[{"architecture": things["architecture"]}], []],
        "environmentVariables": [{"A": "b"}],
        "tags": [{"a": "b"}],
        "Tags": [{"a": "b"}],
        "TagKeys": [["a", "team"]],
        "logging": [{"disabled": {}}, {"cloudWatch": {"logGroup": "g", "logStream": "s"}}],
        "egressNetworkConnectors": managed,
        "ingressNetworkConnectors": [[], [f"{things['managed']}HTTP_INGRESS"], [f"{things['managed']}NO_INGRESS"]],
        "idlePolicy": [IDLE],
        "maximumDurationInSeconds": [60],
        "expirationInMinutes": [1, 60],
        "allowedPorts": [[{"port": 80}], [{"allPorts": {}}], [{"range": {"startPort": 1, "endPort": 2}}]],
        "Configuration": [VPC],
    }
