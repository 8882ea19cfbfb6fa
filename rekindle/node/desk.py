"""What the API asks of this machine: the `Engine` of api/operations, made of the agent and a few facts."""

from __future__ import annotations

from collections.abc import Sequence

from rekindle.core.managed import Managed
from rekindle.core.microvm import MicroVM
from rekindle.core.token import Claims
from rekindle.node.agent import Agent
from rekindle.node.machine import endpoint_of
from rekindle.seal import TokenKey, seal


class Desk:
    def __init__(self, agent: Agent, token_key: TokenKey, managed: Managed) -> None:
        self._agent = agent
        self._token_key = token_key
        self._managed = managed

    async def admit(self, vm: MicroVM) -> MicroVM:
        return await self._agent.admit(vm)

    def kick(self) -> None:
        self._agent.kick()

    def endpoint(self, vm: MicroVM) -> str:
        return endpoint_of(vm)

    def mint(self, vm: MicroVM, ports: Sequence[tuple[int, int]], expires_at_s: int, use: str) -> str:
        """A sealed endpoint token for this life of the VM."""
        claims = Claims(vm_id=vm.id, generation=vm.generation, ports=tuple(ports), expires_at_s=expires_at_s, use=use)
        return seal(self._token_key, claims)

    def managed(self) -> Managed:
        return self._managed
