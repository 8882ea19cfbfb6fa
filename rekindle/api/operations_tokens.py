"""Endpoint tokens on the wire (spec §1.4, §1.8, §2.3): one for the app's ports, one for the shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.api import names
from rekindle.api.context import Parsed, Tools
from rekindle.core.connectors import check_shell
from rekindle.core.errors import Invalid, Refused
from rekindle.core.lifecycle import Phase
from rekindle.core.microvm import MicroVM
from rekindle.core.token import ALL_PORTS, APP, SHELL

MAX_MINUTES = 60  #: not in the model (spec §1.4)
HEADER = "X-aws-proxy-auth"


async def create_auth_token(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    vm, expires_at_s = await _asked(tools, call)
    ports = [_ports(one) for one in call.params["allowedPorts"]]
    return _minted(tools, vm, ports, expires_at_s, APP)


async def create_shell_auth_token(tools: Tools, call: Parsed) -> Mapping[str, Any]:
    """A token that opens no port of the app: at the endpoint it is good for the shell alone."""
    vm, expires_at_s = await _asked(tools, call)
    check_shell(vm.ingress)
    return _minted(tools, vm, [], expires_at_s, SHELL)


async def _asked(tools: Tools, call: Parsed) -> tuple[MicroVM, int]:
    """The microVM and the epoch second at which the token ends. Raises NotFound or Invalid."""
    vm = await names.own_microvm(tools.store, call)
    minutes: int = call.params["expirationInMinutes"]
    if minutes > MAX_MINUTES:
        raise Invalid(f"ExpirationMinutes {minutes} exceeded max allowed of {MAX_MINUTES}.")
    return vm, tools.clock() // 1000 + minutes * 60


def _minted(
    tools: Tools, vm: MicroVM, ports: Sequence[tuple[int, int]], expires_at_s: int, use: str
) -> Mapping[str, Any]:
    """Raises Refused for a microVM that is over: the token would open nothing."""
    if vm.phase in (Phase.TERMINATING, Phase.TERMINATED):
        raise Refused(f"The MicroVM {vm.id} has been terminated.")
    return {"authToken": {HEADER: tools.engine.mint(vm, ports, expires_at_s, use)}}


def _ports(specification: Mapping[str, Any]) -> tuple[int, int]:
    match specification:
        case {"port": port}:
            return port, port
        case {"range": {"startPort": start, "endPort": end}}:
            if start > end:
                raise Invalid(f"The port range {start}-{end} ends before it starts.")
            return start, end
        case _:
            return ALL_PORTS
