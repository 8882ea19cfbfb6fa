"""A stop that falls between the end of an interrupt and its report is no stop to save.

KVM with the I/O APICs in QEMU (a microvm's own default, KVM_CAP_SPLIT_IRQCHIP) ends a level-triggered interrupt in two
steps: the guest's write clears it in the local APIC, inside the kernel; then KVM_RUN returns with KVM_EXIT_IOAPIC_EOI,
and QEMU clears *Remote IRR* in its I/O APIC. A stop makes KVM_RUN return before that. The report waits in the kernel,
where no snapshot finds it: the restored I/O APIC would wait for ever for the end of an interrupt that is over, and give
no other of that device to the guest. So a stop that owes such a report is undone and made again.
"""

from __future__ import annotations

import re

from rekindle.core.errors import MachineError
from rekindle.driver.qmp import FLUSH_S, Link
from rekindle.rest import rest

TRIES = 60
FIRST_REST_S, LONGEST_REST_S = 0.0005, 0.05
_PIN = re.compile(r"^\s*pin (\d+)\s+\S+ dest=\S+ vec=(\d+)", re.MULTILINE)
_WAITING = re.compile(r"^\s*Remote IRR(.*)$", re.MULTILINE)
_KNOWN = re.compile(r"^(?:ISR|IRR)\s(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+")


async def stop_between(link: Link, vcpus: int, vm_id: str) -> int:
    """Stop the guest where every interrupt that is over is over for QEMU too; how many stops that took.

    Raises MachineError when none of `TRIES` was such a stop; the guest is stopped then all the same.
    """
    rest_s = FIRST_REST_S
    for tried in range(1, TRIES + 1):
        await link.ask("stop", within_s=FLUSH_S)
        if not await owed(link, vcpus):
            return tried
        await link.ask("cont")
        await rest(rest_s)
        rest_s = min(2 * rest_s, LONGEST_REST_S)
    await link.ask("stop", within_s=FLUSH_S)
    raise MachineError(f"{vm_id}: in {TRIES} stops an interrupt was never over for both KVM and QEMU")


async def owed(link: Link, vcpus: int) -> set[int]:
    """Vectors that an I/O APIC waits for, and that no local APIC has in service or to deliver."""
    waiting = awaited(await _monitor(link, "info pic"))
    for apic in range(vcpus):
        if waiting:
            waiting -= known(await _monitor(link, f"info lapic {apic}"))
    return waiting


def awaited(pic: str) -> set[int]:
    """Vectors of the pins under *Remote IRR* in what `info pic` tells of every I/O APIC. Raises MachineError."""
    vectors: set[int] = set()
    for one in re.split(r"^(?=ioapic)", pic, flags=re.MULTILINE):
        if one.startswith("ioapic"):
            waiting = _WAITING.search(one)
            if waiting is None:
                raise MachineError("QEMU's `info pic` does not tell which interrupts wait for their end")
            of_pin = {int(pin): int(vector) for pin, vector in _PIN.findall(one)}
            vectors |= {of_pin[int(pin)] for pin in _NUMBER.findall(waiting[1])}
    return vectors


def known(lapic: str) -> set[int]:
    """Vectors in service or to deliver in what `info lapic` tells. Raises MachineError."""
    found = _KNOWN.findall(lapic)
    if len(found) != 2:
        raise MachineError("QEMU's `info lapic` does not tell which interrupts are in service")
    return {int(vector) for line in found for vector in _NUMBER.findall(line)}


async def _monitor(link: Link, line: str) -> str:
    return str(await link.ask("human-monitor-command", command_line=line)).replace("\r", "")
