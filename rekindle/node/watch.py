"""Waiting for what may happen to one microVM that owes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from rekindle.clock import look_again_s
from rekindle.core.errors import GuestError, MachineError
from rekindle.driver.base import Exit, Handle
from rekindle.guest.client import AppEnd, Wishes
from rekindle.node.perform import SYNC_S, Hands
from rekindle.rest import rest

LOG = logging.getLogger(__name__)
CHANNEL_AGAIN_S = 5.0  #: at the latest; a lost channel pokes
WISH_EVERY_S = 1.0  #: a guest that never stops wishing is heard so often

News = Exit | AppEnd | Wishes


class Watch:
    """One for a keeper, used by it alone; only `poke` comes from elsewhere."""

    def __init__(self, at: Hands) -> None:
        self._at = at
        self._poked = asyncio.Event()
        self._heard = 0  # of the guest's news
        self._listens_from_s = 0.0  # on the loop's clock

    def poke(self) -> None:
        self._poked.set()

    def runs_anew(self) -> None:
        """A work begins: the guest counts its news from its next thaw."""
        self._heard = 0

    def looked(self) -> None:
        """The row is about to be read: earlier pokes are answered by that."""
        self._poked.clear()

    async def poked_within(self, seconds: float) -> None:
        """Return at the next poke or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._poked.wait()
        except TimeoutError:
            return

    async def poked_by(self, at_ms: int) -> None:
        """Return at the next poke or when the clock shows `at_ms`."""
        while not self._poked.is_set() and (left_ms := at_ms - self._at.clock()) > 0:
            await self.poked_within(min(left_ms / 1000, look_again_s(self._at.clock)))

    async def unless(self, over: Callable[[], Awaitable[bool]], work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, but give it up when a poke finds that it is `over`. What it raises is raised."""
        async with asyncio.TaskGroup() as own:
            doing = own.create_task(_caught(work))
            while not doing.done():
                poke = own.create_task(self._poked.wait())
                await asyncio.wait((doing, poke), return_when=asyncio.FIRST_COMPLETED)
                poke.cancel()
                self._poked.clear()  # the row is read again in any case, now or after the work
                if not doing.done() and await over():
                    doing.cancel()
                    break
        failure = None if doing.cancelled() else doing.result()
        if failure is not None:
            raise failure

    async def unless_poked(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, which raises nothing, or as much of it as a poke allows: it is over when this returns."""
        async with asyncio.TaskGroup() as own:
            doing = own.create_task(work)
            poke = own.create_task(self._poked.wait())
            await asyncio.wait((doing, poke), return_when=asyncio.FIRST_COMPLETED)
            for one in (doing, poke):
                one.cancel()

    async def running(self, vm_id: str, handle: Handle, until_ms: int) -> News | None:
        """How the app or the process ended, or what the guest wishes; None at a poke or at `until_ms`.

        Nothing is watched afterwards.
        """
        async with asyncio.TaskGroup() as own:
            app = own.create_task(self._said_by(vm_id), name=f"{vm_id} app")
            process = own.create_task(self._at.host.driver.wait(handle), name=f"{vm_id} process")
            poke = own.create_task(self.poked_by(until_ms), name=f"{vm_id} poke")
            await asyncio.wait((app, process, poke), return_when=asyncio.FIRST_COMPLETED)
            for one in (app, process, poke):
                one.cancel()
        if not app.cancelled():
            return app.result()
        return None if process.cancelled() else process.result()

    async def _said_by(self, vm_id: str) -> AppEnd | Wishes:
        """Opens the channel first when it is down: without it nobody could say that the app has ended."""
        loop = asyncio.get_running_loop()
        await rest(max(0.0, self._listens_from_s - loop.time()))
        while True:
            try:
                await self._at.relay.connect(vm_id, timeout_s=SYNC_S)
                said = await self._at.relay.guest(vm_id).listen(self._heard)
                if isinstance(said, Wishes):
                    self._heard = said.news
                    self._listens_from_s = loop.time() + WISH_EVERY_S
                return said
            except (GuestError, MachineError) as err:
                LOG.info("%s: its app is not watched: %s", vm_id, err.message)
            await rest(CHANNEL_AGAIN_S)


async def _caught(work: Coroutine[Any, Any, None]) -> Exception | None:
    """What `work` raises as a value: a TaskGroup would wrap it."""
    try:
        await work
    except Exception as err:  # noqa: BLE001 - raised again by who asked for the work
        return err
    return None
