"""One microVM from launch to end with faults in any of its works, and what must be true after each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.cloud import Vm, reply
from tests.e2e.conftest import IDLE, PAYLOAD
from tests.faults.board import Fault, Strike
from tests.faults.rig import SETTLES_S, Rig, named
from tests.waiting import until

LAUNCH, SUSPEND, RESUME = "launch", "suspend", "resume"
#: The ways in which a life ends: asked, by its app, and cut off while it starts or wakes.
TERMINATE, EXIT, CUT_LAUNCH, CUT_RESUME = ENDINGS = ("terminate", "exit", "cut launch", "cut resume")
OPERATIONS = (LAUNCH, SUSPEND, RESUME, *ENDINGS)
Strikes = Sequence[Strike]

_EITHER = {
    LAUNCH: ("RUNNING", "TERMINATED"),
    SUSPEND: ("SUSPENDED", "RUNNING"),
    RESUME: ("RUNNING", "SUSPENDED"),
    **dict.fromkeys(ENDINGS, ("TERMINATED",)),
}
#: A work that is redone from the top: these faults may cost time and nothing else.
_HARMLESS = {
    LAUNCH: (Fault.KILL, Fault.KILL_DURING, Fault.RELAY),
    SUSPEND: (Fault.KILL, Fault.KILL_DURING, Fault.VMM),
    RESUME: (Fault.KILL, Fault.KILL_DURING),
}

SETUP = """
import os, zlib
blob = os.urandom(1 << 20); crc = zlib.crc32(blob)
def put(n):
    global kept
    kept = n
    with open('kept', 'w') as f:
        f.write(str(n)); f.flush(); os.fsync(f.fileno())
"""
MOMENT = "(kept, int(open('kept').read()), zlib.crc32(blob) == crc)"


def ends(operation: str, strikes: Strikes) -> tuple[str, ...]:
    """The phases in which a struck work may end; the first is that of one without a fault."""
    harmless = all(one.fault in _HARMLESS.get(operation, ()) for one in strikes)
    return _EITHER[operation][: 1 if harmless else 2]


@dataclass
class Life:
    """One VM. `moments`: the counts that its guest may be at; memory and disk always agree on one."""

    rig: Rig
    image: str
    ending: str = TERMINATE
    vm: Vm | None = None
    moments: tuple[int, ...] = ()
    struck: dict[str, Strikes] = field(default_factory=dict)
    met: dict[str, set[int]] = field(default_factory=dict)  #: by operation, the boundaries that it came by

    def live(self, strikes: Mapping[str, Strikes]) -> None:
        """Raises AssertionError saying which strike was not survived."""
        if self.ending == CUT_LAUNCH:
            self._launch(CUT_LAUNCH, strikes.get(CUT_LAUNCH, ()))
            return
        self._launch(LAUNCH, strikes.get(LAUNCH, ()))
        self._begin()
        self._work(SUSPEND)
        self._work(RESUME)
        self._step(2)
        self._work(SUSPEND, strikes.get(SUSPEND, ()))
        self._whole_snapshots()
        self._must_be("SUSPENDED", SUSPEND)
        if self.ending != CUT_RESUME:
            self._work(RESUME, strikes.get(RESUME, ()))
            self._look()
        self._work(self.ending, strikes.get(self.ending, ()))
        assert not self._vm.home.exists(), f"{self._vm.home} is left"

    @property
    def _vm(self) -> Vm:
        assert self.vm is not None
        return self.vm

    def _launch(self, operation: str, strikes: Strikes) -> None:
        """The answer may be lost on the way, but one call makes at most one VM."""
        before = self.rig.vm_ids()

        def begin() -> None:
            vm = self.rig.run(self.image, idlePolicy=IDLE, runHookPayload=PAYLOAD)
            if operation == CUT_LAUNCH:
                self.rig.client().terminate_microvm(microvmIdentifier=vm.id)

        def settled() -> bool:
            return all(self.rig.rests(one) for one in self.rig.vm_ids() - before)

        did = self._struck(operation, strikes, begin, settled)
        made = self.rig.vm_ids() - before
        assert len(made) <= 1, f"one call made {made}"
        if made:
            self._found(made.pop())
            if operation == CUT_LAUNCH and self.rig.vm_row(self._vm.id)["phase"] == "RUNNING":
                self._vm.terminate()  # the second call did not get through
            self._ended(operation, did)

    def _begin(self) -> None:
        if self.vm is None or self.rig.vm_row(self.vm.id)["phase"] == "TERMINATED":
            vm = self.rig.run(self.image, idlePolicy=IDLE, runHookPayload=PAYLOAD)
            self._found(vm.id)
            self.rig.struck((), lambda: None, lambda: self.rig.rests(vm.id))
        reply(self._vm, SETUP)
        self._step(1)

    def _found(self, vm_id: str) -> None:
        def told() -> dict[str, Any]:
            self.rig.start_if_dead()
            return self.rig.operator(f"/v1/microvms/{vm_id}") or {}

        self.vm = Vm(self.rig, vm_id, until(told, SETTLES_S, f"{vm_id} is told of")["endpoint"])

    def _work(self, operation: str, strikes: Strikes = ()) -> None:
        vm = self._vm

        def settled() -> bool:
            if operation in ENDINGS:
                return bool(self.rig.vm_row(vm.id)["phase"] == "TERMINATED") or self._asked_again(operation)
            return self.rig.rests(vm.id)

        self._ended(operation, self._struck(operation, strikes, self._call(operation), settled))

    def _call(self, operation: str) -> Callable[[], object]:
        vm, api = self._vm, self.rig.client()
        if operation == EXIT:
            return self._exit
        if operation == CUT_RESUME:
            return lambda: (
                api.resume_microvm(microvmIdentifier=vm.id),
                api.terminate_microvm(microvmIdentifier=vm.id),
            )
        calls = {SUSPEND: api.suspend_microvm, RESUME: api.resume_microvm, TERMINATE: api.terminate_microvm}
        return lambda: calls[operation](microvmIdentifier=vm.id)

    def _exit(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            self._vm.snippet("os._exit(3)")

    def _asked_again(self, operation: str) -> bool:
        """A call that was cut off, or an app that fell back to before its end: asked once more."""
        row = self.rig.vm_row(self._vm.id)
        if row["phase"] in ("RUNNING", "SUSPENDED") and self.rig.rests(self._vm.id) and self.rig.board.struck:
            if operation == EXIT:
                self._exit()
            else:
                api = self.rig.client()
                self.rig.ask(lambda: api.terminate_microvm(microvmIdentifier=self._vm.id))
        return False

    def _struck(
        self, operation: str, strikes: Strikes, act: Callable[[], object], settled: Callable[[], bool]
    ) -> Strikes:
        before = self.rig.board.counts()
        try:
            did = self.rig.struck(strikes, act, settled)
        except AssertionError as err:
            told = named(self.rig.boundaries, strikes)
            story = self.rig.why(self._vm) if self.vm else self.rig.log()[-4000:]
            raise AssertionError(f"{operation}, {told}: {err}\n{story}") from err
        after = self.rig.board.counts()
        self.met.setdefault(operation, set()).update(
            number for number, (was, now) in enumerate(zip(before, after, strict=True)) if now > was
        )
        if did:
            self.struck[operation] = did
        return did

    def _ended(self, operation: str, did: Strikes) -> None:
        row = self.rig.vm_row(self._vm.id)
        allowed = ends(operation, did)
        told = f"{operation}, {named(self.rig.boundaries, did)}: {row['phase']}"
        assert row["phase"] in allowed, f"{told}\n{self.rig.why(self._vm)}"
        if row["phase"] != allowed[0]:
            assert row["state_reason"], f"{told} without a reason"
        if operation == SUSPEND and any(one.fault is Fault.VMM for one in did):
            self.moments = tuple({self.moments[-1] - 1, *self.moments})  # back to the sleep before

    def _must_be(self, phase: str, operation: str) -> None:
        """What a fault kept from happening happens now."""
        if self.rig.vm_row(self._vm.id)["phase"] != phase:
            self._look()
            self._work(operation)

    def _step(self, number: int) -> None:
        assert reply(self._vm, f"put({number}), {MOMENT}") == f"(None, ({number}, {number}, True))"
        self.moments = (number,)

    def _look(self) -> None:
        """Memory and disk are of one moment, and of one that may be. Wakes the VM."""
        found = reply(self._vm, MOMENT)
        allowed = {f"({one}, {one}, True)": one for one in self.moments}
        assert found in allowed, f"{found}, not of {self.moments}, after {self._told()}\n{self.rig.why(self._vm)}"
        self.moments = (allowed[found],)

    def _whole_snapshots(self) -> None:
        """A snapshot is whole or not there; but tidying that failed is taken up only behind the next sleep."""
        if any(one.fault in (Fault.FULL, Fault.BROKEN) for one in self.struck.get(SUSPEND, ())):
            return
        folder = self._vm.home / "snapshots"

        def whole() -> bool:
            return all((one / "manifest.json").exists() for one in folder.iterdir())

        try:
            until(whole, 30, "no snapshot is half")  # what is left of an old one is removed behind the sleeper
        except AssertionError as err:
            raise AssertionError(f"{err} after {self._told()}\n{self.rig.why(self._vm)}") from err

    def _told(self) -> str:
        return "; ".join(f"{name}: {named(self.rig.boundaries, one)}" for name, one in self.struck.items())
