"""A pause where nothing could tell us earlier: before another try, or between two looks at something mute."""

from __future__ import annotations

import asyncio

from rekindle.clock import Clock, look_again_s


async def rest(seconds: float) -> None:
    """Return after `seconds`. Whoever can be told waits for that instead, with this as its deadline."""
    never = asyncio.Event()
    try:
        async with asyncio.timeout(seconds):
            await never.wait()
    except TimeoutError:
        return


async def until(clock: Clock, at_ms: int) -> None:
    """Return when the clock shows `at_ms`."""
    while (left_ms := at_ms - clock()) > 0:
        await rest(min(left_ms / 1000, look_again_s(clock)))
