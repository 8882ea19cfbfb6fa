"""Threads are done when `finish` is, however it ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rekindle import threads


async def test_the_result_and_the_error_come_through() -> None:
    assert await threads.finish(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await threads.finish(int, "seven")


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(5)
        ended.set()

    async with asyncio.TaskGroup() as own:
        task = own.create_task(threads.finish(work))
        await asyncio.to_thread(begun.wait, 5)
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=0.05)
        assert not done
        may_end.set()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert ended.is_set()


async def test_long_work_is_told_that_its_caller_was_cancelled() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(stop: threading.Event, count: int) -> int:
        begun.set()
        if count == 1 and stop.wait(5):
            ended.set()
            raise OSError("given up")
        return count

    assert await threads.stoppable(work, 7) == 7
    begun.clear()
    async with asyncio.TaskGroup() as own:
        task = own.create_task(threads.stoppable(work, 1))
        await asyncio.to_thread(begun.wait, 5)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert ended.is_set()


async def test_work_beside_a_block_ends_with_it_and_fails_where_it_is_awaited() -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError("named")

    async with threads.beside(for_ever()) as going_on:
        pass
    assert going_on.cancelled()
    with pytest.raises(ValueError, match="named"):
        async with threads.beside(fails()) as failing:
            await failing
    async with threads.beside(fails()) as unheard:
        await asyncio.wait((unheard,))


async def test_long_works_of_many_do_not_keep_another_waiting() -> None:
    """As many as the machine has microVMs that are going to sleep: each waits until all have begun."""
    asyncio.get_running_loop().set_default_executor(threads.pool())
    everybody = threading.Barrier(50)
    await asyncio.gather(*(threads.finish(everybody.wait, 10) for _ in range(50)))
    assert not everybody.broken
