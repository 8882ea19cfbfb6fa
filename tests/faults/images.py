"""An image from its artifact to its end, with faults: it is whole or not there, and what failed says why."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import botocore.exceptions

from tests.e2e.cloud import HOOKS, interpreter_files, reply
from tests.faults.board import Fault, Strike
from tests.faults.rig import Rig, named

#: Ways to bake: with all hooks, without any, and an app that ends at once; then two ways in which images go.
HOOKED, PLAIN, ENDS = BAKES = ("bake", "bake without hooks", "bake of an app that ends")
DELETE, REMOVE = REMOVALS = ("delete", "remove")
KILLS_A_BAKE = 5
_names = itertools.count(1)
_BUILDING = ("PENDING", "IN_PROGRESS")


def _members(bake: str) -> dict[str, Any]:
    return {"hooks": HOOKS} if bake == HOOKED else {}


def _files(bake: str) -> dict[str, bytes]:
    if bake != ENDS:
        return interpreter_files()
    return {"Dockerfile": b'FROM rekindle/debian:13\nCMD ["sh", "-c", "sleep 1; exit 5"]\n'}


@dataclass
class ImageLife:
    """One image: baked, run once when it came to be, and removed."""

    rig: Rig
    bake: str = HOOKED
    removal: str = DELETE
    name: str = field(default_factory=lambda: f"fault-{next(_names)}")
    struck: dict[str, Sequence[Strike]] = field(default_factory=dict)
    met: dict[str, set[int]] = field(default_factory=dict)
    _fails: bool = False

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:us-east-1:000000000000:microvm-image:{self.name}"

    def live(self, baking: Sequence[Strike] = (), removing: Sequence[Strike] = ()) -> None:
        """Raises AssertionError saying what was not survived."""
        self._fails = any(one.fault in (Fault.FULL, Fault.BROKEN) for one in baking)
        self._struck(self.bake, baking, self._create, self._built)
        if self._fails:
            self.rig.stop()
            self.rig.start()
        state = self._state()
        self._ended(state, self.struck.get(self.bake, ()))
        if state == "SUCCESSFUL":
            vm = self.rig.run(self.arn)
            vm.until("RUNNING")
            assert reply(vm, "6 * 7") == "42"
            vm.terminate()
        self._struck(self.removal, removing, self._remove, lambda: self._state() is None)

    def _create(self) -> None:
        try:
            self.rig.create_image(self.name, _files(self.bake), **_members(self.bake))
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            if self._state() is None:  # the call did not get through
                self.rig.start_if_dead()
                self.rig.create_image(self.name, _files(self.bake), **_members(self.bake))

    def _remove(self) -> None:
        if self.removal == REMOVE:
            self.rig.operator(f"/v1/images/rm?arn={self.arn}", method="POST")
        else:
            self.rig.client().delete_microvm_image(imageIdentifier=self.arn)

    def _state(self) -> str | None:
        rows = self.rig.rows("SELECT state FROM version WHERE image_arn = ?", self.arn)
        return str(rows[0]["state"]) if rows else None

    def _built(self) -> bool:
        self.rig.remember()
        state = self._state()
        if state is None or state in _BUILDING:
            return False
        return self._may_leave_folders or not any((self.rig.state / "builds").iterdir())

    @property
    def _may_leave_folders(self) -> bool:
        """A folder that cannot be removed is swept at the next start."""
        return self._fails and self.rig.board.struck > 0

    def _ended(self, state: str | None, did: Sequence[Strike]) -> None:
        harmless = all(one.fault.ends_service for one in did)
        told = f"{self.bake}, {named(self.rig.boundaries, did)}: {state}"
        (row,) = self.rig.rows("SELECT state_reason FROM version WHERE image_arn = ?", self.arn)
        wanted = ("FAILED",) if self.bake == ENDS else ("SUCCESSFUL",) if harmless else ("SUCCESSFUL", "FAILED")
        assert state in wanted, f"{told}: {row['state_reason']}\n{self.rig.log()[-6000:]}"
        assert state == "SUCCESSFUL" or row["state_reason"], f"{told} without a reason"

    def _struck(
        self, operation: str, strikes: Sequence[Strike], act: Callable[[], object], settled: Callable[[], bool]
    ) -> None:
        before = self.rig.board.counts()
        try:
            did = self.rig.struck(strikes, act, settled, within_s=240 * (1 + len(strikes)))
        except AssertionError as err:
            told = named(self.rig.boundaries, strikes)
            raise AssertionError(f"{operation}, {told}: {err}\n{self.rig.log()[-6000:]}") from err
        after = self.rig.board.counts()
        self.met[operation] = {n for n, (was, now) in enumerate(zip(before, after, strict=True)) if now > was}
        if did:
            self.struck[operation] = did


@dataclass
class ImageCampaign:
    rig: Rig
    seed: int
    met: dict[str, set[int]] = field(default_factory=dict)
    struck: Counter[Strike] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def discover(self, bakes: Sequence[str] = BAKES) -> None:
        """One image of every kind without a fault; what an earlier kind came by is not its own."""
        known: set[int] = set()
        for bake, removal in zip(bakes, itertools.cycle(REMOVALS), strict=False):
            life = ImageLife(self.rig, bake, removal)
            life.live()
            for operation, met in life.met.items():
                self.met[operation] = met - (known if operation in BAKES else set())
            known |= life.met[bake]

    def run(self, faults: str) -> None:
        """SIGKILL everywhere, several in one bake; then, at each boundary, every other fault (all), one (each) or none
        (kill)."""
        rng = random.Random(self.seed)
        others = [fault for fault in Fault if not fault.ends_service]
        for bake, met in self._bakes().items():
            kills = [Strike(boundary, Fault.KILL) for boundary in rng.sample(sorted(met), len(met))]
            for first in range(0, len(kills), KILLS_A_BAKE):
                self._one(bake, kills[first : first + KILLS_A_BAKE], rng)
                print(
                    f"{bake}: {first + KILLS_A_BAKE} of {len(kills)} kills, {len(self.failures)} failures", flush=True
                )
            for boundary in sorted(met) if faults != "kill" else ():
                for fault in others if faults == "all" else [rng.choice(others)]:
                    self._one(bake, [Strike(boundary, fault)], rng)
                print(f"{bake}: boundary {boundary}, {len(self.failures)} failures", flush=True)

    def _bakes(self) -> Mapping[str, set[int]]:
        return {operation: met for operation, met in self.met.items() if operation in BAKES}

    def _one(self, bake: str, strikes: Sequence[Strike], rng: random.Random) -> None:
        removal = rng.choice(REMOVALS)
        removing = [Strike(rng.choice(sorted(self.met[removal])), rng.choice(list(Fault)))]
        life = ImageLife(self.rig, bake, removal)
        try:
            with self.rig.nothing_left():
                life.live(strikes, removing)
        except AssertionError as err:
            self.failures.append(f"{err}")
            print(f"FAILED {err}\n", flush=True)
            with contextlib.suppress(AssertionError):
                self.rig.afresh()
        for did in life.struck.values():
            self.struck.update(did)
