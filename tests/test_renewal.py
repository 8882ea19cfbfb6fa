"""The certificate of a service that never stops is renewed in time, and whoever serves it is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cryptography import x509

from rekindle import identity
from rekindle.clock import FileClock, wall_ms
from rekindle.config import Config
from rekindle.guest.client import RelayGone
from rekindle.renewal import certificates

DAY_MS = 86_400_000


class Days:
    """A clock that stands still between jumps, as a file has it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._shown_ms = wall_ms()
        self.pass_(0)
        self.clock = FileClock(file)

    def pass_(self, days: float) -> None:
        self._shown_ms += int(days * DAY_MS)
        text = json.dumps({"real_ms": wall_ms(), "shown_ms": self._shown_ms, "rate": 0})
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.rename(self._file)


class Relay:
    """Hears that the files have changed; `failing` of the next times it is away."""

    def __init__(self) -> None:
        self.told = 0
        self.failing: list[Exception] = []
        self.heard = asyncio.Event()

    async def changed(self) -> None:
        self.told += 1
        self.heard.set()
        if self.failing:
            raise self.failing.pop()


def serial(config: Config) -> int:
    return x509.load_pem_x509_certificate((config.state / "ca/server.pem").read_bytes()).serial_number


async def looked(relay: Relay) -> None:
    async with asyncio.timeout(10):
        await relay.heard.wait()
    relay.heard.clear()


@pytest.mark.parametrize("failure", [None, RelayGone("away"), OSError(28, "No space left on device")])
async def test_it_is_renewed_a_month_before_its_end_and_then_left_alone(
    tmp_path: Path, failure: Exception | None
) -> None:
    days, relay = Days(tmp_path / "clock"), Relay()
    config = Config(state=tmp_path / "state", tools_dir=tmp_path)
    identity.ensure(config, days.clock)
    first = serial(config)
    relay.failing = [failure] if failure else []
    async with certificates(config, days.clock, relay.changed):
        days.pass_(365)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):  # it looks every tenth of a second
                await relay.heard.wait()
        assert serial(config) == first
        days.pass_(2)
        await looked(relay)
        second = serial(config)
        assert second != first
        if failure:
            days.pass_(1 / 24)  # tried again at the next look
            await looked(relay)
            assert serial(config) == second
        days.pass_(370)
        await looked(relay)
    assert serial(config) not in (first, second)
    assert relay.told == (3 if failure else 2)
