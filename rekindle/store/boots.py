"""What a restart of the machine does to its rows: no process of before is there, whatever a handle says.

A pid and a start time name a process for one boot only: after the next one they may be a stranger's.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.lifecycle import Fact, Phase, advance
from rekindle.core.microvm import MicroVM
from rekindle.store.microvms import MicroVMs, microvm_of

RESTARTED = "The host was restarted."
FELL_BACK = "The host was restarted; the MicroVM is back at its last suspended state."


class Boots(MicroVMs):
    async def last_boot(self, node: str) -> str | None:
        """The boot of the machine in which its rows were last true; None when it was never written down."""
        row = self._db.one("boot", name=node)
        return None if row is None else str(row["boot_id"])

    async def host_booted(self, node: str, boot_id: str) -> list[MicroVM]:
        """The rows are true for this boot from now on. When it is another than the last, every microVM has lost its
        process: one that ran falls back to its last sleep, or is lost; the works of the others look for themselves.
        Returned as they were before.
        """
        with self._db.transaction():
            before = self._db.one("boot", name=node)
            self._db.run("set_boot", name=node, boot_id=boot_id)
            if before is None or before["boot_id"] == boot_id:
                return []
            live = [microvm_of(row) for row in self._db.all("live_microvms", node=node)]
            had_one = [vm for vm in live if vm.handle is not None]
            for vm in had_one:
                self._lose_process(vm)
            return had_one

    def _lose_process(self, vm: MicroVM) -> None:
        """No new revision for a work that is under way: a suspend finds the snapshot it has made by its number."""
        bare = replace(vm, handle=None)
        if vm.phase is not Phase.RUNNING:
            self._db.run("lose_process", id=vm.id)
            self._tell_vm(vm, "its process is gone", RESTARTED)
        elif vm.snapshot is None:
            after = advance(vm.id, vm.phase, Fact.LOST)
            self._write(vm, replace(bare, phase=after, state_reason=RESTARTED), RESTARTED)
        else:
            after = advance(vm.id, vm.phase, Fact.FELL_BACK)
            asleep = replace(bare, phase=after, suspended_at_ms=self._clock(), state_reason=FELL_BACK)
            self._write(vm, asleep, FELL_BACK)
