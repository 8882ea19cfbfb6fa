"""What the soak does to the service, the relay and the VMMs, and what the herd is told of it."""

from __future__ import annotations

import contextlib
import math
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from bench.herd import Animal, Herd
from bench.patience import Tally
from tests.e2e.cloud import Cloud

GONE_S = 30.0
FULL_S = (2.0, 12.0)
MIB = 1024**2
AWAY_S = 3.0  #: at most, how long a service that was killed stays away before it is started again


class Strikes:
    """One strike at a time. Nothing but a kill of a VMM may set a microVM back."""

    def __init__(
        self, herd: Herd, members: Callable[[], Sequence[Animal]], rng: random.Random, disk: Path | None = None
    ) -> None:
        """`disk`: a file system that only the microVMs' folders are on, and that may be filled."""
        self._cloud: Cloud = herd.api.cloud
        self._herd = herd
        self._members = members
        self._tally: Tally = herd.tally
        self._rng = rng
        self._disk = disk
        self._pause = threading.Event()
        self.last_s = 0.0  #: when the last one ended
        self._kinds: dict[str, tuple[int, Callable[[], bool]]] = {
            "service killed": (3, self._service),
            "relay killed": (3, self._relay),
            "service and relay killed": (1, self._both),
            "service restarted in order": (1, self._restart),
            "VMM killed": (5, self._vmm),
            "VMM killed while the service is away": (2, self._vmm_unseen),
        }
        if disk is not None:
            self._kinds["disk filled"] = (4, self._fill)

    def one(self) -> None:
        """Strike at random. Raises AssertionError when the service does not come back."""
        names = list(self._kinds)
        (name,) = self._rng.choices(names, [weight for weight, _ in self._kinds.values()])
        _, strike = self._kinds[name]
        if strike():
            self._tally.count(name)
        self.last_s = time.monotonic()

    def _service(self) -> bool:
        self._cloud.kill()
        self._back()
        return True

    def _relay(self) -> bool:
        """The service starts another by itself."""
        pid = self._relay_pid()
        return pid is not None and _killed(os.pidfd_open(pid))

    def _both(self) -> bool:
        pid = self._relay_pid()
        self._cloud.kill()
        if pid is not None:
            _killed(os.pidfd_open(pid))
        self._back()
        return True

    def _restart(self) -> bool:
        self._cloud.stop()
        self._back()
        return True

    def _vmm(self) -> bool:
        """The VMM of a microVM that has slept before, whatever is being done with it."""
        animals = [one for one in self._members() if not one.over]
        self._rng.shuffle(animals)
        return any(self._struck(one) for one in animals)

    def _vmm_unseen(self) -> bool:
        self._cloud.kill()
        hit = self._vmm()
        self._back()
        return hit

    def _fill(self) -> bool:
        """Leave little or nothing for some seconds. A step may stand still, a launch or a resume may be refused."""
        assert self._disk is not None
        space, filler = os.statvfs(self._disk), self._disk / "filler"
        left = self._rng.choice((0, 1, 16)) * MIB
        self._herd.full_until_s = math.inf
        try:
            with filler.open("wb") as file, contextlib.suppress(OSError):  # somebody else may be faster
                os.posix_fallocate(file.fileno(), 0, max(1, space.f_bavail * space.f_frsize - left))
            self._pause.wait(self._rng.uniform(*FULL_S))
        finally:
            filler.unlink()
            self._herd.full_until_s = time.monotonic()
        return True

    def _struck(self, one: Animal) -> bool:
        pidfd = one.vmm()
        if pidfd is None:
            return False
        if not one.ledger.strike():
            os.close(pidfd)
            return False
        one.note("its VMM is killed")
        _killed(pidfd)
        one.ledger.dead(time.monotonic())
        return True

    def _back(self) -> None:
        before_s = time.monotonic()
        self._pause.wait(self._rng.uniform(0, AWAY_S))
        self._cloud.start()
        self._tally.took("service away", time.monotonic() - before_s)

    def _relay_pid(self) -> int | None:
        try:
            return self._cloud.relay_pid()
        except (httpx.HTTPError, OSError):
            return None


def _killed(pidfd: int) -> bool:
    """SIGKILL, and return when it is gone. Closes `pidfd`."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not select.select([pidfd], [], [], GONE_S)[0]:
            raise AssertionError(f"a process was there {GONE_S} s after SIGKILL")
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
