"""What time alone does to one microVM: the end of its life, the end of its sleep, and sleep when it is idle.

Idle is measured from the last activity: bytes over the endpoint (the relay knows), the moment it began to run (its
story knows) and, where the operator counts them, CPU time and the guest's own traffic. All but the last two outlive
this service. A relay that was started anew has not seen what came before it: its own start counts as activity.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from rekindle.core.errors import GuestError
from rekindle.core.lifecycle import Ask, Phase
from rekindle.core.microvm import GUEST, SERVICE, IdlePolicy, MicroVM
from rekindle.guest.client import Wishes
from rekindle.node.gauge import Gauge
from rekindle.node.perform import Hands
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
LIFETIME_OVER = "MicroVM exceeded maximum lifetime."
SLEEP_OVER = "MicroVM exceeded maximum suspended duration."
IDLE = "idle"
GUEST_ASKED = "the guest asked"


class Due(NamedTuple):
    """What must be asked for now, why, and by whom for the VM's story."""

    ask: Ask
    why: str
    by: str = SERVICE


class Deadlines:
    """One for a keeper. What it remembers is a cache: a new one comes to the same deadlines."""

    def __init__(self, at: Hands, store: Store) -> None:
        self._at = at
        self._store = store
        self._rules = at.host.config.idle
        self.runs_anew()

    def runs_anew(self) -> None:
        """The VM has just begun to run."""
        self._since_ms: int | None = None
        self._active_ms = 0
        self._leased_to_ms = 0
        self._sleep_wanted = False
        self._gauge = Gauge(self._at)

    def heard(self, wishes: Wishes) -> None:
        """The guest has said something new: what was counted with so far no longer holds."""
        self._leased_to_ms = 0
        self._sleep_wanted = wishes.suspend and self._rules.self_suspend

    async def next_ms(self, vm: MicroVM) -> int:
        """The instant of the next deadline of a RUNNING or SUSPENDED VM."""
        if vm.phase is not Phase.RUNNING:
            sleep_ends_at_ms = vm.sleep_ends_at_ms()
            return vm.expires_at_ms() if sleep_ends_at_ms is None else min(vm.expires_at_ms(), sleep_ends_at_ms)
        first_ms = vm.expires_at_ms()
        if self._sleep_wanted:
            first_ms = min(first_ms, await self._may_sleep_at_ms(vm))
        if vm.idle is not None:
            first_ms = min(first_ms, await self._idle_at_ms(vm, vm.idle))
            if self._gauge.on:
                first_ms = min(first_ms, self._gauge.next_ms)
        return first_ms

    async def due(self, vm: MicroVM) -> Due | None:
        """What must be asked for now; None while no deadline has passed. Raises RelayGone."""
        now_ms = self._at.clock()
        if now_ms >= vm.expires_at_ms():
            return Due(Ask.TERMINATE, LIFETIME_OVER)
        if vm.phase is not Phase.RUNNING:
            sleep_ends_at_ms = vm.sleep_ends_at_ms()
            over = sleep_ends_at_ms is not None and now_ms >= sleep_ends_at_ms
            return Due(Ask.TERMINATE, SLEEP_OVER) if over else None
        if self._sleep_wanted and now_ms >= await self._may_sleep_at_ms(vm):
            return _sleep(vm, Due(Ask.SUSPEND, GUEST_ASKED, GUEST))
        if vm.idle is not None and await self._is_idle(vm, vm.idle):
            return _sleep(vm, Due(Ask.SUSPEND, IDLE))
        return None

    async def _is_idle(self, vm: MicroVM, policy: IdlePolicy) -> bool:
        """Asks the cheapest witness first, and the next one only when that one saw nothing; the relay once more at the
        end, for a guest may take its time and a request may have come meanwhile.
        """
        now_ms = self._at.clock()
        if self._gauge.on and await self._gauge.was_active(vm):
            self._active_ms = now_ms
        for ask in (None, self._ask_relay, self._ask_guest, self._ask_relay):
            if ask is not None:
                await ask(vm)
            if now_ms < await self._idle_at_ms(vm, policy):
                return False
        return True

    async def _ask_relay(self, vm: MicroVM) -> None:
        seen = await self._at.relay.vm(vm.id)
        self._active_ms = max(self._active_ms, int(seen["last_byte_ms"]), int(seen["relay_started_at_ms"]))

    async def _ask_guest(self, vm: MicroVM) -> None:
        """For its busy lease. A guest that does not answer has none: its agent is not what is busy."""
        if self._rules.lease_max_s == 0:
            return
        try:
            lease = (await self._at.relay.guest(vm.id).wishes()).lease
        except GuestError as err:
            LOG.info("%s: %s", vm.id, err.message)
            return
        ceiling_ms = await self._last_active_ms(vm) + self._rules.lease_max_s * 1000
        self._leased_to_ms = 0 if lease is None else min(self._at.clock() + lease.left_ms, ceiling_ms)

    async def _idle_at_ms(self, vm: MicroVM, policy: IdlePolicy) -> int:
        own_ms = max(await self._last_active_ms(vm) + policy.max_idle_s * 1000, self._leased_to_ms)
        return max(own_ms, self._gauge.judges_from_ms) if self._gauge.on else own_ms

    async def _last_active_ms(self, vm: MicroVM) -> int:
        return max(self._active_ms, await self._running_since_ms(vm))

    async def _may_sleep_at_ms(self, vm: MicroVM) -> int:
        return await self._running_since_ms(vm) + self._rules.awake_s * 1000

    async def _running_since_ms(self, vm: MicroVM) -> int:
        if self._since_ms is None:
            self._since_ms = await self._store.running_since_ms(vm)
        return self._since_ms


def _sleep(vm: MicroVM, due: Due) -> Due:
    """A policy whose sleep has no length ends the VM instead (spec §1.7)."""
    if vm.idle is not None and vm.idle.suspended_s == 0:
        return Due(Ask.TERMINATE, SLEEP_OVER, due.by)
    return due
