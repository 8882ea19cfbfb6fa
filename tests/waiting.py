"""The one place where tests let time pass: a condition, a deadline, and a sentence for the failure."""

# ruff: noqa: TID251 - conditions of other processes (a pid gone, a socket file there) have no common event to wait on

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
STEP_S = 0.01
#: Every deadline is multiplied by it: more than 1 for machines that are much slower than those these tests are made on.
SLOWNESS = float(os.environ.get("REKINDLE_TEST_SLOWNESS", "1"))


def until(condition: Callable[[], T], within_s: float, what: str) -> T:
    """The first true value of `condition`. Raises AssertionError naming `what` when there is none in time."""
    within_s *= SLOWNESS
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s} s; last: {value!r}")
        time.sleep(STEP_S)
    return value


async def until_async(condition: Callable[[], Awaitable[T]], within_s: float, what: str) -> T:
    """As `until`, for a condition that is awaited; the loop runs on between two tries."""
    within_s *= SLOWNESS
    deadline = time.monotonic() + within_s
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s} s; last: {value!r}")
        await asyncio.sleep(STEP_S)
    return value


def a_moment(seconds: float) -> None:
    """Let time pass: for faults that shall strike at a random moment, and for nothing else."""
    time.sleep(seconds)
