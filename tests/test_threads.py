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
