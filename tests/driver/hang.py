"""What QEMU knows of a guest that gives no answer while its VMM runs on: for the failure of a test."""

from __future__ import annotations

import asyncio

from rekindle.core.errors import MachineError
from rekindle.driver.base import Handle
from rekindle.driver.qmp import Link
from tests.driver.lab import Guest, Lab

NUDGE_S = 20.0
QUEUES = 8


async def told(lab: Lab, vm: Handle, guest: Guest) -> str:
    """Processor and interrupt controllers, virtio queues; whether another line, or a stop, brings the answer."""
    link = await lab.driver._link(vm)  # type: ignore[attr-defined]
    lines = [await _monitor(link, one) for one in ("info status", "info registers", "info lapic", "info pic")]
    lines += [await _place(link) for _ in range(5)]
    lines += await _queues(link)
    await guest.tell("churned")
    lines.append(f"after another line: {await _answer(guest)}")
    await link.ask("stop")  # not the driver's: on KVM that one fails while an interrupt is never over
    await link.ask("cont")
    lines.append(f"after a stop: {await _answer(guest)}")
    lines.append(await _monitor(link, "info lapic"))
    return "\n".join(lines)


async def _monitor(link: Link, line: str) -> str:
    try:
        return f"{line}: {await link.ask('human-monitor-command', command_line=line)}"
    except MachineError as err:
        return f"{line}: {err.message}"


async def _queues(link: Link) -> list[str]:
    lines = []
    for device in await link.ask("x-query-virtio"):
        path = device["path"]
        lines.append(f"{device['name']} {await link.ask('x-query-virtio-status', path=path)}")
        lines += [f"  {await _queue(link, path, number)}" for number in range(QUEUES)]
    return lines


async def _queue(link: Link, path: str, number: int) -> str:
    try:
        return str(await link.ask("x-query-virtio-queue-status", path=path, queue=number))
    except MachineError as err:
        return err.message


async def _place(link: Link) -> str:
    registers = (await _monitor(link, "info registers")).splitlines()
    return "\n".join(line for line in registers if "IP=" in line)


async def _answer(guest: Guest) -> str:
    try:
        async with asyncio.timeout(NUDGE_S):
            return await guest.answer()
    except TimeoutError:
        return "nothing"
