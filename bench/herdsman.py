"""Who of the soak's herd does what next, and what becomes of a member that did not do as it must."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial

from bench.herd import Animal, Herd
from bench.kinds import KINDS, Kind
from bench.walk import Lost

LOG_LINES = 80  #: of the service's log, that a loss shows
REST_S = 0.05
AGAIN_S = 1.0  #: after a launch that a full disk refused
STEPS_MAX = 4  #: in a row


@dataclass(frozen=True)
class Loss:
    """One microVM that did not do as it must, with all that is known of it."""

    vm: str
    why: str
    story: list[str]
    service_log: list[str]
    row: object

    def told(self) -> str:
        lines = [f"LOST {self.vm}: {self.why}", "-- what was done with it", *self.story]
        lines += ["-- what the service says of it", str(self.row), "-- the end of the service's log", *self.service_log]
        return "\n".join(lines)

    def saved(self) -> dict[str, object]:
        return asdict(self)


@dataclass
class Herdsman:
    herd: Herd
    rng: random.Random
    size: int
    most_awake: int
    say: Callable[[str], None]
    losses: list[Loss] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    _members: list[Animal] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def members(self) -> list[Animal]:
        with self._lock:
            return list(self._members)

    def fill(self, workers: int) -> None:
        """Launch until the herd is complete; every member has slept once then."""
        kinds = [KINDS[number % len(KINDS)] for number in range(self.size)]
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(self._newcomer, kinds))

    def work(self, until_s: float) -> None:
        """One worker's life."""
        while time.monotonic() < until_s and not self.over.is_set():
            one = self._free()
            if one is None:
                self.over.wait(REST_S)
                continue
            with one.lock:
                if not one.over:
                    self._watched(one, self._next(one))
            if one.over:
                self._replace(one)

    def home(self, workers: int) -> None:
        """Every member is woken, verified and ended."""
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(self._last, self.members()))

    # -- choosing ------------------------------------------------------------------------------------------------------

    def _free(self) -> Animal | None:
        """A member that nobody works with: an awake one when too many are awake, else any."""
        free = [one for one in self.members() if not one.lock.locked()]
        awake = [one for one in free if one.awake]
        choice = awake if self._crowded() else free
        return self.rng.choice(choice) if choice else None

    def _crowded(self) -> bool:
        return sum(one.awake for one in self.members()) > self.most_awake

    def _next(self, one: Animal) -> Callable[[], None]:
        walk = partial(one.walk, self.rng.randint(1, STEPS_MAX))
        if not one.awake:
            return self._of((walk, 60), (one.verify, 15), (one.resume, 22), (one.terminate, 3))
        if self._crowded():
            return self._of((one.suspend, 75), (one.suspend_under_way, 22), (one.terminate, 3))
        return self._of((walk, 65), (one.verify, 10), (one.suspend, 22), (one.terminate, 3))

    def _of(self, *choices: tuple[Callable[[], None], int]) -> Callable[[], None]:
        return self.rng.choices([do for do, _ in choices], [weight for _, weight in choices])[0]

    # -- doing ---------------------------------------------------------------------------------------------------------

    def _newcomer(self, kind: Kind) -> None:
        while not self._launched(kind):
            self.over.wait(AGAIN_S)

    def _launched(self, kind: Kind) -> bool:
        """False when the disk was full and refused it: that is not what a loss is."""
        one, began_s = None, time.monotonic()
        try:
            one = self.herd.run(kind)
            one.begin()
            one.suspend()
        except Exception as err:  # noqa: BLE001 - a fault of any kind is what is looked for
            if self.herd.full_until_s >= began_s and (one is None or not one.answered):
                self.herd.tally.count("launch refused by a full disk")
                if one is not None:
                    self._watched(one, one.terminate)
                return False
            self._lost(one, err)
            return True
        with self._lock:
            self._members.append(one)
        return True

    def _watched(self, one: Animal, *works: Callable[[], None]) -> None:
        try:
            for work in works:
                work()
        except Exception as err:  # noqa: BLE001 - a fault of any kind is what is looked for
            self._lost(one, err)
            one.over = True

    def _replace(self, one: Animal) -> None:
        with self._lock:
            if one not in self._members:
                return
            self._members.remove(one)
        self._newcomer(one.kind)

    def _last(self, one: Animal) -> None:
        with one.lock:
            self._watched(one, one.verify, one.step, one.terminate)

    def _lost(self, one: Animal | None, err: Exception) -> None:
        why = str(err) if isinstance(err, Lost) else "".join(traceback.format_exception(err))
        loss = Loss(
            vm="a launch" if one is None else f"{one.kind.name} {one.id}",
            why=why,
            story=[] if one is None else list(one.story),
            service_log=self._log(one),
            row=None if one is None else _row(one),
        )
        with self._lock:
            self.losses.append(loss)
        self.say(loss.told())

    def _log(self, one: Animal | None) -> list[str]:
        """The end of what the service wrote of this one, or of no call."""
        lines = self.herd.api.cloud.log().splitlines()
        return [line for line in lines if (one and one.id in line) or "rekindle.api.app" not in line][-LOG_LINES:]


def _row(one: Animal) -> object:
    try:
        return one.inspected()
    except Exception as err:  # noqa: BLE001 - it is lost already; why is told elsewhere
        return f"it is not to be had: {err}"
