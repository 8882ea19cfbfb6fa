"""Blocking work on files, in a thread; and work beside other work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

#: Works that wait for the disk at the same time. Python's own default (processors and four) lets a few long snapshots
#: keep every other microVM from its files.
WORKERS = 64

P = ParamSpec("P")
T = TypeVar("T")


def pool() -> ThreadPoolExecutor:
    """For `loop.set_default_executor`; a thread is made when no other is free."""
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="files")


async def finish(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, but when this returns or raises, the thread is done, also when we are cancelled.

    `to_thread` leaves the thread alone then: it would write into a folder that the cancelled caller clears up.
    """
    done = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **kwargs))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait((done,))
        raise


async def stoppable(work: Callable[Concatenate[threading.Event, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """As `finish`, for work of seconds: it is handed an event, set when we are cancelled, and ends soon after.

    It has a thread of its own: a few such works would leave none of the loop's few for anybody else.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, "rekindle-long") as own:
        done = asyncio.get_running_loop().run_in_executor(own, partial(work, stop, *args, **kwargs))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait((done,))
            if not done.cancelled():
                done.exception()  # that it was stopped is no news
            raise


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """`work` as a task while the block goes on; it is over when the block is left. What it raises is raised where the
    block awaits it: nothing cancels the block before."""
    task = asyncio.create_task(work)  # noqa: TID251 - this block owns it; a TaskGroup would wrap its errors
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # the block has failed for a reason of its own
