"""All faults at all boundaries: which there are, in what order they strike, and what came of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.board import Fault, Strike
from tests.faults.life import (
    CUT_LAUNCH,
    CUT_RESUME,
    ENDINGS,
    EXIT,
    LAUNCH,
    OPERATIONS,
    RESUME,
    SUSPEND,
    TERMINATE,
    Life,
    Strikes,
)
from tests.faults.rig import Rig, named

Plan = tuple[str, Mapping[str, Strikes]]  #: how the life ends, and what strikes in which work
Met = Mapping[str, set[int]]  #: by work, the boundaries that it comes by


@dataclass
class Campaign:
    """`met`: where the works come by without a fault. `behind`: where they come by only after one, and after which."""

    rig: Rig
    image: str
    seed: int
    met: dict[str, set[int]] = field(default_factory=dict)
    behind: dict[tuple[str, int], Strike] = field(default_factory=dict)
    struck: Counter[tuple[str, Strikes]] = field(default_factory=Counter)
    missed: list[tuple[str, Strikes]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def discover(self, endings: Sequence[str] = ENDINGS) -> None:
        """One life a way of ending, without faults."""
        for ending in endings:
            life = Life(self.rig, self.image, ending)
            life.live({})
            for operation, met in life.met.items():
                self.met.setdefault(operation, set()).update(met)

    def first(self, faults: Sequence[Fault] = tuple(Fault)) -> list[Plan]:
        """Each of `faults` at each boundary that a work comes by."""
        return self._lives(
            {
                operation: [
                    (Strike(boundary, fault),)
                    for boundary in sorted(self.met.get(operation, ()))
                    for fault in faults
                    if fault is not Fault.KILL_DURING or self.rig.boundaries[boundary].awaits
                ]
                for operation in OPERATIONS
            }
        )

    def one_each(self) -> list[Plan]:
        """One fault at each boundary, in turn, but for the SIGKILL of the service."""
        faults = [fault for fault in Fault if fault is not Fault.KILL]
        first = self.seed
        return self._lives(
            {
                operation: [
                    (Strike(boundary, faults[(first + boundary) % len(faults)]),)
                    for boundary in sorted(self.met.get(operation, ()))
                ]
                for operation in OPERATIONS
            }
        )

    def second(self, faults: Sequence[Fault]) -> list[Plan]:
        """A second fault at each boundary that only a first one leads to."""
        wanted: dict[str, list[Strikes]] = {operation: [] for operation in OPERATIONS}
        for (operation, boundary), first in sorted(self.behind.items(), key=lambda item: item[0]):
            wanted[operation] += [(first, Strike(boundary, fault)) for fault in faults]
        return self._lives(wanted)

    def _lives(self, wanted: Mapping[str, list[Strikes]]) -> list[Plan]:
        """As few lives as hold one strike of every work each."""
        rng = random.Random(self.seed)
        shuffled = {operation: rng.sample(strikes, len(strikes)) for operation, strikes in wanted.items()}
        lives: list[Plan] = [(CUT_LAUNCH, {CUT_LAUNCH: one}) for one in shuffled.pop(CUT_LAUNCH)]
        cut: list[Plan] = [(CUT_RESUME, {CUT_RESUME: one}) for one in shuffled.pop(CUT_RESUME)]
        ends: list[Plan] = [(ending, {ending: one}) for ending in (TERMINATE, EXIT) for one in shuffled.pop(ending)]
        rng.shuffle(ends)
        whole = max(len(ends), *(len(one) - len(cut) for one in (shuffled[LAUNCH], shuffled[SUSPEND])))
        ends += [(TERMINATE, {})] * max(0, whole - len(ends), len(shuffled[RESUME]) - len(ends))
        for number, (ending, given) in enumerate([*ends, *cut]):
            more = {op: all_of[number] for op, all_of in shuffled.items() if number < len(all_of)}
            lives.append((ending, {**more, **given}))
        rng.shuffle(lives)
        return lives

    def run(self, lives: Sequence[Plan], *, stop_at: float | None = None) -> None:
        """Live them, all of them whatever fails; strikes that a life did not come by are `missed`."""
        for number, (ending, strikes) in enumerate(lives, 1):
            if stop_at is not None and time.monotonic() > stop_at:
                print(f"stopped after {number - 1} of {len(lives)} lives")
                return
            self._one(ending, strikes)
            if number % 10 == 0:
                print(f"{number} of {len(lives)} lives, {len(self.failures)} failures", flush=True)

    def _one(self, ending: str, strikes: Mapping[str, Strikes]) -> None:
        life = Life(self.rig, self.image, ending)
        try:
            with self.rig.nothing_left():
                life.live(strikes)
        except Exception as err:  # noqa: BLE001 - a fault of this harness fails the run as well, at its end
            told = "; ".join(f"{name}: {named(self.rig.boundaries, one)}" for name, one in life.struck.items())
            self.failures.append(f"{told or 'before any strike'}\n{type(err).__name__}: {err}")
            print(f"FAILED {self.failures[-1]}\n", flush=True)
            self.rig.afresh()
        self._learn(life, strikes)

    def _learn(self, life: Life, strikes: Mapping[str, Strikes]) -> None:
        for operation, one in strikes.items():
            did = life.struck.get(operation, ())
            if len(did) == len(one):
                self.struck[operation, one] += 1
            elif one[-1].fault is not Fault.KILL_DURING:  # such an await is over at once
                self.missed.append((operation, one))
            if len(did) == 1:
                for boundary in life.met.get(operation, set()) - self.met.get(operation, set()):
                    self.behind.setdefault((operation, boundary), did[0])

    def report(self, more: Mapping[Strike, int]) -> Iterator[str]:
        """Every boundary: how often it was met, and how often which fault struck there."""
        by_fault: dict[int, Counter[str]] = {}
        for one, times in [*((strikes[-1], times) for (_, strikes), times in self.struck.items()), *more.items()]:
            by_fault.setdefault(one.boundary, Counter())[one.fault.name] += times
        counts = self.rig.board.counts()
        for number, (boundary, count) in enumerate(zip(self.rig.boundaries, counts, strict=True)):
            did = " ".join(f"{name}:{times}" for name, times in sorted(by_fault.get(number, Counter()).items()))
            yield f"{count:8} {boundary}  {did}"

    def told_missed(self) -> Iterator[str]:
        return (f"{operation}: {named(self.rig.boundaries, strikes)}" for operation, strikes in self.missed)
