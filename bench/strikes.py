"""What the soak does to the service, the relay and the VMMs, and what the herd is told of it."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence

import httpx

from bench.herd import Animal
from bench.patience import Tally
from tests.e2e.cloud import Cloud

GONE_S = 30.0
AWAY_S = 3.0  #: at most, how long a service that was killed stays away before it is started again


class Strikes:
    """One strike at a time. Nothing but a kill of a VMM may set a microVM back."""

    def __init__(self, cloud: Cloud, herd: Callable[[], Sequence[Animal]], tally: Tally, rng: random.Random) -> None:
        self._cloud = cloud
        self._herd = herd
        self._tally = tally
        self._rng = rng
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
        animals = [one for one in self._herd() if not one.over]
        self._rng.shuffle(animals)
        return any(self._struck(one) for one in animals)

    def _vmm_unseen(self) -> bool:
        self._cloud.kill()
        hit = self._vmm()
        self._back()
        return hit

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
