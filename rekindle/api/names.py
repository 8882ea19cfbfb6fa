"""Identifiers that a caller sent → things of that caller's account. Nothing of another account is ever found."""

from __future__ import annotations

import hashlib
import json

from rekindle.api.context import Parsed
from rekindle.core.arn import image_arn
from rekindle.core.errors import Denied, NotFound, Unfinished
from rekindle.core.microvm import MicroVM
from rekindle.store.db import Store


def own_image_arn(call: Parsed) -> str:
    """The ARN in `imageIdentifier`. Raises Invalid when it is none, Denied when another account's or region's."""
    text: str = call.params["imageIdentifier"]
    arn = image_arn(text)
    if (arn.account, arn.region) != (call.caller.account, call.caller.region):
        raise Denied(
            f"User: arn:aws:iam::{call.caller.account}:root is not authorized to perform: "
            f"lambda:{call.operation.name} on resource: {text}"
        )
    return text


async def own_microvm(store: Store, call: Parsed) -> MicroVM:
    """Raises NotFound, also for one of another account or region."""
    vm_id: str = call.params["microvmIdentifier"]
    vm = await store.microvm(vm_id)
    if vm is None or (vm.account, vm.region) != (call.caller.account, call.caller.region):
        raise NotFound(f"MicroVM not found: {vm_id}")
    return vm


def refuse_kms(call: Parsed) -> None:
    """Raises Unfinished: a key that would not be used must not be accepted."""
    if "kmsKeyIdentifier" in call.params:
        raise Unfinished("kmsKeyIdentifier is not supported by this version of Rekindle.")


def digest(call: Parsed) -> str:
    """Equal for two requests that ask for the same, whatever their client tokens."""
    params = {name: value for name, value in call.params.items() if name != "clientToken"}
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
