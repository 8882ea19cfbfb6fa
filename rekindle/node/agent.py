"""The node agent: owns every microVM and build of this machine and the relay beside it.

It answers one question again and again: which rows owe work? A keeper per microVM does it,
builders build.
It is the `Engine` of the API: `admit` opens an endpoint before the answer to RunMicrovm is out, `kick` makes it look.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from rekindle.core.errors import NoCapacity, NotFound, RekindleError, Stale
from rekindle.core.lifecycle import Ask, Phase
from rekindle.core.microvm import REQUEST, Event, MicroVM
from rekindle.driver import manifest
from rekindle.guest.client import RelayGone
from rekindle.image import toolbox
from rekindle.node import builds, confirm, connectors, room, sweep
from rekindle.node.builds import Workshop
from rekindle.node.keeper import Keeper
from rekindle.node.machine import Baked, route_of
from rekindle.node.perform import Hands
from rekindle.node.removals import Removals
from rekindle.rest import rest
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
NODE = "local"
PORT_TRIES = 20  #: each leaves out twice as many: another service beside us may hold hundreds in a row
FORGET_EVERY_S = 60.0
RELAY_AGAIN_S = 5.0
LOOK_AGAIN_S = 1.0
REFUSED = "a request waits and cannot be served"


class Agent:
    """`run` serves until cancelled; VMs and the relay stay when it ends."""

    def __init__(self, at: Hands, store: Store, shop: Workshop, relay_config: Mapping[str, object]) -> None:
        self._at = at
        self._store = store
        self._shop = shop
        self._relay_config = relay_config
        self._keepers: dict[str, Keeper] = {}
        self._admitting: set[str] = set()
        self._waking: set[str] = set()
        self._told: set[str] = set()  #: whose story says that a request could not wake them
        self._kicked = asyncio.Event()
        self._changed = asyncio.Event()
        self._leaving = False
        self._baked: dict[str, Baked] = {}  # by image folder: a name may be used again, a folder never
        self._building: set[tuple[str, str]] = set()
        self._removals = Removals(at.host.layout, store, lambda folder: self._baked.pop(folder, None))
        self._own: asyncio.TaskGroup | None = None
        self._builders = asyncio.Semaphore(at.host.config.build.concurrent)

    # -- what the API asks ---------------------------------------------------------------------------------------------

    async def admit(self, vm: MicroVM) -> MicroVM:
        """Give a new VM room to sleep, open its endpoint (requests are held there) and start it; nothing to do for one
        that is admitted.

        Raises NoCapacity; the VM terminates then. Without a relay the VM waits for it.
        """
        if vm.id in self._keepers or vm.id in self._admitting:
            return vm
        self._admitting.add(vm.id)
        try:
            await self._room_to_sleep(vm)
            vm = await self._open_endpoint(vm)
            self._keep(vm.id, routed=True)
        except RelayGone as err:
            LOG.warning("%s: %s", vm.id, err.message)
        except RekindleError as err:  # its caller learns of no VM, so there must be none
            await self._store.ask(vm.id, Ask.TERMINATE, why=err.message)
            raise
        finally:
            self._admitting.discard(vm.id)
            self._keep(vm.id)  # whatever happened: its row owes work
        return vm

    def kick(self) -> None:
        """Rows owe work: look again."""
        self._kicked.set()

    async def empty(self) -> None:
        """Return when no microVM of this machine is left."""
        while self._keepers:
            self._changed.clear()
            await self._changed.wait()

    async def removed(self, arn: str, version: str | None = None) -> None:
        """Return when nothing of an image that is DELETING is left, or of its one version."""
        await self._removals.gone(arn, version)

    def leave_relay(self) -> None:
        """The relay is about to be stopped on purpose: do not start another."""
        self._leaving = True

    async def _room_to_sleep(self, vm: MicroVM) -> None:
        try:
            baked = await self._baked_of(vm)
        except RekindleError as err:
            LOG.info("%s: %s", vm.id, err.message)  # its start will end it, and say so in its story
        else:
            await room.set_aside(self._at.host.layout.home(vm.id), baked.memory_mib)

    async def _open_endpoint(self, vm: MicroVM) -> MicroVM:
        ingress = self._at.host.config.ingress
        for tried in range(PORT_TRIES):
            try:
                await self._at.relay.put_route(vm.id, route_of(self._at.host, vm, "held"))
            except NoCapacity as taken:
                LOG.info("%s", taken.message)
                ports = range(ingress.first_port, ingress.last_port + 1)
                vm = await self._store.change_port(vm, ports, over=2**tried - 1)
            else:
                return vm
        raise NoCapacity(f"No free endpoint port between {ingress.first_port} and {ingress.last_port} for {vm.id}")

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """The relay beside us, and what the last boot or an earlier life left half done swept away. Before `run`, and
        before the API."""
        await sweep.after_boot(self._at.host.layout, self._store, NODE)
        await self._at.relay.ensure(self._relay_config)
        await sweep.sweep(self._at, self._store, NODE)
        await self._removals.sweep_logs()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as own:
            self._own = own
            for vm in await self._store.all_microvms(NODE):
                self._keep(vm.id)
            own.create_task(self._listen_to_relay(), name="relay events")
            own.create_task(self._forget_old(), name="forget terminated")
            await self._look_for_ever()

    async def _look_for_ever(self) -> None:
        while True:
            self._kicked.clear()
            try:
                await self._look()
            except Exception:
                LOG.exception("the rows could not be looked at; tried again")
                await rest(LOOK_AGAIN_S)
            else:
                await self._kicked.wait()

    async def _look(self) -> None:
        for vm in await self._store.owing(NODE):
            if vm.id not in self._admitting:
                self._keep(vm.id).poke()
        await connectors.settle(self._store)
        for version in await self._store.versions_owing():
            self._build(version.image_arn, version.version)
        for version in await self._removals.taken():
            self._spawn(self._removals.remove(version), f"removal of {version.image_arn} {version.version}")

    def _keep(self, vm_id: str, *, routed: bool = False) -> Keeper:
        keeper = self._keepers.get(vm_id)
        if keeper is None:
            keeper = self._keepers[vm_id] = Keeper(vm_id, self._at, self._store, self._baked_of, routed=routed)
            self._spawn(self._keeping(keeper), f"keeper {vm_id}")
        return keeper

    async def _keeping(self, keeper: Keeper) -> None:
        try:
            await keeper.run()
        finally:
            self._keepers.pop(keeper.vm_id, None)
            self._told.discard(keeper.vm_id)
            self._changed.set()

    def _spawn(self, work: Any, name: str) -> None:
        if self._own is None:
            raise RuntimeError("the agent does not run")
        self._own.create_task(work, name=name)

    def _build(self, image_arn: str, version: str) -> None:
        key = (image_arn, version)
        if key not in self._building:
            self._building.add(key)
            self._spawn(self._building_one(key), f"build {image_arn} {version}")

    async def _building_one(self, key: tuple[str, str]) -> None:
        try:
            async with self._builders:
                version = await self._store.version(*key)
                if version is not None:
                    await builds.make(self._shop, version)
        except Stale as err:
            LOG.info("build of %s %s ends: %s", *key, err)
        except Exception:
            LOG.exception("build of %s %s failed", *key)
            await self._broken(key)
        finally:
            self._building.discard(key)

    async def _broken(self, key: tuple[str, str]) -> None:
        """A build ended by a fault of ours. Not even that it cannot be written down ends the service."""
        try:
            await builds.broken(self._shop, *key)
        except Exception:
            LOG.exception("the end of the build of %s %s could not be written down", *key)

    # -- the relay -----------------------------------------------------------------------------------------------------

    async def _listen_to_relay(self) -> None:
        """Follow the relay's events; when it is gone, start another and give it everything again."""
        while True:
            try:
                async for event in self._at.relay.events():
                    self._heard(event)
            except RelayGone as err:
                if self._leaving:
                    return
                LOG.warning("%s; taking up the relay again", err.message)
            await self._relay_again()
            for keeper in list(self._keepers.values()):
                keeper.take_up()

    async def _relay_again(self) -> None:
        """Return when there is a relay with our configuration. VMs run on meanwhile, so this never gives up."""
        while True:
            try:
                await self._at.relay.ensure(self._relay_config)
            except Exception:
                LOG.exception("no relay yet")
                await rest(RELAY_AGAIN_S)
            else:
                return

    def _heard(self, event: Mapping[str, Any]) -> None:
        """One event; nothing is waited for here. What is unknown, or under way already, is dropped: the relay repeats
        what matters.
        """
        kind, vm_id = event.get("type"), str(event.get("vm", ""))
        if kind == "wake" and vm_id not in self._waking:
            self._waking.add(vm_id)
            self._spawn(self._waking_one(vm_id), f"wake {vm_id}")
        elif kind == "channel_lost" and vm_id in self._keepers:
            self._keepers[vm_id].take_up()

    async def _waking_one(self, vm_id: str) -> None:
        """What goes wrong with one VM ends nothing else."""
        try:
            await self._wake(vm_id)
        except Exception:
            LOG.exception("%s could not be woken", vm_id)
        finally:
            self._waking.discard(vm_id)

    async def _wake(self, vm_id: str) -> None:
        """A request waits at the endpoint of a suspended VM."""
        vm = await self._store.microvm(vm_id)
        if vm is None or vm.phase is not Phase.SUSPENDED or vm.idle is None or not vm.idle.auto_resume:
            return
        try:
            await self._store.ask(
                vm_id, Ask.RESUME, why="a request waits", by=REQUEST, room=self._at.host.config.memory.room()
            )
        except NoCapacity as err:
            await self._refused(vm_id, err.message)
        except RekindleError as err:
            LOG.info("%s: %s", vm_id, err.message)
        else:
            self._told.discard(vm_id)
        self._keep(vm_id).poke()

    async def _refused(self, vm_id: str, why: str) -> None:
        """The relay asks every second while the request waits: its story has that once, until the VM is woken."""
        LOG.info("%s: %s", vm_id, why)
        if vm_id not in self._told:
            self._told.add(vm_id)
            event = Event(subject=vm_id, at_ms=self._at.clock(), what=REFUSED, why=why)
            await self._store.add_event(event)

    # -- images --------------------------------------------------------------------------------------------------------

    async def _baked_of(self, vm: MicroVM) -> Baked:
        """The folder, toolbox and hooks of the VM's image version. Raises NotFound."""
        version = await self._store.version(vm.image_arn, vm.image_version)
        if version is None or version.folder is None:
            raise NotFound(f"Image {vm.image_arn} version {vm.image_version} of {vm.id} is gone")
        if version.folder not in self._baked:
            bound = manifest.read(self._at.host.layout.image(version.folder) / "snapshot").binding
            self._baked[version.folder] = Baked(
                folder=version.folder,
                tools=toolbox.by_digest(self._at.host.config.tools_dir, bound.tools),
                hooks=version.hooks,
                memory_mib=bound.memory_mib,
                vcpus=bound.vcpus,
                confirms=confirms(self._at, version.folder),
            )
        return self._baked[version.folder]

    # -- what is over --------------------------------------------------------------------------------------------------

    async def _forget_old(self) -> None:
        """TERMINATED rows are answered for `terminated_kept_s`, then they go with their stories and last logs."""
        while True:
            before_ms = self._at.clock() - self._at.host.config.terminated_kept_s * 1000
            try:
                for vm_id in await self._store.forget_terminated(before_ms):
                    self._at.host.layout.app_log(vm_id).unlink(missing_ok=True)
                await self._store.forget_ended(before_ms)
            except Exception:
                LOG.exception("ended microVMs could not be forgotten; tried again")
            await rest(FORGET_EVERY_S)


def confirms(at: Hands, folder: str) -> bool:
    """Whether the agent in a baked snapshot confirms every step of a thaw."""
    image = json.loads((at.host.layout.image(folder) / "image.json").read_bytes())
    return confirm.level_of(image) >= confirm.ALL
