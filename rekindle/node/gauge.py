"""Activity that is no traffic at the endpoint, for operators who count it: CPU time and the guest's own traffic."""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.core.microvm import MicroVM
from rekindle.driver.process import Identity
from rekindle.node.perform import Hands


@dataclass(frozen=True, slots=True)
class Reading:
    at_ms: int
    cpu_ms: int
    egress_bytes: int


class Gauge:
    """Counts over windows of `[idle] window_s`. Nobody judges a VM before one window of it was seen."""

    def __init__(self, at: Hands) -> None:
        self._at = at
        self._rules = at.host.config.idle
        self._last: Reading | None = None
        self._began_ms = at.clock()

    @property
    def on(self) -> bool:
        return self._rules.cpu_percent > 0 or self._rules.egress_kib > 0

    @property
    def next_ms(self) -> int:
        """When to look next."""
        return self._began_ms if self._last is None else self._last.at_ms + self._rules.window_s * 1000

    @property
    def judges_from_ms(self) -> int:
        """The end of the first window."""
        return self._began_ms + self._rules.window_s * 1000

    async def was_active(self, vm: MicroVM) -> bool:
        """Whether the window that is over now had enough of either; False within a window. Raises RelayGone."""
        if self._at.clock() < self.next_ms:
            return False
        before, now = self._last, await self._read(vm)
        self._last = now
        if before is None:
            self._began_ms = now.at_ms
            return False
        span_ms = max(1, now.at_ms - before.at_ms)
        busy = self._rules.cpu_percent > 0 and (now.cpu_ms - before.cpu_ms) * 100 > self._rules.cpu_percent * span_ms
        passed = max(0, now.egress_bytes - before.egress_bytes)  # a new relay counts from 0
        return busy or 0 < self._rules.egress_kib * 1024 <= passed

    async def _read(self, vm: MicroVM) -> Reading:
        egress_bytes = 0
        if self._rules.egress_kib > 0:
            seen = await self._at.relay.vm(vm.id)
            egress_bytes = int(seen["egress_bytes_in"]) + int(seen["egress_bytes_out"])
        return Reading(self._at.clock(), _cpu_ms(vm), egress_bytes)


def _cpu_ms(vm: MicroVM) -> int:
    """CPU time of the VMM, 0 when it is gone: its vCPUs and what it does for them."""
    handle = vm.handle or {}
    pid, started_ticks = handle.get("pid"), handle.get("started_ticks")
    if not isinstance(pid, int) or not isinstance(started_ticks, int):
        return 0
    return Identity(pid, started_ticks).cpu_ms()
