"""A pause where nothing could tell us earlier: before another try, or between two looks at something mute."""

from __future__ import annotations

import asyncio


async def rest(seconds: float) -> None:
    """Return after `seconds`. Whoever can be told waits for that instead, with this as its deadline."""
    never = asyncio.Event()
    try:
        async with asyncio.timeout(seconds):
            await never.wait()
    except TimeoutError:
        return
