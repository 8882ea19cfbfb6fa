"""One keeper a microVM: does what its phase owes, then watches what may happen to it.

Works of one VM are serialised here; different VMs never wait for each other. The keeper holds no state that matters: a
new one after a restart reads the row and goes on. No failure ends it: what no work expects is told in the VM's story
once and tried again, ever more seldom.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rekindle.core.errors import HookFailed, MachineError, NoCapacity, NotFound, RekindleError, Stale
from rekindle.core.lifecycle import OWES, Ask, Fact, Phase, Work
from rekindle.core.microvm import Event, MicroVM
from rekindle.driver.base import Exit, ExitKind, Handle
from rekindle.guest.client import AppEnd, HookCall, RelayGone, Wishes
from rekindle.node import hooks, perform, sleep
from rekindle.node.deadlines import Deadlines, Due
from rekindle.node.machine import Baked, route_of
from rekindle.node.perform import Done, Hands
from rekindle.node.watch import News, Watch
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
INTERNAL = "Internal service error."
SUSPEND_FAILED = "The last suspend failed; the MicroVM goes on."
RESUME_FAILED = "The last resume failed; the MicroVM is still suspended."
FELL_BACK = "The VMM ended; the MicroVM is back at its last suspended state."
_ROUTE_STATES = {Phase.RUNNING: "running", Phase.SUSPENDED: "suspended"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pauses:
    """How long a keeper rests before it tries again; every poke ends a rest."""

    relay_s: float = 5.0  #: at the latest; the agent pokes when the relay is back
    first_s: float = 1.0  #: after a failure that no work expects, twice as long after each further one
    longest_s: float = 60.0


class Keeper:
    """`run` returns when the VM is TERMINATED. `poke` makes it look at the row again at once."""

    def __init__(
        self,
        vm_id: str,
        at: Hands,
        store: Store,
        baked: Callable[[MicroVM], Awaitable[Baked]],
        *,
        routed: bool = False,
        pauses: Pauses = Pauses(),
    ) -> None:
        self.vm_id = vm_id
        self._at = at
        self._store = store
        self._baked_of = baked
        self._routed = routed  # the relay has the VM's route, as far as we know
        self._watched = Watch(at)
        self._deadlines = Deadlines(at, store)
        self._app_ended = False
        self._pauses = pauses
        self._failures = 0  #: in a row

    def poke(self) -> None:
        self._watched.poke()

    def take_up(self) -> None:
        """The relay may have lost the VM's route or channel: give it both again as soon as no work is under way."""
        self._routed = False
        self.poke()

    async def run(self) -> None:
        while True:
            self._watched.looked()
            try:
                if await self._over():
                    return
            except Stale as late:
                LOG.info("dropped a late fact: %s", late)
            except RelayGone as err:
                LOG.warning("%s waits for the relay: %s", self.vm_id, err.message)
                self._routed = False
                await self._watched.poked_within(self._pauses.relay_s)  # every work can be repeated
            except Exception as err:
                LOG.exception("the keeper of %s failed", self.vm_id)
                await self._later(err)
            else:
                self._failures = 0

    async def _over(self) -> bool:
        """Do the next thing for the VM; whether it is TERMINATED and nothing is left to do."""
        vm = await self._row()
        if vm.phase is Phase.TERMINATED:
            return True
        if not self._routed and vm.phase is not Phase.TERMINATING:
            await self._route(vm)
        work = OWES.get(vm.phase)
        await (self._watch(vm) if work is None else self._perform(work, vm))
        return False

    async def _route(self, vm: MicroVM) -> None:
        self._routed = True  # before the question: `take_up` may come while it is under way
        try:
            state = _ROUTE_STATES.get(vm.phase, "held")
            await self._at.relay.put_route(vm.id, route_of(self._at.host, vm, state))
        except NoCapacity as err:  # somebody took the port while no relay held it; tried again at the next poke
            self._routed = False
            LOG.error("%s has no endpoint: %s", vm.id, err.message)

    async def _later(self, err: Exception) -> None:
        """After a failure that no work expects: leave everything as it is and look again after a pause."""
        self._routed = False
        pause_s = min(self._pauses.first_s * 2**self._failures, self._pauses.longest_s)
        self._failures = min(self._failures + 1, 16)
        if self._failures == 1:
            try:
                await self._tell("a work failed and is tried again", _said(err))
            except Exception:
                LOG.exception("the failure of %s could not be written down", self.vm_id)
        await self._watched.poked_within(pause_s)

    async def _row(self) -> MicroVM:
        vm = await self._store.microvm(self.vm_id)
        if vm is None:
            raise NotFound(f"MicroVM not found: {self.vm_id}")
        return vm

    # -- works ---------------------------------------------------------------------------------------------------------

    async def _perform(self, work: Work, vm: MicroVM) -> None:
        """A start or resume is given up when the VM is terminated meanwhile: it may hang as long as a guest likes."""
        if work is Work.START:
            await self._watched.unless(self._terminated, self._start(vm))
        elif work is Work.RESUME:
            await self._watched.unless(self._terminated, self._resume(vm))
        elif work is Work.SUSPEND:
            await self._suspend(vm)
        else:
            await self._stop(vm)

    async def _terminated(self) -> bool:
        return (await self._row()).phase is Phase.TERMINATING

    async def _start(self, vm: MicroVM) -> None:
        try:
            done = await perform.start(self._at, vm, await self._baked_of(vm))
        except RelayGone:
            raise
        except HookFailed as err:
            await self._lost(vm, err.message)
        except Exception as err:
            LOG.exception("%s: start failed", vm.id)
            await self._lost(vm, INTERNAL, _said(err))
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
        """The resume failed and the snapshot is whole."""
        await self._tell("why the resume failed", _said(err))
        await self._at.relay.put_state(vm.id, "gone")  # answers 502 to the requests that wait
        await self._at.relay.put_state(vm.id, "suspended")
        slept_at_ms = vm.suspended_at_ms or self._at.clock()
        await self._store.report(vm, Fact.RESUME_FAILED, suspended_at_ms=slept_at_ms, state_reason=RESUME_FAILED)

    async def _running(self, vm: MicroVM, done: Done) -> None:
        try:
            await self._store.report(vm, done.fact, **done.changes)
        except Stale:
            handle = await self._at.host.driver.adopt(done.changes["handle"])
            if handle is not None:
                await self._at.host.driver.kill(handle)  # terminated meanwhile: STOP finds nothing left
            raise
        self._deadlines.runs_anew()
        await self._at.relay.put_state(vm.id, "running")

    async def _suspend(self, vm: MicroVM) -> None:
        handle = await self._adopted(vm)
        baked = await self._baked_of(vm)
        try:
            done = await perform.suspend(self._at, vm, handle, baked)
        except RelayGone:
            raise
        except HookFailed as err:
            if self._at.host.config.hooks.failed_suspend == "keep_running":
                await self._goes_on(vm, err.message)
            else:
                await self._lost(vm, err.message)
        except perform.ProcessGone as err:
            await self._fell(vm, err.message)
        except Exception as err:
            LOG.exception("%s: suspend failed", vm.id)
            await self._awake_again(vm, handle, baked, err)
        else:
            await self._store.report(vm, done.fact, **done.changes)
            await self._at.relay.put_state(vm.id, "suspended")

    async def _tidy(self, vm: MicroVM) -> None:
        """Nothing depends on it: what cannot be tidied now is tidied after the next sleep."""
        try:
            await sleep.tidy(self._at.host.layout, self._at.host, vm, await self._baked_of(vm))
        except (RekindleError, OSError) as err:
            LOG.exception("%s: its snapshot could not be tidied", vm.id)
            await self._tell("why its older disk layers stay", _said(err))

    async def _awake_again(self, vm: MicroVM, handle: Handle | None, baked: Baked, err: Exception) -> None:
        """The snapshot failed; the VM is still there and goes on, or it is not."""
        try:
            if handle is None:
                raise MachineError(f"{vm.id} has no process to go on with")
            await perform.wake_again(self._at, vm, handle, baked)
        except RelayGone:
            raise  # paused and whole: the suspend is repeated
        except Exception as second:
            LOG.exception("%s: and could not go on", vm.id)
            await self._fell(vm, f"{_said(err)}; then {_said(second)}")
            return
        await self._tell("why the suspend failed", _said(err))
        await self._goes_on(vm, SUSPEND_FAILED)

    async def _goes_on(self, vm: MicroVM, reason: str) -> None:
        """The suspend failed and the VM runs."""
        await self._store.report(vm, Fact.SUSPEND_FAILED, state_reason=reason)
        self._deadlines.runs_anew()
        await self._at.relay.put_state(vm.id, "running")

    async def _stop(self, vm: MicroVM) -> None:
        handle = await self._adopted(vm)
        farewell = None if handle is None or self._app_ended else await self._farewell(vm)
        done = await perform.stop(self._at, vm, handle, farewell)
        await self._store.report(vm, done.fact, **done.changes)

    async def _farewell(self, vm: MicroVM) -> HookCall | None:
        """The terminate hook; none when the image is not to be read: the VM must end all the same."""
        try:
            baked = await self._baked_of(vm)
        except (RekindleError, OSError) as err:
            LOG.error("%s ends without its terminate hook: %s", vm.id, _said(err))
            return None
        return hooks.runtime_call(baked.hooks, "terminate", vm)

    async def _lost(self, vm: MicroVM, reason: str, cause: str | None = None) -> None:
        """Nothing to go on with: the VM terminates with `reason`; the cause is in its story."""
        if cause is not None:
            await self._tell("why it was lost", cause)
        await self._store.report(vm, Fact.LOST, state_reason=reason)

    async def _fell(self, vm: MicroVM, why: str) -> None:
        """The process is gone: back to the last sleep when there is one, else lost."""
        handle = await self._adopted(vm)
        if handle is not None:
            await self._at.host.driver.kill(handle)
        if vm.snapshot is None:
            await self._lost(vm, INTERNAL, why)
            return
        await self._tell("why it fell back", why)
        await self._store.report(
            vm, Fact.FELL_BACK, suspended_at_ms=self._at.clock(), handle=None, state_reason=FELL_BACK
        )
        await self._at.relay.put_state(vm.id, "suspended")

    async def _adopted(self, vm: MicroVM) -> Handle | None:
        return await self._at.host.driver.adopt(vm.handle) if vm.handle is not None else None

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _watch(self, vm: MicroVM) -> None:
        """Wait until something happens to a VM that owes nothing, or one of its deadlines passes, and act on it."""
        if vm.phase is not Phase.RUNNING:
            await self._asleep(vm)
            await self._watched.poked_by(await self._deadlines.next_ms(vm))
            await self._at_deadline(vm)
            return
        handle = await self._adopted(vm)
        if handle is None:
            await self._fell(vm, "The VMM was gone when the service looked")
            return
        news = await self._watched.running(vm.id, handle, await self._deadlines.next_ms(vm))
        if news is None:
            await self._at_deadline(vm)
        else:
            await self._act(vm, news)

    async def _asleep(self, vm: MicroVM) -> None:
        """Tidy behind the sleeper; a resume does not wait for that, unless its disks are a high pile already."""
        if sleep.must_tidy(self._at.host.layout, vm):
            await self._tidy(vm)
        else:
            await self._watched.unless_poked(self._tidy(vm))

    async def _at_deadline(self, vm: MicroVM) -> None:
        due = await self._deadlines.due(vm)
        if due is not None:
            await self._ask(vm, due)

    async def _act(self, vm: MicroVM, news: News) -> None:
        if isinstance(news, AppEnd):
            self._app_ended = True
            await self._ask(vm, Due(Ask.TERMINATE, f"Container Stopped with Exit Code: {news.exit_code}"))
        elif isinstance(news, Wishes):
            self._deadlines.heard(news)
        elif (await self._row()).phase is Phase.RUNNING:
            await self._process_ended(vm, news)

    async def _process_ended(self, vm: MicroVM, end: Exit) -> None:
        if end.kind is ExitKind.DIED:
            await self._fell(vm, f"The VMM died. {end.detail}".strip())
        else:
            await self._lost(vm, f"The {end.kind.value}.", end.detail or None)

    async def _ask(self, vm: MicroVM, due: Due) -> None:
        try:
            await self._store.ask(vm.id, due.ask, why=due.why, by=due.by)
        except RekindleError as err:
            LOG.info("%s: %s", vm.id, err.message)  # somebody else moved it first: the row says what is next

    async def _tell(self, what: str, why: str | None = None) -> None:
        await self._store.add_event(Event(subject=self.vm_id, at_ms=self._at.clock(), what=what, why=why))


def _said(err: Exception) -> str:
    """For the VM's story: a typed error's sentence, or what kind of fault it was."""
    return err.message if isinstance(err, RekindleError) else f"{type(err).__name__}: {err}"
