"""The four works a microVM's phase can owe: start, suspend, resume, stop.

Each is performed again from the top after a crash at any await, so each step may be repeated: a snapshot goes to a
folder of its own revision, `restore` ends an earlier process of the same VM, and a row moves only when the work is
done. Requests at the endpoint are let through only after the row says RUNNING: nobody builds on a state that could be
redone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle import threads
from rekindle.clock import Clock
from rekindle.core.errors import GuestError, HookFailed, MachineError
from rekindle.core.lifecycle import Fact
from rekindle.core.microvm import MicroVM
from rekindle.driver import leftovers, reserve
from rekindle.driver.base import Handle, MachineSpec
from rekindle.guest.client import HookCall, NoRoute, RelayGone
from rekindle.node import confirm, hooks, room
from rekindle.node.machine import Baked, Host, about, hostname_of, machine_id_of, spec_of
from rekindle.node.relay import Relay

LOG = logging.getLogger(__name__)
SYNC_S = 10.0
LAST_WORDS_S = 3.0
SEED_BYTES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Hands:
    """What works are done with; the same for all VMs of a service."""

    host: Host
    relay: Relay
    clock: Clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A finished work: the fact, and what changes in the row with it."""

    fact: Fact
    changes: Mapping[str, Any]
    told: str | None = None  #: for the story: how a hook went on which nothing depends


async def start(at: Hands, vm: MicroVM, baked: Baked) -> Done:
    """From the image's snapshot to a served VM. Raises MachineError, GuestError, NoCapacity."""
    home = at.host.layout.home(vm.id)
    if (home / "run").exists():
        await at.relay.disconnect(vm.id)  # an earlier attempt was cut off: its channel may still be open
    await room.set_aside(home, baked.memory_mib)
    spec = spec_of(at.host, vm, baked)
    handle = await _thawed(
        at, vm, spec, spec.image / "snapshot", hooks.runtime_call(baked.hooks, "run", vm), baked, first=True
    )
    return Done(fact=Fact.STARTED, changes={"handle": handle.saved()})


async def resume(at: Hands, vm: MicroVM, baked: Baked) -> Done:
    """From the VM's own snapshot to a served VM. Raises MachineError, GuestError, NoCapacity; the snapshot stays."""
    if vm.snapshot is None:
        raise MachineError(f"{vm.id} has no snapshot to resume from")
    spec = spec_of(at.host, vm, baked)
    call = hooks.runtime_call(baked.hooks, "resume", vm)
    await room.set_aside(spec.home, baked.memory_mib)
    await at.relay.disconnect(vm.id)  # the channel of a VMM that died may not have been noticed yet
    handle = await _thawed(at, vm, spec, at.host.layout.sleep(vm.id, vm.snapshot), call, baked, first=False)
    return Done(fact=Fact.RESUMED, changes={"handle": handle.saved(), "suspended_at_ms": None, "state_reason": None})


async def suspend(at: Hands, vm: MicroVM, handle: Handle | None, baked: Baked) -> Done:
    """From a running VM to a snapshot and no process. `handle` is None when the process is gone already.

    Raises HookFailed when the app's suspend hook failed (the VM was not touched), MachineError when the snapshot could
    not be written (the VM is paused and whole: see `wake_again`), NotCleared when all is done but for what is left of
    the VMM: the same work once more does that.
    """
    into = at.host.layout.sleep(vm.id, vm.revision)
    if not (into / "manifest.json").exists():
        if handle is None:
            raise ProcessGone(f"The VMM of {vm.id} died before its snapshot was whole")
        await threads.finish(reserve.open_up, handle.home)  # what the guest has not yet written needs room as well
        await _freeze(at, vm, handle, hooks.runtime_call(baked.hooks, "suspend", vm))
        await at.host.driver.pause(handle)
        await at.host.driver.snapshot(handle, into)
    if handle is not None:
        try:
            await at.host.driver.kill(handle)
        except Exception as err:
            raise NotCleared(f"{vm.id} sleeps, and its VMM could not be cleared away: {err}") from err
    changes = {"snapshot": vm.revision, "suspended_at_ms": at.clock(), "handle": None}
    return Done(fact=Fact.SUSPENDED, changes=changes)


async def wake_again(at: Hands, vm: MicroVM, handle: Handle, baked: Baked) -> None:
    """After a snapshot that could not be written: let the very same machine go on. Raises MachineError, GuestError."""
    await at.relay.connect(vm.id, timeout_s=SYNC_S)
    await at.host.driver.unpause(handle)
    await _thaw(at, vm, hooks.runtime_call(baked.hooks, "resume", vm), baked, first=False)


async def stop(at: Hands, vm: MicroVM, handle: Handle | None, farewell: HookCall | None) -> Done:
    """From any phase to nothing left: no process, route, socket or file of the VM."""
    told = await _last_words(at, vm, farewell) if handle is not None else None
    await at.relay.drop_route(vm.id)
    if handle is not None:
        await at.host.driver.kill(handle)
    await leftovers.end(at.host.layout.home(vm.id))  # a start that was cut off before its row knew of its process
    await threads.finish(remove_tree, at.host.layout.home(vm.id))
    return Done(fact=Fact.STOPPED, changes={"terminated_at_ms": at.clock(), "handle": None}, told=told)


class ProcessGone(MachineError):
    """The VMM ended while its work was not done."""


class NotCleared(MachineError):
    """The snapshot is whole and what ran is not gone: the VM must not go on, nor fall back to an older snapshot."""


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; one that is not there is fine."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            raise


async def _thawed(
    at: Hands, vm: MicroVM, spec: MachineSpec, snapshot: Path, hook: HookCall | None, baked: Baked, *, first: bool
) -> Handle:
    """Restore, connect, run, thaw; on any failure nothing of it stays."""
    handle = await at.host.driver.restore(spec, snapshot)
    try:
        await at.relay.connect(vm.id, timeout_s=SYNC_S)
        await at.host.driver.unpause(handle)
        await _thaw(at, vm, hook, baked, first=first)
    except BaseException as err:
        try:
            if first and isinstance(err, HookFailed):  # the reason of its end sends people to the app's output
                await _keep_output(at, vm)
        finally:
            await asyncio.shield(at.host.driver.kill(handle))
        raise
    return handle


async def _thaw(at: Hands, vm: MicroVM, hook: HookCall | None, baked: Baked, *, first: bool) -> None:
    """Make the guest fit to be served, and refuse to serve it when it does not confirm."""
    asked = confirm.Asked(
        hostname=hostname_of(vm),
        machine_id=machine_id_of(vm),
        now_ns=at.clock() * 1_000_000,
        seed=os.urandom(SEED_BYTES) if at.host.config.machine.seed_after_restore else None,
    )
    guest = at.relay.guest(vm.id)
    thawed = await confirm.thaw(
        guest, vm.id, asked, first=first, hook=hook, about=about(at.host, vm), all_of_it=baked.confirms
    )
    await hooks.check(guest, vm.id, hook, thawed.hook)


async def _freeze(at: Hands, vm: MicroVM, handle: Handle, hook: HookCall | None) -> None:
    """Hold new requests, let the app do its suspend hook, and close the channel from the guest's side."""
    await at.relay.put_state(vm.id, "held")
    await at.host.driver.unpause(handle)  # a no-op, but for a work that is repeated after its pause
    await at.relay.connect(vm.id, timeout_s=SYNC_S)
    guest = at.relay.guest(vm.id)
    await hooks.check(guest, vm.id, hook, await guest.freeze(hook, trim=False))
    await at.relay.disconnect(vm.id)


async def _last_words(at: Hands, vm: MicroVM, farewell: HookCall | None) -> str | None:
    """The terminate hook, then the last of the app's output: best effort, as on AWS (spec §4.4). How the hook went.

    A VM that ends gets no new route: what a stop that was cut off had dropped, or a relay that died has lost, is gone.
    """
    told = None
    if farewell is not None:
        try:
            async with asyncio.timeout(farewell.timeout_s + LAST_WORDS_S):
                told = hooks.farewell(await at.relay.guest(vm.id).hook(farewell))
        except (GuestError, NoRoute, TimeoutError) as err:
            told = f"The guest gave no answer. {err}".strip()
    await _keep_output(at, vm)
    return told


async def _keep_output(at: Hands, vm: MicroVM) -> None:
    """Write down what the app wrote last, while there is somebody to ask."""
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            output, _ = await at.relay.guest(vm.id).logs(0)
            at.host.layout.app_log(vm.id).write_bytes(output)
    except (
        GuestError,
        RelayGone,
        TimeoutError,
        OSError,
    ) as err:  # a full disk keeps no VM alive that lies on it
        LOG.info("%s: its last words are lost: %s", vm.id, err)
