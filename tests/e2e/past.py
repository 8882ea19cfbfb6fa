"""A service whose clock is a file: it begins in the past and is moved by hours and days, never beyond the real now.

Certificates must be good for clients whose clock is the real one, and signatures are made at the service's time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import botocore.auth
import pytest

from rekindle.clock import FileClock, wall_ms

HOUR_S = 3600
DAY_S = 24 * HOUR_S


class PastClock:
    """Goes at the real pace between jumps, or at `rate` times it."""

    def __init__(self, file: Path, *, ago_s: float) -> None:
        self.file = file
        self._write(wall_ms() - int(ago_s * 1000), 1)
        self.now_ms = FileClock(file)

    def pass_s(self, seconds: float) -> None:
        """Jump ahead."""
        self.jump_to(self.now_ms() + int(seconds * 1000))

    def jump_to(self, at_ms: int) -> None:
        assert self.now_ms() <= at_ms <= wall_ms(), "the test's clock goes ahead, and must not show the future"
        self._write(at_ms, 1)

    def jump_to_ago(self, ago_s: float) -> None:
        """Ahead to so long before the real now."""
        self.jump_to(wall_ms() - int(ago_s * 1000))

    @contextmanager
    def hurrying(self, rate: float) -> Iterator[None]:
        """Goes faster meanwhile."""
        self._write(self.now_ms(), rate)
        yield
        self.jump_to(self.now_ms())

    def _write(self, shown_ms: int, rate: float) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"real_ms": wall_ms(), "shown_ms": shown_ms, "rate": rate}))
        new.rename(self.file)

    @contextmanager
    def signing(self) -> Iterator[None]:
        """boto3 signs at this time meanwhile."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(botocore.auth, "get_current_datetime", self._datetime)
            yield

    def _datetime(self, remove_tzinfo: bool = True) -> datetime:
        now = datetime.fromtimestamp(self.now_ms() / 1000, UTC)
        return now.replace(tzinfo=None) if remove_tzinfo else now
