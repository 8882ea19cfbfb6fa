"""Which operations exist, and the one way to perform one. The rest of the API is refused by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rekindle.api import codec, operations_create, operations_images, operations_managed, operations_microvms
from rekindle.api.context import Parsed, Reply, Tools
from rekindle.api.model import Operation
from rekindle.core.errors import Unfinished

Perform = Callable[[Tools, Parsed], Awaitable[Mapping[str, Any]]]

OPERATIONS: dict[str, Perform] = {
    "CreateMicrovmImage": operations_create.create_image,
    "GetMicrovmImage": operations_images.get_image,
    "ListMicrovmImages": operations_images.list_images,
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
    "CreateMicrovmAuthToken": operations_microvms.create_auth_token,
}


def find(operation: Operation) -> Perform:
    """Raises Unfinished naming an operation that AWS has and Rekindle does not yet."""
    if operation.service != "lambda-microvms" or operation.name not in OPERATIONS:
        raise Unfinished(f"{operation.name} is not supported by this version of Rekindle.")
    return OPERATIONS[operation.name]


async def perform(tools: Tools, call: Parsed) -> Reply:
    result = await find(call.operation)(tools, call)
    return codec.answer(call.operation.model, result)
