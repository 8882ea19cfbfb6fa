"""One keeper a microVM: does what its phase owes, then watches what may happen to it.

Works of one VM are serialised here; different VMs never wait for each other. The keeper holds no state that matters: a
new one after a restart reads the row and goes on. No failure ends it: what no work expects is told in the VM's story
once and tried again, ever more seldom.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rekindle.core.errors import NoCapacity, NotFound, RekindleError, Stale
from rekindle.core.lifecycle import OWES, Ask, Phase, Work
from rekindle.core.microvm import Event, MicroVM
from rekindle.driver.base import Exit, ExitKind
from rekindle.guest.client import AppEnd, RelayGone, Wishes
from rekindle.node import hooks, sleep
from rekindle.node.deadlines import LIFETIME_OVER, Deadlines, Due
from rekindle.node.machine import Baked, route_of
from rekindle.node.perform import Hands
from rekindle.node.watch import News, Watch
from rekindle.node.works import Works, said
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
TRIED_AGAIN = "a work failed and is tried again"
_WORKED_AT = (Phase.PENDING, Phase.SUSPENDING, Phase.RESUMING)
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
        self._routed = routed  # the relay has the VM's route, as far as we know
        self._watched = Watch(at)
        self._deadlines = Deadlines(at, store)
        self._works = Works(at, store, baked)
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
        if vm.phase in _WORKED_AT and self._at.clock() >= vm.expires_at_ms():
            await self._ask(vm, Due(Ask.TERMINATE, LIFETIME_OVER))  # whatever keeps its work from being done
            return False
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
        except NoCapacity as err:  # somebody took the port while no relay held it; tried again (`_until_ms`)
            self._routed = False
            LOG.error("%s has no endpoint: %s", vm.id, err.message)

    async def _later(self, err: Exception) -> None:
        """After a failure that no work expects: leave everything as it is and look again after a pause."""
        self._routed = False
        pause_s = min(self._pauses.first_s * 2**self._failures, self._pauses.longest_s)
        self._failures = min(self._failures + 1, 16)
        if self._failures == 1:
            try:
                failed = Event(subject=self.vm_id, at_ms=self._at.clock(), what=TRIED_AGAIN, why=said(err))
                await self._store.add_event(failed)
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
        self._deadlines.runs_anew()
        self._watched.runs_anew()
        if work in (Work.START, Work.RESUME):
            await self._watched.unless(self._terminated, self._works.do(work, vm))
        else:
            await self._works.do(work, vm)

    async def _terminated(self) -> bool:
        return (await self._row()).phase is Phase.TERMINATING

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _watch(self, vm: MicroVM) -> None:
        """Wait until something happens to a VM that owes nothing, or one of its deadlines passes, and act on it."""
        if vm.phase is not Phase.RUNNING:
            await self._asleep(vm)
            await self._watched.poked_by(await self._until_ms(vm))
            await self._at_deadline(vm)
            return
        handle = await self._works.adopted(vm)
        if handle is None:
            await self._works.fell(vm, "The VMM was gone when the service looked")
            return
        news = await self._watched.running(vm.id, handle, await self._until_ms(vm))
        if news is None:
            await self._at_deadline(vm)
        else:
            await self._act(vm, news)

    async def _until_ms(self, vm: MicroVM) -> int:
        """When to look again: at the next deadline, and soon while the VM has no endpoint."""
        next_ms = await self._deadlines.next_ms(vm)
        return next_ms if self._routed else min(next_ms, self._at.clock() + int(self._pauses.relay_s * 1000))

    async def _asleep(self, vm: MicroVM) -> None:
        """Tidy behind the sleeper; a resume does not wait for that, unless its disks are a high pile already."""
        if sleep.must_tidy(self._at.host.layout, vm):
            await self._works.tidy(vm)
        else:
            await self._watched.unless_poked(self._works.tidy(vm))

    async def _at_deadline(self, vm: MicroVM) -> None:
        due = await self._deadlines.due(vm)
        if due is not None:
            await self._ask(vm, due)

    async def _act(self, vm: MicroVM, news: News) -> None:
        if isinstance(news, AppEnd):
            if news.oom_kills:
                await self._works.tell(vm, "out of memory in the guest", f"{news.oom_kills} processes were killed")
            await self._ask(vm, Due(Ask.TERMINATE, hooks.app_ended(news.exit_code)))
        elif isinstance(news, Wishes):
            self._deadlines.heard(news)
        elif (await self._row()).phase is Phase.RUNNING:
            await self._process_ended(vm, news)

    async def _process_ended(self, vm: MicroVM, end: Exit) -> None:
        if end.kind in (ExitKind.DIED, ExitKind.STARVED):
            await self._works.fell(vm, f"The {end.kind.value}. {end.detail}".strip())
        else:
            await self._works.lost(vm, f"The {end.kind.value}.", end.detail or None)

    async def _ask(self, vm: MicroVM, due: Due) -> None:
        try:
            await self._store.ask(vm.id, due.ask, why=due.why, by=due.by)
        except RekindleError as err:
            LOG.info("%s: %s", vm.id, err.message)  # somebody else moved it first: the row says what is next
