"""microVMs on the wire: checks, one row, a kick to the node; and the projections of spec §1.6."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from rekindle.api import connectors, model, names, notes
from rekindle.api.context import Parsed, Tools
from rekindle.api.cursor import page
from rekindle.core.connectors import ingress
from rekindle.core.errors import Invalid, NotFound
from rekindle.core.image import Image, ImageState, Version, VersionState, VersionStatus
from rekindle.core.lifecycle import WIRE, Ask, Phase
from rekindle.core.microvm import IdlePolicy, MicroVM
from rekindle.store.microvms import place

#: AWS's default is its maximum (recorded: spec §1.4), and the model has the maximum; the operator may set another.
MAX_DURATION = "RunMicrovmRequestMaximumDurationInSecondsInteger"
_GOING = (ImageState.DELETING, ImageState.DELETED)


async def run(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    caller, token, digest = call.caller, call.params.get("clientToken"), names.digest(call)
    vm = await tools.store.ran_before(caller.account, caller.region, client_token=token, token_digest=digest)
    if vm is None:
        new = await _checked(tools, call)
        ports = range(tools.config.ingress.first_port, tools.config.ingress.last_port + 1)
        vm = await tools.store.run_microvm(
            new,
            ports,
            client_token=token,
            token_digest=digest,
            ceilings=tools.config.quotas.ceilings(),
            room=tools.config.memory.room(),
            note=notes.of_run(call.params),
            by=caller.key_id,
        )
        if vm.id == new.id:  # not an earlier one with the same client token
            await connectors.tell(tools, vm.id, vm.egress)
    if vm.phase is Phase.PENDING:  # a repeated client token may find it far along
        vm = await tools.engine.admit(vm)
    return _show(tools, vm)


async def get(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return _show(tools, await names.own_microvm(tools.store, call))


async def list_all(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    image = names.own_image_arn(call) if "imageIdentifier" in call.params else None

    async def fetch(after: str | None, limit: int) -> list[MicroVM]:
        return await tools.store.microvms(
            call.caller.account,
            call.caller.region,
            image_arn=image,
            image_version=call.params.get("imageVersion"),
            after=after,
            limit=limit,
        )

    return await page(tools.store, call, fetch, place, _show_item)


async def suspend(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return await _ask(tools, call, Ask.SUSPEND)


async def resume(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return await _ask(tools, call, Ask.RESUME)


async def terminate(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    return await _ask(tools, call, Ask.TERMINATE)


async def _ask(tools: Tools, call: Parsed, ask: Ask) -> dict[str, Any]:
    vm = await names.own_microvm(tools.store, call)
    await tools.store.ask(vm.id, ask, by=call.caller.key_id, room=tools.config.memory.room())
    tools.engine.kick()
    return {}


async def _checked(tools: Tools, call: Parsed) -> MicroVM:
    """The row to be, every rule checked."""
    version = await _active_version(tools, call)
    _check_run(call.params, version)
    egress = await connectors.egress(tools, call.caller, call.params.get("egressNetworkConnectors", []), version.egress)
    return _pending(tools, call, version, egress)


async def _active_version(tools: Tools, call: Parsed) -> Version:
    """The version to start from: the one named, or the newest ACTIVE one. Raises NotFound with AWS's texts."""
    if not call.params["imageIdentifier"].startswith("arn:"):
        raise Invalid("Malformed ARN - doesn't start with 'arn:'")
    arn, pinned = names.own_image_arn(call), call.params.get("imageVersion")
    image = await tools.store.image(arn)
    version = await (tools.store.active_version(arn) if pinned is None else tools.store.version(arn, pinned))
    if image is None or version is None or not _launchable(image, version):
        raise NotFound(f"No active version found for MicroVM image {arn}{f' and version {pinned}' if pinned else ''}")
    return version


def _launchable(image: Image, version: Version) -> bool:
    """An older version is good while its image is UPDATING or its update failed (spec §1.7). As `launchable` in SQL."""
    whole = version.state is VersionState.SUCCESSFUL and version.status is VersionStatus.ACTIVE
    return whole and image.state not in _GOING


def _check_run(params: Mapping[str, Any], version: Version) -> None:
    """Rules between members and the image, which the model cannot say. Raises Invalid."""
    if "cloudWatch" in params.get("logging", {}) and "executionRoleArn" not in params:
        raise Invalid("Logging cannot be enabled without providing executionRoleArn")
    if "runHookPayload" in params and (version.hooks is None or version.hooks.get("run") is None):
        raise Invalid("The run hook must be enabled in the MicroVM image to pass the run hook payload.")


def _pending(tools: Tools, call: Parsed, version: Version, egress: tuple[str, ...]) -> MicroVM:
    """The row to be: everything of the request in our own terms. The store picks the port."""
    params, region = call.params, call.caller.region
    return MicroVM(
        id=f"microvm-{uuid.uuid4()}",
        account=call.caller.account,
        region=region,
        node=version.node,
        phase=Phase.PENDING,
        revision=0,
        generation=1,
        image_arn=version.image_arn,
        image_version=version.version,
        endpoint_id=str(uuid.uuid4()),
        endpoint_port=0,
        memory_mib=version.memory_mib,
        vcpus=version.vcpus,
        idle=_idle(params.get("idlePolicy")),
        max_duration_s=params.get("maximumDurationInSeconds", _default_duration_s(tools)),
        ingress=ingress(region, params.get("ingressNetworkConnectors", [])),
        egress=egress,
        started_at_ms=tools.clock(),
        execution_role_arn=params.get("executionRoleArn"),
        kms_key=params.get("kmsKeyIdentifier"),
        logging=params.get("logging"),
        run_hook_payload=params.get("runHookPayload"),
    )


def _default_duration_s(tools: Tools) -> int:
    return min(model.maximum(MAX_DURATION), tools.config.lifetime.max_duration_s)


def _idle(policy: Mapping[str, Any] | None) -> IdlePolicy | None:
    if policy is None:
        return None
    return IdlePolicy(
        max_idle_s=policy["maxIdleDurationSeconds"],
        suspended_s=policy["suspendedDurationSeconds"],
        auto_resume=policy["autoResumeEnabled"],
    )


# --- projections


def _show(tools: Tools, vm: MicroVM) -> dict[str, Any]:
    key = {} if vm.kms_key is None else {"kmsKeyIdentifier": vm.kms_key}  # no recorded answer has it
    return (
        _show_item(vm)
        | key
        | {
            "egressNetworkConnectors": list(vm.egress),
            "endpoint": tools.engine.endpoint(vm),
            "executionRoleArn": vm.execution_role_arn,
            "idlePolicy": _show_idle(vm.idle),
            "ingressNetworkConnectors": list(vm.ingress),
            "maximumDurationInSeconds": vm.max_duration_s,
            "stateReason": vm.state_reason,
            "terminatedAt": vm.terminated_at_ms,
            "terminationReasonCode": None,
        }
    )


def _show_idle(idle: IdlePolicy | None) -> dict[str, Any] | None:
    if idle is None:
        return None
    return {
        "autoResumeEnabled": idle.auto_resume,
        "maxIdleDurationSeconds": idle.max_idle_s,
        "suspendedDurationSeconds": idle.suspended_s,
    }


def _show_item(vm: MicroVM) -> dict[str, Any]:
    return {
        "imageArn": vm.image_arn,
        "imageVersion": vm.image_version,
        "microvmId": vm.id,
        "startedAt": vm.started_at_ms,
        "state": WIRE[vm.phase],
    }
