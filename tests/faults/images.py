"""An image from its artifact to its end, with faults: it is whole or not there, and what failed says why."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.exceptions

from bench.speaker import compile_go
from tests.e2e.cloud import HOOKS, ROOT
from tests.faults.board import Fault, Strike
from tests.faults.rig import Rig, named

#: Ways to bake: with all hooks, without any, and an app that ends at once; then two ways in which images go.
HOOKED, PLAIN, ENDS = BAKES = ("bake", "bake without hooks", "bake of an app that ends")
DELETE, REMOVE = REMOVALS = ("delete", "remove")
KILLS_A_BAKE = 5
SOURCE = ROOT / "examples/static-go"
_names = itertools.count(1)
_BUILDING = ("PENDING", "IN_PROGRESS")


def _members(bake: str) -> dict[str, Any]:
    return {"hooks": HOOKS | {"port": 8080}} if bake == HOOKED else {}


def _files(bake: str) -> dict[str, bytes]:
    """The smallest guest that there is: many are baked. What an app is, no boundary knows."""
    dockerfile = (SOURCE / "Dockerfile").read_bytes().replace(b"COPY ", b"COPY --chmod=755 ")
    if bake == ENDS:
        dockerfile += b"ENV LISTEN=nowhere.invalid\n"
    return {"Dockerfile": dockerfile, "app": _app()}


@functools.cache
def _app() -> bytes:
    with tempfile.TemporaryDirectory(prefix="rekindle-") as folder:
        compile_go(SOURCE, ".", Path(folder) / "app")
        return (Path(folder) / "app").read_bytes()


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
            with vm.http() as session:
                assert session.get("/").raise_for_status().text.startswith("microvm-")
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

    def run(self, kinds: Sequence[str], *, every: bool = False) -> None:
        """With `kill` among `kinds` SIGKILL everywhere, several in one bake; with `others` one other fault at each
        boundary, or each of them with `every`."""
        rng = random.Random(self.seed)
        for bake, met in self._bakes().items():
            if "kill" in kinds:
                self._kills(bake, rng.sample(sorted(met), len(met)), rng)
            if "others" in kinds:
                self._others(bake, sorted(met), rng, every=every)

    def _kills(self, bake: str, boundaries: Sequence[int], rng: random.Random) -> None:
        for first in range(0, len(boundaries), KILLS_A_BAKE):
            strikes = [Strike(boundary, Fault.KILL) for boundary in boundaries[first : first + KILLS_A_BAKE]]
            self._one(bake, strikes, rng)
            print(f"{bake}: kill {first} of {len(boundaries)}, {len(self.failures)} failures", flush=True)

    def _others(self, bake: str, boundaries: Sequence[int], rng: random.Random, *, every: bool) -> None:
        others = [fault for fault in Fault if not fault.ends_service]
        for number, boundary in enumerate(boundaries):
            for fault in others if every else [rng.choice(others)]:
                self._one(bake, [Strike(boundary, fault)], rng)
            print(f"{bake}: boundary {number} of {len(boundaries)}, {len(self.failures)} failures", flush=True)

    def _bakes(self) -> Mapping[str, set[int]]:
        return {operation: met for operation, met in self.met.items() if operation in BAKES}

    def _one(self, bake: str, strikes: Sequence[Strike], rng: random.Random) -> None:
        removal = rng.choice(REMOVALS)
        removing = [Strike(rng.choice(sorted(self.met[removal])), rng.choice(list(Fault)))]
        life = ImageLife(self.rig, bake, removal)
        try:
            with self.rig.nothing_left():
                life.live(strikes, removing)
        except Exception as err:  # noqa: BLE001 - a fault of this harness fails the run as well, at its end
            self.failures.append(f"{type(err).__name__}: {err}")
            print(f"FAILED {self.failures[-1]}\n", flush=True)
            with contextlib.suppress(AssertionError):
                self.rig.afresh()
        for did in life.struck.values():
            self.struck.update(did)
