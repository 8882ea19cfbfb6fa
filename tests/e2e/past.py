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
    """Goes at the real pace between jumps."""

    def __init__(self, file: Path, *, ago_s: float) -> None:
        self.file = file
        self._behind_ms = int(ago_s * 1000)
        self._write()
        self.now_ms = FileClock(file)

    def pass_s(self, seconds: float) -> None:
        """Jump ahead."""
        self._behind_ms -= int(seconds * 1000)
        assert self._behind_ms >= 0, "the test's clock must not show the future"
        self._write()

    def jump_to_ago(self, ago_s: float) -> None:
        """Ahead to so long before the real now."""
        self.pass_s(self._behind_ms / 1000 - ago_s)

    def _write(self) -> None:
        real_ms = wall_ms()
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"real_ms": real_ms, "shown_ms": real_ms - self._behind_ms, "rate": 1}))
        new.rename(self.file)

    def jump_to(self, at_ms: int) -> None:
        self.pass_s((at_ms - self.now_ms()) / 1000)

    @contextmanager
    def signing(self) -> Iterator[None]:
        """boto3 signs at this time meanwhile."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(botocore.auth, "get_current_datetime", self._datetime)
            yield

    def _datetime(self, remove_tzinfo: bool = True) -> datetime:
        now = datetime.fromtimestamp(self.now_ms() / 1000, UTC)
        return now.replace(tzinfo=None) if remove_tzinfo else now
