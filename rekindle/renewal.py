"""Certificates are renewed while the service serves: one that runs for a year must not end with an expired one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rekindle import identity
from rekindle.clock import Clock
from rekindle.config import Config
from rekindle.core.errors import RekindleError
from rekindle.rest import until

LOG = logging.getLogger(__name__)
EVERY_MS = 3_600_000


@asynccontextmanager
async def certificates(config: Config, clock: Clock, changed: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """While this lasts: look once an hour, renew what runs out, and call `changed` then, so that the relay reads the
    files again.

    Connections that are open go on as they are. What fails is told and tried again at the next look: at the first one a
    certificate is good for another month.
    """
    async with asyncio.TaskGroup() as own:
        keeping = own.create_task(_keep(config, clock, changed), name="certificates")
        yield
        keeping.cancel()


async def _keep(config: Config, clock: Clock, changed: Callable[[], Awaitable[None]]) -> None:
    untold = False
    while True:
        await until(clock, clock() + EVERY_MS)
        try:
            untold = _renewed(config, clock) or untold
            if untold:
                await changed()
                untold = False
                LOG.info("the server certificate was renewed")
        except RekindleError as err:
            LOG.warning("the certificate is looked at again in an hour: %s", err.message)
        except Exception:
            LOG.exception("the certificate is looked at again in an hour")


def _renewed(config: Config, clock: Clock) -> bool:
    """Whether the files hold another certificate than before."""
    served = config.state / "ca/server.pem"
    before = served.read_bytes() if served.exists() else None
    identity.ensure(config, clock)
    return served.read_bytes() != before
