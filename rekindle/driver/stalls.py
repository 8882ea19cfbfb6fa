"""A VMM stops its guest when the host's disk is full in the middle of a write. Nothing is lost by that: QEMU keeps the
write and does it when the guest goes on. Somebody has to let it go on, and to see that it was stopped.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from rekindle.core.errors import DiskFull, MachineError
from rekindle.driver import qmp
from rekindle.rest import rest

LOG = logging.getLogger(__name__)
STALLED = "io-error"  #: QEMU's name for that state
AGAIN_S = 2.0
SEEN_S = 1.0  #: a write that fails again does so at once


async def go_on(link: qmp.Link, vm_id: str) -> None:
    """Let a stalled guest go on. Raises DiskFull when it was stopped again; it is as it was then."""
    with link.listening() as events:
        await link.ask("cont")
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                while (event := await events.get()) is not None:
                    if event.name == "BLOCK_IO_ERROR":
                        raise DiskFull(
                            f"{vm_id} stands still: this machine's disk is full and takes none of its writes"
                        )


async def watch(link: qmp.Link, vm_id: str) -> None:
    """Let the guest go on whenever it has stalled; returns when the VMM ends. Not beside a pause."""
    with link.listening() as events, suppress(MachineError):
        while True:
            if await _stalled(link):
                LOG.warning("%s stands still: this machine's disk is full", vm_id)
                await rest(AGAIN_S)
                if await _stalled(link):
                    await link.ask("cont")
            while (event := await events.get()) is None or event.name != "STOP":
                if event is None:
                    return


async def _stalled(link: qmp.Link) -> bool:
    return bool((await link.ask("query-status"))["status"] == STALLED)
