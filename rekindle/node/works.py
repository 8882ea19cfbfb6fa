"""The works of one microVM with all that can go wrong in them: each ends in a fact in the row, or is tried again.

What a failure costs: a start ends the VM, a resume leaves it asleep, a suspend lets it go on or falls back to the last
sleep, and a stop goes through whatever fails beside it. The cause is in the VM's story, its sentence in the row.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from rekindle.core.errors import AppEnded, DiskFull, HookFailed, MachineError, NoCapacity, RekindleError, Stale
from rekindle.core.lifecycle import Fact, Work
from rekindle.core.microvm import Event, MicroVM
from rekindle.driver.base import Handle
from rekindle.guest.client import HookCall, RelayGone
from rekindle.node import hooks, perform, room, sleep
from rekindle.node.machine import Baked
from rekindle.node.perform import Done, Hands
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
INTERNAL = "Internal service error."
SUSPEND_FAILED = "The last suspend failed; the MicroVM goes on."
RESUME_FAILED = "The last resume failed; the MicroVM is still suspended."
#: To sleep or to go on, each as long as guest and VMM may take; then a VM that does neither is given up.
TRIES = 3
FELL_BACK = "The VMM ended; the MicroVM is back at its last suspended state."


class Neither(MachineError):
    """A VM could neither be put to sleep nor go on, and its process is there: the same work once more."""


class Works:
    """For one keeper. Raises RelayGone, DiskFull, NotCleared, Neither, Stale and what no work expects: the row is as it
    was."""

    def __init__(self, at: Hands, store: Store, baked: Callable[[MicroVM], Awaitable[Baked]]) -> None:
        self._at = at
        self._store = store
        self._baked_of = baked
        self._in_vain = 0  #: tries in a row in which it neither slept nor went on
        self._unsure = True  #: an earlier work may have been cut off, by an earlier service too

    async def do(self, work: Work, vm: MicroVM) -> None:
        doing = {Work.START: self._start, Work.RESUME: self._resume, Work.SUSPEND: self._suspend, Work.STOP: self._stop}
        if work is Work.SUSPEND and self._unsure:
            await self._at.relay.disconnect(vm.id)  # a guest that was asked to freeze has ended its session perhaps
        self._unsure = True
        await doing[work](vm)
        self._unsure = False
        self._in_vain = 0

    async def _start(self, vm: MicroVM) -> None:
        try:
            done = await perform.start(self._at, vm, await self._baked_of(vm))
        except RelayGone:
            raise
        except HookFailed as err:
            await self.lost(vm, err.message)
        except Exception as err:
            LOG.exception("%s: start failed", vm.id)
            await self.lost(vm, INTERNAL, said(err))
        else:
            await self._running(vm, done)

    async def _resume(self, vm: MicroVM) -> None:
        try:
            done = await perform.resume(self._at, vm, await self._baked_of(vm))
        except RelayGone:
            raise
        except Exception as err:
            LOG.exception("%s: resume failed", vm.id)
            await self._asleep_again(vm, err)
        else:
            await self._running(vm, done)

    async def _asleep_again(self, vm: MicroVM, err: Exception) -> None:
        """The resume failed and the snapshot is whole. What its app did wrong, or a full disk, is the row's reason."""
        await self.tell(vm, "why the resume failed", said(err))
        await self._at.relay.put_state(vm.id, "gone")  # answers 502 to the requests that wait
        await self._at.relay.put_state(vm.id, "suspended")
        reason = err.message if isinstance(err, HookFailed | NoCapacity) else RESUME_FAILED
        slept_at_ms = vm.suspended_at_ms or self._at.clock()
        await self._store.report(vm, Fact.RESUME_FAILED, suspended_at_ms=slept_at_ms, state_reason=reason)

    async def _running(self, vm: MicroVM, done: Done) -> None:
        try:
            await self._store.report(vm, done.fact, **done.changes)
        except Stale:
            handle = await self._at.host.driver.adopt(done.changes["handle"])
            if handle is not None:
                await self._at.host.driver.kill(handle)  # terminated meanwhile: STOP finds nothing left
            raise
        await self._at.relay.put_state(vm.id, "running")

    async def _suspend(self, vm: MicroVM) -> None:
        handle = await self.adopted(vm)
        baked = await self._baked_of(vm)
        try:
            done = await perform.suspend(self._at, vm, handle, baked)
        except (RelayGone, DiskFull, perform.NotCleared):
            raise
        except HookFailed as err:
            may_go_on = self._at.host.config.hooks.failed_suspend == "keep_running"
            if may_go_on and handle is not None and not isinstance(err, AppEnded):
                await self._room_again(vm, handle, baked)
                await self._goes_on(vm, err.message)
            else:
                await self.lost(vm, err.message)
        except perform.ProcessGone as err:
            await self.fell(vm, err.message)
        except Exception as err:
            LOG.exception("%s: suspend failed", vm.id)
            await self._awake_again(vm, handle, baked, err)
        else:
            await self._store.report(vm, done.fact, **done.changes)
            await self._at.relay.put_state(vm.id, "suspended")

    async def tidy(self, vm: MicroVM) -> None:
        """Nothing depends on it: what cannot be tidied now is tidied after the next sleep."""
        try:
            await sleep.tidy(self._at.host.layout, self._at.host, vm, await self._baked_of(vm))
        except (RekindleError, OSError) as err:
            LOG.exception("%s: its snapshot could not be tidied", vm.id)
            await self.tell(vm, "why its older disk layers stay", said(err))

    async def _awake_again(self, vm: MicroVM, handle: Handle | None, baked: Baked, err: Exception) -> None:
        """The snapshot failed; the VM is still there and goes on, or it is not."""
        try:
            if handle is None:
                raise MachineError(f"{vm.id} has no process to go on with")
            await self._room_again(vm, handle, baked)
            await perform.wake_again(self._at, vm, handle, baked)
        except (RelayGone, DiskFull):
            raise  # paused and whole: the suspend is repeated
        except AppEnded as end:
            await self.lost(vm, end.message, said(err))
            return
        except HookFailed as second:  # it runs and is whole; how its app took it is told
            await self.tell(vm, "why the suspend failed", said(err))
            await self._goes_on(vm, second.message)
            return
        except Exception as second:
            LOG.exception("%s: and could not go on", vm.id)
            await self._neither(vm, handle, f"{said(err)}; then {said(second)}")
            return
        await self.tell(vm, "why the suspend failed", said(err))
        await self._goes_on(vm, SUSPEND_FAILED)

    async def _neither(self, vm: MicroVM, handle: Handle | None, why: str) -> None:
        """It neither sleeps nor goes on. While its process is there it may be slow on a busy machine, and is whole."""
        self._in_vain += 1
        if handle is not None and self._in_vain < TRIES:
            raise Neither(why)
        await self.fell(vm, why)

    async def _room_again(self, vm: MicroVM, handle: Handle, baked: Baked) -> None:
        """A suspend gives up the room that the guest's last writes need; the VM runs on, and must sleep some day."""
        if none := await room.try_again(handle.home, baked.memory_mib):
            await self.tell(vm, "it has no room to sleep", none)

    async def _goes_on(self, vm: MicroVM, reason: str) -> None:
        """The suspend failed and the VM runs."""
        await self._store.report(vm, Fact.SUSPEND_FAILED, state_reason=reason)
        await self._at.relay.put_state(vm.id, "running")

    async def _stop(self, vm: MicroVM) -> None:
        handle = await self.adopted(vm)
        farewell = None if handle is None else await self._farewell(vm)
        done = await perform.stop(self._at, vm, handle, farewell)
        if done.told is not None:
            await self.tell(vm, "terminate hook", done.told)
        await self._store.report(vm, done.fact, **done.changes)

    async def _farewell(self, vm: MicroVM) -> HookCall | None:
        """The terminate hook; none for an app that has ended (spec §1.7), and none when the image is not to be read:
        the VM must end all the same."""
        if hooks.tells_app_end(vm.state_reason):
            return None
        try:
            baked = await self._baked_of(vm)
        except (RekindleError, OSError) as err:
            LOG.error("%s ends without its terminate hook: %s", vm.id, said(err))
            return None
        return hooks.runtime_call(baked.hooks, "terminate", vm)

    async def lost(self, vm: MicroVM, reason: str, cause: str | None = None) -> None:
        """Nothing to go on with: the VM terminates with `reason`; the cause is in its story."""
        if cause is not None:
            await self.tell(vm, "why it was lost", cause)
        await self._store.report(vm, Fact.LOST, state_reason=reason)

    async def fell(self, vm: MicroVM, why: str) -> None:
        """The process is gone: back to the last sleep when there is one, else lost."""
        handle = await self.adopted(vm)
        if handle is not None:
            await self._at.host.driver.kill(handle)
        if vm.snapshot is None:
            await self.lost(vm, INTERNAL, why)
            return
        await self.tell(vm, "why it fell back", why)
        await self._store.report(
            vm, Fact.FELL_BACK, suspended_at_ms=self._at.clock(), handle=None, state_reason=FELL_BACK
        )
        await self._at.relay.put_state(vm.id, "suspended")

    async def adopted(self, vm: MicroVM) -> Handle | None:
        return await self._at.host.driver.adopt(vm.handle) if vm.handle is not None else None

    async def tell(self, vm: MicroVM, what: str, why: str | None = None) -> None:
        await self._store.add_event(Event(subject=vm.id, at_ms=self._at.clock(), what=what, why=why))


def said(err: Exception) -> str:
    """For the VM's story: a typed error's sentence, or what kind of fault it was."""
    return err.message if isinstance(err, RekindleError) else f"{type(err).__name__}: {err}"
