"""From a root disk to a snapshot: boot, start the app, wait for /ready, freeze, snapshot; then /validate on a clone.

The machine that is baked is like any other to driver and relay; it has no endpoint and is gone when `bake` returns,
however it returns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rekindle import threads
from rekindle.clock import Clock
from rekindle.core import connectors
from rekindle.core.errors import BuildFailed, GuestError, MachineError, RekindleError
from rekindle.core.image import Version
from rekindle.driver.base import Handle, Kernel, MachineSpec, Snapshot
from rekindle.guest.client import App, Guest, RelayGone
from rekindle.image.build import ImageConfig
from rekindle.image.toolbox import Toolbox
from rekindle.node import confirm, hooks, room
from rekindle.node.machine import Host, disk_bytes
from rekindle.node.perform import SEED_BYTES, remove_tree
from rekindle.node.relay import Relay
from rekindle.rest import rest

T = TypeVar("T")
LOG = logging.getLogger(__name__)
BOOT_S = 180.0
CLONE_S = 30.0
LISTEN_S = 20.0
WARM_UP_CALLS = 12
END_S = 1.0  #: from a failure of the guest's connection to the end of its VMM, when that is why
REHEARSALS = 3  #: a launch of the example is 9 % faster than after none (2 cores, tcg, 25 rounds of each in turn)


@dataclass(frozen=True, kw_only=True, slots=True)
class Oven:
    """What baking is done with."""

    host: Host
    relay: Relay
    toolbox: Toolbox
    initrd: Path
    clock: Clock


async def bake(oven: Oven, version: Version, config: ImageConfig, folder: Path, log: Callable[[str], None]) -> Snapshot:
    """Make `<folder>/snapshot` from `<folder>/root.erofs`. Raises BuildFailed with the spec's sentence."""
    vm_id = f"bake-{uuid.uuid4()}"
    spec = _spec(oven, version, vm_id, folder, boot=True)
    async with _Machine(oven, spec, version, log) as machine:
        log("Booting")
        guest = await machine.boot()
        log(f"Starting {' '.join(config.argv)}")
        await _start_app(guest, version, config)
        await _until_ready(guest, version, log)
        for _ in range(REHEARSALS):
            await machine.rehearse()
        log("Freezing")
        return await machine.freeze(folder / "snapshot")


async def validate(oven: Oven, version: Version, folder: Path, log: Callable[[str], None]) -> None:
    """Run one throw-away clone of the new snapshot and ask its /validate hook. Raises BuildFailed."""
    hook = version.hooks.get("validate") if version.hooks else None
    if hook is None:
        return
    log("Validating on a clone of the snapshot")
    spec = _spec(oven, version, f"validate-{uuid.uuid4()}", folder, boot=False)
    async with _Machine(oven, spec, version, log) as machine:
        guest = await machine.clone(folder / "snapshot")
        await _unless_over(guest, hooks.poll(guest, version, hook), log, "validated")


class _Machine:
    """One VM for the time of a bake; leaving the block ends it and removes its folder and route.

    When the block fails because the VM has ended or this machine's disk is full, the log says so."""

    def __init__(self, oven: Oven, spec: MachineSpec, version: Version, log: Callable[[str], None]) -> None:
        self._oven = oven
        self._spec = spec
        self._version = version
        self._log = log
        self._handle: Handle | None = None

    async def __aenter__(self) -> _Machine:
        self._spec.home.mkdir(mode=0o700, parents=True)
        try:
            await self._oven.relay.put_route(self._spec.vm_id, self._route())
        except BaseException:
            remove_tree(self._spec.home)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, err: BaseException | None, at: object) -> None:
        try:
            if isinstance(err, MachineError | GuestError) and not isinstance(err, RelayGone):
                self._tell_full_disk()
                await self._tell_end()
        finally:
            await asyncio.shield(self._clear())

    def _tell_full_disk(self) -> None:
        """A guest whose writes find no room stands still, and answers nobody."""
        free_mib = room.free_bytes(self._spec.home) // room.MIB
        if free_mib < room.FREE_BYTES // room.MIB:
            self._log(f"The disk of this machine is full: {free_mib} MiB are free in {self._spec.home.parent}.")

    async def _tell_end(self) -> None:
        """Whether the VM had ended, and how. The end of a process and that of its sockets are not one instant."""
        if self._handle is None:
            return
        try:
            async with asyncio.timeout(END_S):
                end = await self._oven.host.driver.wait(self._handle)
        except TimeoutError:
            return
        self._log(f"The machine had ended: {end.kind.value}. {end.detail}".rstrip())

    async def boot(self) -> Guest:
        """Raises NoCapacity when this machine's disk has no room for the memory of this one."""
        room.to_bake(self._spec.home, self._spec.memory_mib)
        return await self._begin(await self._oven.host.driver.boot(self._spec), BOOT_S)

    async def clone(self, snapshot: Path) -> Guest:
        guest = await self._begin(await self._oven.host.driver.restore(self._spec, snapshot), CLONE_S)
        await self._thaw(guest, "A clone of the snapshot")
        return guest

    async def rehearse(self) -> None:
        """Freeze and thaw the running machine once: what its agent does then for the first time is dear, and what a
        first time leaves behind is in the snapshot."""
        vm_id, relay = self._spec.vm_id, self._oven.relay
        await relay.guest(vm_id).freeze(None, trim=False)
        await relay.disconnect(vm_id)
        await relay.connect(vm_id, timeout_s=CLONE_S, ready=True)
        await self._thaw(relay.guest(vm_id), "The machine")

    async def _thaw(self, guest: Guest, who: str) -> None:
        asked = confirm.Asked(
            hostname="localhost",
            machine_id=uuid.uuid4().hex,
            now_ns=self._oven.clock() * 1_000_000,
            seed=os.urandom(SEED_BYTES),
        )
        await confirm.thaw(guest, who, asked, first=True)

    async def freeze(self, into: Path) -> Snapshot:
        """Trim, close the channel, and write the snapshot of this stop."""
        if self._handle is None:
            raise MachineError(f"{self._spec.vm_id} was never started")
        guest = self._oven.relay.guest(self._spec.vm_id)
        await guest.freeze(None, trim=True)
        await self._oven.relay.disconnect(self._spec.vm_id)
        await self._oven.host.driver.pause(self._handle)
        return await self._oven.host.driver.snapshot(self._handle, into)

    async def _begin(self, handle: Handle, patience_s: float) -> Guest:
        self._handle = handle
        vm_id = self._spec.vm_id
        await self._oven.host.driver.unpause(handle)
        await self._oven.relay.connect(vm_id, timeout_s=patience_s, ready=True)
        return self._oven.relay.guest(vm_id)

    async def _clear(self) -> None:
        """Process and folder go whatever the relay says; without a relay there is no route either."""
        try:
            await self._oven.relay.drop_route(self._spec.vm_id)
        except RelayGone as err:
            LOG.info("%s: %s", self._spec.vm_id, err.message)
        finally:
            if self._handle is not None:
                await self._oven.host.driver.kill(self._handle)
            await threads.finish(remove_tree, self._spec.home)

    def _route(self) -> dict[str, object]:
        run = self._spec.home / "run"
        return {
            "generation": 1,
            "state": "held",
            "endpoint_port": 0,
            "endpoint_host": "",
            "default_port": 8080,
            "auto_resume": False,
            "in": str(run / "in"),
            "out": str(run / "out"),
            "egress": connectors.way_out(self._version.egress, self._oven.host.config.egress.vpc),
            "ingress": False,
        }


def _spec(oven: Oven, version: Version, vm_id: str, folder: Path, *, boot: bool) -> MachineSpec:
    host = oven.host
    kernel = Kernel(vmlinux=oven.toolbox.vmlinux, initrd=oven.initrd) if boot else None
    return MachineSpec(
        vm_id=vm_id,
        home=host.layout.builds / vm_id,
        image=folder,
        tools=oven.toolbox.root,
        memory_mib=version.memory_mib * host.config.memory.peak_factor,
        vcpus=version.vcpus,
        accel=host.accel,
        uid=host.uid_of_bakes(),
        kernel=kernel,
        disk_bytes=disk_bytes(version.memory_mib),
    )


async def _start_app(guest: Guest, version: Version, config: ImageConfig) -> None:
    if not config.argv:
        raise BuildFailed(hooks.APP_FAILED, "The image has neither CMD nor ENTRYPOINT: there is nothing to start.")
    app = App(
        argv=config.argv,
        env=_environment(version, config),
        workdir=config.workdir or "/",
        user=config.user,
        all_capabilities=version.os_capabilities_all,
    )
    try:
        await guest.start(app)
    except GuestError as err:
        raise BuildFailed(hooks.APP_FAILED, f"The container could not be started. {err.message}") from err


def _environment(version: Version, config: ImageConfig) -> dict[str, str]:
    """Image ENV, then `environmentVariables`, then the platform's own (spec §6.3)."""
    name = version.image_arn.rpartition(":")[2]
    own = {
        "AWS_REGION": version.region,
        "AWS_LAMBDA_MICROVM_IMAGE_NAME": name,
        "AWS_LAMBDA_MICROVM_IMAGE_ARN": version.image_arn,
        "AWS_LAMBDA_MICROVM_IMAGE_VERSION": version.version,
    }
    return {**config.env, **version.environment, **own}


async def _until_ready(guest: Guest, version: Version, log: Callable[[str], None]) -> None:
    """Wait for /ready; without that hook for the app to listen, at most LISTEN_S (spec §7: no promise then)."""
    hook = version.hooks.get("ready") if version.hooks else None
    if hook is not None:
        log("Waiting for /ready")
        waiting = hooks.poll(guest, version, hook)
    else:
        log("Waiting for a listener (no /ready hook)")
        waiting = _until_listening(guest)
    await _unless_over(guest, waiting, log, "ready")
    for _ in range(WARM_UP_CALLS):
        await guest.status()


async def _unless_over(guest: Guest, waiting: Coroutine[Any, Any, None], log: Callable[[str], None], what: str) -> None:
    """Do `waiting`. Raises what it raises, and BuildFailed when the app ends first; its output is in the log then."""
    exit_code = await _unless_app_ends(guest, waiting)
    if exit_code is not None:
        output, _ = await guest.logs(0)
        log(output.decode(errors="replace"))
        raise BuildFailed(hooks.APP_FAILED, f"The container exited with code {exit_code} before it was {what}.")


async def _unless_app_ends(guest: Guest, waiting: Coroutine[Any, Any, None]) -> int | None:
    """Do `waiting`; give it up when the app ends first and return the app's exit code. Raises what `waiting` raises."""
    async with asyncio.TaskGroup() as own:
        end = own.create_task(_outcome(_exit_code(guest)), name="app of a bake")
        wait = own.create_task(_outcome(waiting), name="ready")
        await asyncio.wait((end, wait), return_when=asyncio.FIRST_COMPLETED)
        if not wait.done() and isinstance(end.result(), RekindleError):
            await asyncio.wait((wait,))  # nobody can say whether the app ended: `waiting` will
        ended = None if wait.done() else end.result()
        failure = wait.result() if wait.done() else None
        end.cancel()
        wait.cancel()
    if isinstance(failure, RekindleError):
        raise failure
    return ended if isinstance(ended, int) else None


async def _outcome(work: Coroutine[Any, Any, T]) -> T | RekindleError:
    """The result, or the typed error as a value: a TaskGroup would wrap a raised one."""
    try:
        return await work
    except RekindleError as err:
        return err


async def _exit_code(guest: Guest) -> int:
    return (await guest.wait()).exit_code


async def _until_listening(guest: Guest) -> None:
    try:
        async with asyncio.timeout(LISTEN_S):
            while not (await guest.status())["listening"]:
                await rest(hooks.ASK_AGAIN_S)  # nothing in the guest could tell us earlier
    except TimeoutError:
        LOG.info("nothing listens after %s s; the snapshot is taken all the same", LISTEN_S)
