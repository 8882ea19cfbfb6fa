"""What the operator's API asks of this machine (`operator_api.Operator`)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

from rekindle import __version__
from rekindle.core.errors import GuestError, MachineError, RekindleError
from rekindle.core.lifecycle import Ask, Phase
from rekindle.core.microvm import OPERATOR, MicroVM
from rekindle.driver import cgroup
from rekindle.node.agent import NODE, Agent
from rekindle.node.machine import Host, endpoint_of
from rekindle.node.relay import Relay
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
DOWN_S = 120.0
REMOVED_S = 120.0


class Operating:
    node = NODE

    def __init__(
        self,
        *,
        agent: Agent,
        store: Store,
        host: Host,
        relay: Relay,
        addresses: Mapping[str, str],
        stop: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._store = store
        self._host = host
        self._relay = relay
        self._addresses = addresses
        self._stop = stop

    def facts(self) -> Mapping[str, object]:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "state": str(self._host.layout.state),
            "accel": self._host.accel.value,
            "mode": "root" if self._host.as_root else "user",
            **self._addresses,
        }

    def endpoint(self, vm: MicroVM) -> str:
        return endpoint_of(vm)

    async def relay_counters(self) -> Mapping[str, Mapping[str, object]]:
        return await self._relay.vms()

    async def app_output(self, vm: MicroVM, offset: int) -> tuple[bytes, int]:
        """From the guest while it runs; what was kept of it once it is over; nothing while it sleeps."""
        if vm.phase is Phase.RUNNING:
            return await self._relay.guest(vm.id).logs(offset)
        kept = self._host.layout.app_log(vm.id)
        if not kept.exists():
            return b"", offset
        output = kept.read_bytes()
        return output[offset:], len(output)

    async def remove_image(self, arn: str, version: str | None = None) -> None:
        """The image, or one version of it, as the AWS API deletes them; returns when it is gone.

        Raises NotFound, Invalid or Refused as the store does, and MachineError when its files do not go.
        """
        if version is None:
            await self._store.delete_image(arn, by=OPERATOR)
        else:
            await self._store.delete_version(arn, version, by=OPERATOR)
        self._agent.kick()
        try:
            async with asyncio.timeout(REMOVED_S):
                await self._agent.removed(arn, version)
        except TimeoutError as err:
            raise MachineError(f"{arn} is DELETING, but its files are still there; the service's log says why") from err

    async def down(self) -> int:
        """Raises GuestError when a microVM did not end in time; then nothing was stopped."""
        vms = await self._store.all_microvms(NODE)
        for vm in vms:
            try:
                await self._store.ask(vm.id, Ask.TERMINATE, by=OPERATOR)
            except RekindleError as err:
                LOG.info("%s: %s", vm.id, err.message)
        self._agent.kick()
        try:
            async with asyncio.timeout(DOWN_S):
                await self._agent.empty()
        except TimeoutError as err:
            raise GuestError(f"Not all microVMs ended within {DOWN_S:.0f} s; look at `rekindle ps`") from err
        cgroup.remove_parents()
        self._agent.leave_relay()
        await self._relay.stop()
        self._stop()
        return len(vms)
