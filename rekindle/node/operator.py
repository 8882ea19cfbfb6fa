"""What the operator's API asks of this machine (`operator_api.Operator`)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

from rekindle import __version__, threads
from rekindle.core.errors import GuestError, NotFound, Refused, RekindleError
from rekindle.core.lifecycle import Ask, Phase
from rekindle.core.microvm import MicroVM
from rekindle.driver import cgroup
from rekindle.node.agent import NODE, Agent
from rekindle.node.machine import Host, endpoint_of
from rekindle.node.perform import remove_tree
from rekindle.node.relay import Relay
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
DOWN_S = 120.0


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

    async def remove_image(self, arn: str) -> None:
        """Raises NotFound, or Refused while a microVM of it lives or a version is being built."""
        if await self._store.image(arn) is None:
            raise NotFound(f"MicroVMImage not found for MicroVMImageID: {arn}")
        if any(vm.image_arn == arn for vm in await self._store.all_microvms(NODE)):
            raise Refused("Cannot delete MicroVM image with running MicroVMs.")
        if any(version.image_arn == arn for version in await self._store.versions_owing()):
            raise Refused("Cannot delete MicroVM image in its current state: a version is being built.")
        versions = await self._store.versions(arn, after=None, limit=1000)
        await self._store.delete_image(arn)
        for folder in (version.folder for version in versions):
            if folder is not None:
                await threads.finish(remove_tree, self._host.layout.image(folder))

    async def down(self) -> int:
        """Raises GuestError when a microVM did not end in time; then nothing was stopped."""
        vms = await self._store.all_microvms(NODE)
        for vm in vms:
            try:
                await self._store.ask(vm.id, Ask.TERMINATE)
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
