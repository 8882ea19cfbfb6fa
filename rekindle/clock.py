"""The one place that reads the wall clock. Code that needs the time takes a `Clock` as an argument."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: Returns UTC epoch milliseconds.
Clock = Callable[[], int]

TEST_CLOCK = "REKINDLE_TEST_CLOCK"
LOOK_AGAIN_S = 60.0
LOOK_AGAIN_TEST_S = 0.1


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class FileClock:
    """TEST ONLY: the time as a file has it, `{"real_ms", "shown_ms", "rate"}`: shown_ms at real_ms, from there on at
    `rate` times the real pace. The relay reads the same file; whoever writes it renames it in."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> int:
        says = json.loads(self._path.read_text())
        return int(says["shown_ms"] + (wall_ms() - says["real_ms"]) * says["rate"])


def of(env: Mapping[str, str]) -> Clock:
    """This machine's clock, or the one of a test."""
    return FileClock(Path(env[TEST_CLOCK])) if env.get(TEST_CLOCK) else wall_ms


def look_again_s(clock: Clock) -> float:
    """How long to wait at most for an instant before the clock is read again: it may have been set, and timers stand
    still while this machine sleeps."""
    return LOOK_AGAIN_TEST_S if isinstance(clock, FileClock) else LOOK_AGAIN_S
