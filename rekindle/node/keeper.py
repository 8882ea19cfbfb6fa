"""One keeper a microVM: does what its phase owes, then watches what may happen to it.

Works of one VM are serialised here; different VMs never wait for each other. The keeper holds no state that matters: a
new one after a restart reads the row and goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rekindle.core.errors import GuestError, HookFailed, MachineError, NotFound, RekindleError, Stale
from rekindle.core.lifecycle import OWES, Ask, Fact, Phase, Work
from rekindle.core.microvm import Event, MicroVM
from rekindle.driver.base import Exit, ExitKind, Handle
from rekindle.guest.client import AppEnd, RelayGone
from rekindle.node import hooks, perform, sleep
from rekindle.node.machine import Baked, route_of
from rekindle.node.perform import Done, Hands
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
LIFETIME_OVER = "MicroVM exceeded maximum lifetime."
SLEEP_OVER = "MicroVM exceeded maximum suspended duration."
INTERNAL = "Internal service error."
SUSPEND_FAILED = "The last suspend failed; the MicroVM goes on."
RESUME_FAILED = "The last resume failed; the MicroVM is still suspended."
FELL_BACK = "The VMM ended; the MicroVM is back at its last suspended state."


@dataclass(frozen=True, slots=True)
class Poked:
    """Look at the row again."""


News = Poked | Exit | AppEnd


class Keeper:
    """`run` returns when the VM is TERMINATED. `poke` makes it look at the row again at once."""

    def __init__(self, vm_id: str, at: Hands, store: Store, baked: Callable[[MicroVM], Awaitable[Baked]]) -> None:
        self.vm_id = vm_id
        self._at = at
        self._store = store
        self._baked_of = baked
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._active_at_ms = at.clock()  # idle time is not counted from before this service watched
        self._app_ended = False

    def poke(self) -> None:
        self._news.put_nowait(Poked())

    async def run(self) -> None:
        while True:
            vm = await self._row()
            if vm.phase is Phase.TERMINATED:
                return
            work = OWES.get(vm.phase)
            try:
                if work is not None:
                    await self._perform(work, vm)
                else:
                    await self._watch(vm)
            except Stale as late:
                LOG.info("dropped a late fact: %s", late)
            except RelayGone as err:
                LOG.warning("%s waits for the relay: %s", vm.id, err.message)
                await self._news.get()  # `take_up` pokes when the relay is back; every work can be repeated

    async def _row(self) -> MicroVM:
        vm = await self._store.microvm(self.vm_id)
        if vm is None:
            raise NotFound(f"MicroVM not found: {self.vm_id}")
        return vm

    # -- works ---------------------------------------------------------------------------------------------------------

    async def _perform(self, work: Work, vm: MicroVM) -> None:
        await {
            Work.START: self._start,
            Work.SUSPEND: self._suspend,
            Work.RESUME: self._resume,
            Work.STOP: self._stop,
        }[work](vm)

    async def _start(self, vm: MicroVM) -> None:
        try:
            done = await perform.start(self._at, vm, await self._baked_of(vm))
        except RelayGone:
            raise
        except HookFailed as err:
            await self._lost(vm, err.message)
        except RekindleError as err:
            LOG.error("%s: start failed: %s", vm.id, err.message)
            await self._lost(vm, INTERNAL, err)
        else:
            await self._running(vm, done)

    async def _resume(self, vm: MicroVM) -> None:
        try:
            done = await perform.resume(self._at, vm, await self._baked_of(vm))
        except RelayGone:
            raise
        except RekindleError as err:
            LOG.error("%s: resume failed: %s", vm.id, err.message)
            await self._tell(vm, "why the resume failed", err.message)
            await self._at.relay.put_state(vm.id, "gone")  # answers 502 to the requests that wait
            await self._at.relay.put_state(vm.id, "suspended")
            await self._store.report(
                vm,
                Fact.RESUME_FAILED,
                suspended_at_ms=vm.suspended_at_ms or self._at.clock(),
                state_reason=RESUME_FAILED,
            )
        else:
            await self._running(vm, done)

    async def _running(self, vm: MicroVM, done: Done) -> None:
        try:
            await self._store.report(vm, done.fact, **done.changes)
        except Stale:
            handle = await self._at.host.driver.adopt(done.changes["handle"])
            if handle is not None:
                await self._at.host.driver.kill(handle)  # terminated meanwhile: STOP finds nothing left
            raise
        self._active_at_ms = self._at.clock()
        await self._at.relay.put_state(vm.id, "running")

    async def _suspend(self, vm: MicroVM) -> None:
        handle = await self._adopted(vm)
        baked = await self._baked_of(vm)
        try:
            done = await perform.suspend(self._at, vm, handle, baked)
        except RelayGone:
            raise
        except HookFailed as err:
            await self._lost(vm, err.message)
        except perform.ProcessGone as err:
            await self._fell(vm, err.message)
        except (MachineError, GuestError) as err:
            await self._awake_again(vm, handle, baked, err)
        else:
            slept = await self._store.report(vm, done.fact, **done.changes)
            await self._at.relay.put_state(vm.id, "suspended")
            await sleep.tidy(self._at.host.layout, self._at.host, slept, baked)

    async def _awake_again(self, vm: MicroVM, handle: Handle | None, baked: Baked, err: RekindleError) -> None:
        """The snapshot failed; the VM is still there and goes on, or it is not."""
        LOG.error("%s: suspend failed: %s", vm.id, err.message)
        try:
            if handle is None:
                raise MachineError(f"{vm.id} has no process to go on with")
            await perform.wake_again(self._at, vm, handle, baked)
        except RekindleError as second:
            await self._fell(vm, f"{err.message}; then {second.message}")
            return
        await self._tell(vm, "why the suspend failed", err.message)
        await self._store.report(vm, Fact.SUSPEND_FAILED, state_reason=SUSPEND_FAILED)
        self._active_at_ms = self._at.clock()
        await self._at.relay.put_state(vm.id, "running")

    async def _stop(self, vm: MicroVM) -> None:
        handle = await self._adopted(vm)
        farewell = None
        if handle is not None and not self._app_ended:
            baked = await self._baked_of(vm)
            farewell = hooks.runtime_call(baked.hooks, "terminate", vm)
        done = await perform.stop(self._at, vm, handle, farewell)
        await self._store.report(vm, done.fact, **done.changes)

    async def _lost(self, vm: MicroVM, reason: str, cause: RekindleError | None = None) -> None:
        """Nothing to go on with: the VM terminates with `reason`; the cause is in its story."""
        if cause is not None:
            await self._tell(vm, "why it was lost", cause.message)
        await self._store.report(vm, Fact.LOST, state_reason=reason)

    async def _fell(self, vm: MicroVM, why: str) -> None:
        """The process is gone: back to the last sleep when there is one, else lost."""
        handle = await self._adopted(vm)
        if handle is not None:
            await self._at.host.driver.kill(handle)
        if vm.snapshot is None:
            await self._lost(vm, INTERNAL, MachineError(why))
            return
        await self._tell(vm, "why it fell back", why)
        await self._store.report(
            vm, Fact.FELL_BACK, suspended_at_ms=self._at.clock(), handle=None, state_reason=FELL_BACK
        )
        await self._at.relay.put_state(vm.id, "suspended")

    async def _adopted(self, vm: MicroVM) -> Handle | None:
        return await self._at.host.driver.adopt(vm.handle) if vm.handle is not None else None

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _watch(self, vm: MicroVM) -> None:
        """Wait until something happens to a VM that owes nothing, and act on it."""
        if vm.phase is Phase.RUNNING:
            handle = await self._adopted(vm)
            if handle is None:
                await self._fell(vm, "The VMM was gone when the service looked")
                return
            why, deadline_ms = None, self._idle_at_ms(vm)
            news = await self._next_running(vm, handle, deadline_ms)
        else:
            why, deadline_ms = SLEEP_OVER, vm.sleep_ends_at_ms()
            news = await self._next(vm, deadline_ms)
        if news is None:
            await self._deadline(vm, why)
        else:
            await self._act(vm, news)

    async def _next_running(self, vm: MicroVM, handle: Handle, deadline_ms: int | None) -> News | None:
        """News, with process and app watched meanwhile. Nothing may raise inside the group: it would wrap it."""
        async with asyncio.TaskGroup() as own:
            watchers = (
                own.create_task(self._watch_process(handle), name=f"{vm.id} process"),
                own.create_task(self._watch_app(vm), name=f"{vm.id} app"),
            )
            news = await self._next(vm, deadline_ms)
            for watcher in watchers:
                watcher.cancel()
        return news

    async def _watch_process(self, handle: Handle) -> None:
        self._news.put_nowait(await self._at.host.driver.wait(handle))

    async def _watch_app(self, vm: MicroVM) -> None:
        try:
            self._news.put_nowait(await self._at.relay.guest(vm.id).wait())
        except (GuestError, RelayGone) as err:
            LOG.info("%s: not watching its app until the channel is back: %s", vm.id, err.message)

    async def _next(self, vm: MicroVM, deadline_ms: int | None) -> News | None:
        """The next news, or None at `deadline_ms` or at the end of the VM's life, whichever is first."""
        over_ms = vm.expires_at_ms()
        first_ms = over_ms if deadline_ms is None else min(over_ms, deadline_ms)
        try:
            async with asyncio.timeout(max(0.0, (first_ms - self._at.clock()) / 1000)):
                return await self._news.get()
        except TimeoutError:
            return None

    async def _deadline(self, vm: MicroVM, why: str | None) -> None:
        """A deadline passed: terminate for `why`, or without a reason see whether the VM is idle."""
        now_ms = self._at.clock()
        if now_ms >= vm.expires_at_ms():
            await self._ask(vm, Ask.TERMINATE, LIFETIME_OVER)
        elif why is not None:
            await self._ask(vm, Ask.TERMINATE, why)
        else:
            await self._maybe_idle(vm, now_ms)

    async def _maybe_idle(self, vm: MicroVM, now_ms: int) -> None:
        """The idle time may be over: ask the relay for the last byte it saw."""
        seen = (await self._at.relay.vms()).get(vm.id, {})
        self._active_at_ms = max(self._active_at_ms, int(seen.get("last_byte_ms", 0)))
        if vm.idle is None or now_ms < self._active_at_ms + vm.idle.max_idle_s * 1000:
            return
        if vm.idle.suspended_s == 0:
            await self._ask(vm, Ask.TERMINATE, SLEEP_OVER)
        else:
            await self._ask(vm, Ask.SUSPEND, "idle")

    def _idle_at_ms(self, vm: MicroVM) -> int | None:
        return None if vm.idle is None else self._active_at_ms + vm.idle.max_idle_s * 1000

    async def _act(self, vm: MicroVM, news: News) -> None:
        if isinstance(news, AppEnd):
            self._app_ended = True
            await self._ask(vm, Ask.TERMINATE, f"Container Stopped with Exit Code: {news.exit_code}")
        elif isinstance(news, Exit) and (await self._row()).phase is Phase.RUNNING:
            await self._process_ended(vm, news)

    async def _process_ended(self, vm: MicroVM, end: Exit) -> None:
        if end.kind is ExitKind.DIED:
            await self._fell(vm, f"The VMM died. {end.detail}".strip())
        else:
            await self._lost(vm, f"The {end.kind.value}. {end.detail}".strip())

    async def _ask(self, vm: MicroVM, ask: Ask, why: str) -> None:
        try:
            await self._store.ask(vm.id, ask, why=why)
        except RekindleError as err:
            LOG.info("%s: %s", vm.id, err.message)  # somebody else moved it first: the row says what is next

    async def _tell(self, vm: MicroVM, what: str, why: str | None = None) -> None:
        await self._store.add_event(Event(subject=vm.id, at_ms=self._at.clock(), what=what, why=why))

    async def take_up(self) -> None:
        """After a start of the service or the relay: make the relay know the VM's route and channel again."""
        vm = await self._row()
        state = {Phase.RUNNING: "running", Phase.SUSPENDED: "suspended"}.get(vm.phase, "held")
        if vm.phase in (Phase.TERMINATED, Phase.TERMINATING):
            return
        await self._at.relay.put_route(vm.id, route_of(self._at.host, vm, state))
        if vm.phase is Phase.RUNNING and await self._adopted(vm) is not None:
            await self._at.relay.connect(vm.id, timeout_s=perform.SYNC_S)
        self.poke()
