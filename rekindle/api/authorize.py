"""May this caller do this? The actions and resources of each operation (spec §9.4), asked of the key's policy.

A key without a policy may do everything in its account, and nothing is asked. Other accounts' things are never reached,
whatever a policy says: that is `names`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from rekindle.api.context import Caller, Parsed, Tools
from rekindle.core import connectors
from rekindle.core.arn import connector_arn
from rekindle.core.errors import Denied, Invalid
from rekindle.core.policy import Ask, Policy, Verdict

#: What an operation's own action is asked on, by the request's member that names it; else `*`.
_BY_MEMBER = ("imageIdentifier", "Resource")
#: Asked on `*` although a member names an image: a list reads what its filter leaves (spec §9.4).
_ON_ALL = ("ListMicrovms", "ListManagedMicrovmImageVersions")
_MAKES_OR_RUNS = ("RunMicrovm", "CreateMicrovmImage", "UpdateMicrovmImage")
_ROLES = ("buildRoleArn", "executionRoleArn", "OperatorRole")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")


async def authorize(tools: Tools, call: Parsed) -> None:
    """Raises Denied in IAM's words, naming the first action that the policy does not allow, or Invalid for a role."""
    check_roles(tools, call)
    policy = call.caller.policy
    if policy is None:
        return
    context = _context(tools, call.caller)
    _check(policy, call.caller, Ask(f"lambda:{call.operation.name}", await _resource(tools, call), context))
    for role in _roles(call):
        passed = context | {"iam:passedtoservice": "lambda.amazonaws.com"}
        _check(policy, call.caller, Ask("iam:PassRole", role, passed))
    for connector in await _connectors(tools, call):
        _check(policy, call.caller, Ask("lambda:PassNetworkConnector", connector, context))


def _check(policy: Policy, caller: Caller, ask: Ask) -> None:
    verdict = policy.judge(ask)
    if verdict is Verdict.ALLOWED:
        return
    why = f"because no identity-based policy allows the {ask.action} action"
    if verdict is Verdict.DENIED:
        why = "with an explicit deny in an identity-based policy"
    raise Denied(
        f"User: {caller.principal} is not authorized to perform: {ask.action} on resource: {ask.resource} {why}"
    )


async def _resource(tools: Tools, call: Parsed) -> str:
    params, caller = call.params, call.caller
    if "microvmIdentifier" in params:
        vm = await tools.store.microvm(params["microvmIdentifier"])
        own = vm is not None and (vm.account, vm.region) == (caller.account, caller.region)
        return vm.image_arn if vm is not None and own else "*"
    if "Identifier" in params:
        return await _connector(tools, call)
    if call.operation.name in _ON_ALL:
        return "*"
    return next((str(params[member]) for member in _BY_MEMBER if member in params), "*")


async def _connector(tools: Tools, call: Parsed) -> str:
    """The ARN of a connector that is named by id, name or ARN; what is not there is asked as it was named."""
    caller, identifier = call.caller, call.params["Identifier"]
    named = connector_arn(identifier)
    if named is not None:
        return named.arn
    found = await tools.store.find_connector(caller.account, caller.region, identifier)
    return str(identifier) if found is None else found.arn


def _roles(call: Parsed) -> list[str]:
    return [call.params[member] for member in _ROLES if member in call.params]


async def _connectors(tools: Tools, call: Parsed) -> list[str]:
    """The connectors that would be in force, also where they are the defaults or the image's (spec §5.1)."""
    region, params, name = call.caller.region, call.params, call.operation.name
    if name not in _MAKES_OR_RUNS:
        return []
    inherited: tuple[str, ...] = ()
    if name == "RunMicrovm":
        arn, pinned = params["imageIdentifier"], params.get("imageVersion")
        version = await (tools.store.active_version(arn) if pinned is None else tools.store.version(arn, pinned))
        inherited = () if version is None else version.egress
    found = connectors.egress(region, params.get("egressNetworkConnectors", []), inherited)
    if name == "RunMicrovm":
        found += connectors.ingress(region, params.get("ingressNetworkConnectors", []))
    return list(found)


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


def _context(tools: Tools, caller: Caller) -> dict[str, str]:
    """Condition keys of every request, in lower case."""
    now_ms = tools.clock()
    return {
        "aws:currenttime": datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:epochtime": str(now_ms // 1000),
        "aws:principalaccount": caller.account,
        "aws:principalarn": caller.principal,
        "aws:principaltype": "User",
        "aws:requestedregion": caller.region,
        "aws:userid": caller.key_id,
        "aws:username": caller.principal.rpartition("/")[2],
    }
