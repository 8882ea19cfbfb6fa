"""Which operations exist, and the one way to perform one. The rest of the API is refused by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rekindle.api import (
    codec,
    operations_connectors,
    operations_create,
    operations_delete,
    operations_images,
    operations_managed,
    operations_microvms,
    operations_tags,
    operations_tokens,
    operations_update,
)
from rekindle.api.context import Parsed, Reply, Tools
from rekindle.api.model import Operation
from rekindle.core.errors import Unfinished

Perform = Callable[[Tools, Parsed], Awaitable[Mapping[str, Any]]]

OPERATIONS: dict[str, Perform] = {
    "CreateMicrovmImage": operations_create.create_image,
    "UpdateMicrovmImage": operations_update.update_image,
    "DeleteMicrovmImage": operations_delete.delete_image,
    "GetMicrovmImage": operations_images.get_image,
    "ListMicrovmImages": operations_images.list_images,
    "UpdateMicrovmImageVersion": operations_update.update_version,
    "DeleteMicrovmImageVersion": operations_delete.delete_version,
    "GetMicrovmImageVersion": operations_images.get_version,
    "ListMicrovmImageVersions": operations_images.list_versions,
    "GetMicrovmImageBuild": operations_images.get_build,
    "ListMicrovmImageBuilds": operations_images.list_builds,
    "ListManagedMicrovmImages": operations_managed.list_images,
    "ListManagedMicrovmImageVersions": operations_managed.list_versions,
    "RunMicrovm": operations_microvms.run,
    "GetMicrovm": operations_microvms.get,
    "ListMicrovms": operations_microvms.list_all,
    "SuspendMicrovm": operations_microvms.suspend,
    "ResumeMicrovm": operations_microvms.resume,
    "TerminateMicrovm": operations_microvms.terminate,
    "CreateMicrovmAuthToken": operations_tokens.create_auth_token,
    "CreateMicrovmShellAuthToken": operations_tokens.create_shell_auth_token,
    "ListTags": operations_tags.list_tags,
    "TagResource": operations_tags.tag,
    "UntagResource": operations_tags.untag,
    "CreateNetworkConnector": operations_connectors.create,
    "GetNetworkConnector": operations_connectors.get,
    "ListNetworkConnectors": operations_connectors.list_all,
    "ListNetworkConnectorVersions": operations_connectors.list_versions,
    "UpdateNetworkConnector": operations_connectors.update,
    "DeleteNetworkConnector": operations_connectors.delete,
}


def find(operation: Operation) -> Perform:
    """Raises Unfinished naming an operation that AWS has and Rekindle does not."""
    if operation.name in OPERATIONS:
        return OPERATIONS[operation.name]
    if "Runtime" in operation.name:
        raise Unfinished(f"{operation.name} belongs to Lambda runtimes, another product than MicroVMs.")
    raise Unfinished(f"{operation.name} is not supported by this version of Rekindle.")


async def perform(tools: Tools, call: Parsed) -> Reply:
    result = await find(call.operation)(tools, call)
    return codec.answer(call.operation.model, result)
