"""Identifiers that a caller sent → things of that caller's account. Nothing of another account is ever found."""

from __future__ import annotations

import hashlib
import json

from rekindle.api.context import Caller, Parsed
from rekindle.core.arn import image_arn
from rekindle.core.errors import Denied, NotFound
from rekindle.core.microvm import MicroVM
from rekindle.store.db import Store


def own_image_arn(call: Parsed, member: str = "imageIdentifier") -> str:
    """The ARN in `imageIdentifier`. Raises Invalid when it is none, Denied when another account's or region's."""
    text: str = call.params[member]
    arn = image_arn(text)
    check_own(call.caller, call.operation.name, arn.account, arn.region, text)
    return text


def check_own(caller: Caller, action: str, account: str, region: str, arn: str) -> None:
    """Raises Denied when the thing that `arn` names is another account's, or lies in another region."""
    if (account, region) != (caller.account, caller.region):
        raise Denied(
            f"User: {caller.principal} is not authorized to perform: lambda:{action} on resource: {arn} because no "
            f"resource-based policy allows the lambda:{action} action"
        )


async def own_microvm(store: Store, call: Parsed) -> MicroVM:
    """Raises NotFound, also for one of another account or region."""
    vm_id: str = call.params["microvmIdentifier"]
    vm = await store.microvm(vm_id)
    if vm is None or (vm.account, vm.region) != (call.caller.account, call.caller.region):
        raise NotFound(f"MicroVM not found: {vm_id}")
    return vm


def digest(call: Parsed) -> str:
    """Equal for two requests that ask for the same, whatever their client tokens."""
    params = {name: value for name, value in call.params.items() if name.lower() != "clienttoken"}
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
