"""What time alone does to one microVM: the end of its life, the end of its sleep, and sleep when it is idle."""

from __future__ import annotations

from rekindle.core.lifecycle import Ask, Phase
from rekindle.core.microvm import MicroVM
from rekindle.node.perform import Hands

LIFETIME_OVER = "MicroVM exceeded maximum lifetime."
SLEEP_OVER = "MicroVM exceeded maximum suspended duration."


class Deadlines:
    """One for a keeper. Idle time is not counted from before it was made: nobody saw then whether the VM was idle."""

    def __init__(self, at: Hands) -> None:
        self._at = at
        self._active_at_ms = at.clock()

    def active(self) -> None:
        """The VM has just begun to run."""
        self._active_at_ms = self._at.clock()

    def left_s(self, vm: MicroVM) -> float:
        """Seconds until the next deadline of a RUNNING or SUSPENDED VM."""
        own_ms = self._idle_at_ms(vm) if vm.phase is Phase.RUNNING else vm.sleep_ends_at_ms()
        first_ms = vm.expires_at_ms() if own_ms is None else min(vm.expires_at_ms(), own_ms)
        return max(0.0, (first_ms - self._at.clock()) / 1000)

    async def due(self, vm: MicroVM) -> tuple[Ask, str] | None:
        """What must be asked for now, and why; None while no deadline has passed. Raises RelayGone."""
        now_ms = self._at.clock()
        if now_ms >= vm.expires_at_ms():
            return Ask.TERMINATE, LIFETIME_OVER
        if vm.phase is Phase.RUNNING:
            return await self._idle(vm, now_ms)
        sleep_ends_at_ms = vm.sleep_ends_at_ms()
        over = sleep_ends_at_ms is not None and now_ms >= sleep_ends_at_ms
        return (Ask.TERMINATE, SLEEP_OVER) if over else None

    async def _idle(self, vm: MicroVM, now_ms: int) -> tuple[Ask, str] | None:
        """The idle time may be over: the relay knows the last byte it saw."""
        if vm.idle is None or not self._was_idle(vm, now_ms):
            return None
        seen = (await self._at.relay.vms()).get(vm.id, {})
        self._active_at_ms = max(self._active_at_ms, int(seen.get("last_byte_ms", 0)))
        if not self._was_idle(vm, now_ms):
            return None
        return (Ask.TERMINATE, SLEEP_OVER) if vm.idle.suspended_s == 0 else (Ask.SUSPEND, "idle")

    def _was_idle(self, vm: MicroVM, now_ms: int) -> bool:
        idle_at_ms = self._idle_at_ms(vm)
        return idle_at_ms is not None and now_ms >= idle_at_ms

    def _idle_at_ms(self, vm: MicroVM) -> int | None:
        return None if vm.idle is None else self._active_at_ms + vm.idle.max_idle_s * 1000
