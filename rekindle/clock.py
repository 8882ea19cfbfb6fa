"""The one place that reads the wall clock. Code that needs the time takes a `Clock` as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Returns UTC epoch milliseconds.
Clock = Callable[[], int]


def wall_ms() -> int:
    return time.time_ns() // 1_000_000
