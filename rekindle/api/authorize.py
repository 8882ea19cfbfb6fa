"""May this caller do this? The actions and resources of each operation (spec §9.4), asked of the key's policy.

A key without a policy may do everything in its account, and nothing is asked. Other accounts' things are never reached,
whatever a policy says: that is `names`. Nothing of them is read here either, so no refusal can tell of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from botocore.model import OperationModel

from rekindle.api.context import Caller, Parsed, Tools
from rekindle.core import connectors
from rekindle.core.arn import connector_arn
from rekindle.core.arrival import condition_keys
from rekindle.core.errors import Denied, Invalid, NotFound
from rekindle.core.patterns import Context
from rekindle.core.policy import Ask, Verdict, refusal

PASSED_TO = "lambda.amazonaws.com"
#: Operations that put connectors in force: `lambda:PassNetworkConnector` is asked on each of them (spec §5.1).
CONNECTING = ("RunMicrovm", "CreateMicrovmImage", "UpdateMicrovmImage")
#: Members that name a role: `iam:PassRole` is asked on it.
ROLES = ("buildRoleArn", "executionRoleArn", "OperatorRole")
#: Asked on `*` although a member names an image: lists are (spec §9.4).
_ON_ALL = ("ListMicrovms", "ListManagedMicrovmImageVersions")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")
_TAGS = "aws:resourcetag/"


class On(Enum):
    """What an operation's own action is asked on."""

    ALL = "`*`"
    MICROVMS_IMAGE = "the ARN of the microVM's image; `*` when there is no such microVM"
    IMAGE = "the image's ARN"
    CONNECTOR = "the connector's ARN, without a version"
    TAGGED = "the ARN of what is tagged"


def asked_on(operation: OperationModel) -> On:
    """Read from the members that the operation's input has."""
    members = operation.input_shape.members if operation.input_shape else {}
    if operation.name in _ON_ALL:
        return On.ALL
    by_member = {"microvmIdentifier": On.MICROVMS_IMAGE, "imageIdentifier": On.IMAGE}
    by_member |= {"Identifier": On.CONNECTOR, "Resource": On.TAGGED}
    return next((on for member, on in by_member.items() if member in members), On.ALL)


async def authorize(tools: Tools, call: Parsed) -> None:
    """Raises Denied in IAM's words, naming the first action that the policy does not allow, or Invalid for a role."""
    if call.caller.policy is not None:
        resource = await _resource(tools, call)
        context = await _context(tools, call, resource)
        _check(call.caller, Ask(f"lambda:{call.operation.name}", resource, context))
        for role in _roles(call):
            _check(call.caller, Ask("iam:PassRole", role, {**context, "iam:passedtoservice": PASSED_TO}))
        for connector in await _connectors(tools, call):
            _check(call.caller, Ask("lambda:PassNetworkConnector", connector, context))
    check_roles(tools, call)


def _check(caller: Caller, ask: Ask) -> None:
    verdict = Verdict.ALLOWED if caller.policy is None else caller.policy.judge(ask)
    if verdict is not Verdict.ALLOWED:
        raise Denied(refusal(caller.principal, ask, verdict))


async def _resource(tools: Tools, call: Parsed) -> str:
    params, caller = call.params, call.caller
    match asked_on(call.operation.model):
        case On.MICROVMS_IMAGE:
            vm = await tools.store.microvm(params["microvmIdentifier"])
            own = vm is not None and (vm.account, vm.region) == (caller.account, caller.region)
            return vm.image_arn if vm is not None and own else "*"
        case On.IMAGE:
            return str(params["imageIdentifier"])
        case On.CONNECTOR:
            return await _connector(tools, caller, params["Identifier"])
        case On.TAGGED:
            return _unversioned(params["Resource"])
        case On.ALL:
            return "*"


async def _connector(tools: Tools, caller: Caller, identifier: str) -> str:
    """The ARN of a connector that is named by id, name or ARN; what is not there is asked as it was named."""
    if connector_arn(identifier) is not None:
        return _unversioned(identifier)
    found = await tools.store.find_connector(caller.account, caller.region, identifier)
    return identifier if found is None else found.arn


def _unversioned(arn: str) -> str:
    """A policy speaks of a connector, not of its versions: `:1` behind the ARN must not lead around a Deny."""
    named = connector_arn(arn)
    return arn if named is None else named.arn


def _roles(call: Parsed) -> list[str]:
    return [call.params[member] for member in ROLES if member in call.params]


async def _connectors(tools: Tools, call: Parsed) -> list[str]:
    """The connectors that would be in force, also where they are the defaults or the image's (spec §5.1)."""
    region, params, name = call.caller.region, call.params, call.operation.name
    if name not in CONNECTING:
        return []
    inherited: tuple[str, ...] = ()
    if name == "RunMicrovm" and _is_own(call.caller, params["imageIdentifier"]):
        arn, pinned = params["imageIdentifier"], params.get("imageVersion")
        version = await (tools.store.active_version(arn) if pinned is None else tools.store.version(arn, pinned))
        inherited = () if version is None else version.egress
    found = connectors.egress(region, params.get("egressNetworkConnectors", []), inherited)
    if name == "RunMicrovm":
        found += connectors.ingress(region, params.get("ingressNetworkConnectors", []))
    return [_unversioned(one) for one in found]


def _is_own(caller: Caller, arn: str) -> bool:
    return arn.split(":")[3:5] == [caller.region, caller.account]


def check_roles(tools: Tools, call: Parsed) -> None:
    """Nothing assumes a role here; what is asked for must be one all the same. Raises Invalid."""
    known = tools.config.iam.roles
    for role in _roles(call):
        if _ROLE.fullmatch(role) is None:
            raise Invalid(f"'{role}' is not the ARN of a role: arn:aws:iam::<account>:role/<name>")
        if known and role not in known:
            raise Invalid(
                f"We were unable to assume the role provided. {role} is not among the roles that this service knows "
                "(iam.roles in its configuration)."
            )


# --- condition keys


async def _context(tools: Tools, call: Parsed, resource: str) -> Context:
    """The keys of every request, the tags that it brings, and those of its resource when the policy looks at them."""
    caller = call.caller
    keys = condition_keys(caller.account, caller.principal, caller.key_id, caller.region, caller.came, tools.clock())
    return {**keys, **_request_tags(call.params), **await _resource_tags(tools, caller, resource)}


def _request_tags(params: Mapping[str, object]) -> Context:
    given = params.get("tags") or params.get("Tags") or {}
    brought: dict[str, str] = dict(given) if isinstance(given, Mapping) else {}
    removed = params.get("TagKeys") or []
    names = tuple(brought) or (tuple(removed) if isinstance(removed, list) else ())
    tags: dict[str, str | tuple[str, ...]] = {f"aws:requesttag/{key.lower()}": value for key, value in brought.items()}
    return tags | {"aws:tagkeys": names} if names else tags


async def _resource_tags(tools: Tools, caller: Caller, resource: str) -> Context:
    wanted = caller.policy is not None and any(key.startswith(_TAGS) for key in caller.policy.keys)
    if not wanted or not _is_own(caller, resource):
        return {}
    read = tools.store.image_tags if connector_arn(resource) is None else tools.store.connector_tags
    try:
        tags = await read(resource)
    except NotFound:
        return {}
    return {_TAGS + key.lower(): value for key, value in tags.items()}
