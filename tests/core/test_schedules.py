"""Thousands of schedules over the real table and the real rows: asks, works, crashes, duplicates and late facts.

The node is a model here, as small as it can be: what it has on disk and which process runs. What it may tell is what
`node/keeper.py` tells; who may move a row, and when, is the product's.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from rekindle.core.errors import Invalid, Refused, Stale
from rekindle.core.lifecycle import NEXT, OWES, Ask, Fact, Phase, Work
from rekindle.core.microvm import MicroVM
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, HandClock, built_image, started

T = TypeVar("T")
COMPLETES = {
    Work.START: Fact.STARTED,
    Work.SUSPEND: Fact.SUSPENDED,
    Work.RESUME: Fact.RESUMED,
    Work.STOP: Fact.STOPPED,
}
#: How a work may fail, as the keeper tells it; a stop is repeated until it is done.
FAILURES = {
    Work.START: (Fact.LOST,),
    Work.SUSPEND: (Fact.SUSPEND_FAILED, Fact.FELL_BACK, Fact.LOST),
    Work.RESUME: (Fact.RESUME_FAILED,),
    Work.STOP: (),
}
OVER = (Phase.TERMINATING, Phase.TERMINATED)


@dataclass
class Disk:
    """What a node has of one VM: whole snapshots by revision, and whether its process runs."""

    snapshots: set[int] = field(default_factory=set)
    runs: bool = False


class Lives(RuleBasedStateMachine):
    """Two VMs in one store. A work is begun, may be cut off by a crash, and is then begun again from the row."""

    vms = Bundle("vms")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")  # every step is durable: thousands of real fsyncs
        self.clock = HandClock()
        self.store = self.wait(self._open())
        self.boots = 1
        self.wait(self.store.host_booted("local", "boot 1"))
        self.disks: dict[str, Disk] = {}
        self.seen: dict[str, MicroVM] = {}
        self.works: dict[str, MicroVM] = {}  #: what a keeper is at, by the row that it began with
        self.late: list[tuple[MicroVM, Fact]] = []

    def wait(self, what: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(what)

    async def _open(self) -> Store:
        store = await Store.open(Path(self.folder.name) / "rekindle.db", self.clock)
        if not await store.accounts():
            await store.add_account(ACCOUNT, "default")
            await built_image(store)
        return store

    def teardown(self) -> None:
        try:
            self.everybody_can_end()
        finally:
            self.wait(self.store.close())
            self.loop.close()
            self.folder.cleanup()

    def row(self, vm_id: str) -> MicroVM:
        row = self.wait(self.store.microvm(vm_id))
        assert row is not None
        return row

    # -- what callers do

    @initialize(target=vms)
    def one(self) -> str:
        return self._launched()

    @initialize(target=vms)
    def another(self) -> str:
        return self._launched()

    def _launched(self) -> str:
        vm = self.wait(started(self.store, self.clock))
        self.disks[vm.id] = Disk()
        self.seen[vm.id] = vm
        return vm.id

    @rule(vm_id=vms, ask=st.sampled_from(Ask), times=st.integers(1, 2))
    def somebody_asks(self, vm_id: str, ask: Ask, times: int) -> None:
        """Twice: the second call finds what the first has left, and is a no-op or refused."""
        for number in range(times):
            before = self.row(vm_id)
            if (before.phase, ask) not in NEXT:
                with pytest.raises(Invalid if before.phase in OVER else Refused):
                    self.wait(self.store.ask(vm_id, ask))
                assert self.row(vm_id) == before
                continue
            after = self.wait(self.store.ask(vm_id, ask))
            assert after.phase is NEXT[before.phase, ask]
            if number:
                assert after == before

    @rule(minutes=st.integers(0, 90))
    def time_passes(self, minutes: int) -> None:
        self.clock.pass_minutes(minutes)

    # -- what keepers do

    @rule(vm_id=vms)
    def a_work_begins(self, vm_id: str) -> None:
        """A keeper reads the row; what it then does is on the disk before the row says so."""
        vm = self.row(vm_id)
        if vm.phase in OWES:
            self.works[vm_id] = vm

    @rule(vm_id=vms)
    def a_work_gets_on(self, vm_id: str) -> None:
        """The part of it that outlives a crash: a process, a whole snapshot, or nothing left."""
        vm = self.works.get(vm_id)
        if vm is None:
            return
        disk, work = self.disks[vm_id], OWES[vm.phase]
        if work in (Work.START, Work.RESUME):
            disk.runs = True
        elif work is Work.SUSPEND:
            disk.snapshots.add(vm.revision)
            disk.runs = False
        elif self.row(vm_id).phase is Phase.TERMINATING:
            disk.snapshots.clear()
            disk.runs = False

    @rule(vm_id=vms, data=st.data())
    def a_work_ends(self, vm_id: str, data: st.DataObject) -> None:
        """Well or badly; told to the row that it began with."""
        vm = self.works.pop(vm_id, None)
        if vm is None:
            return
        work = OWES[vm.phase]
        fact = COMPLETES[work]
        fact = data.draw(st.sampled_from((fact, *FAILURES[work])), label="how")
        if fact is Fact.FELL_BACK and vm.snapshot is None:
            fact = Fact.LOST
        self._tell(vm, fact)

    def _tell(self, vm: MicroVM, fact: Fact) -> None:
        self.late.append((vm, fact))
        changes: dict[str, Any] = {}
        disk = self.disks[vm.id]
        if fact is Fact.SUSPENDED:
            disk.snapshots.add(vm.revision)
            changes = {"snapshot": vm.revision, "handle": None}
        elif fact in (Fact.STARTED, Fact.RESUMED):
            changes = {"handle": {"pid": 1}}
        elif fact in (Fact.FELL_BACK, Fact.STOPPED):
            changes = {"handle": None}
        before = self.row(vm.id)
        try:
            after = self.wait(self.store.report(vm, fact, **changes))
        except Stale:
            assert self.row(vm.id) == before, "a late fact changes nothing"
            return
        assert after.phase is NEXT[before.phase, fact]
        disk.runs = after.phase is Phase.RUNNING
        if fact is Fact.STOPPED:
            disk.snapshots.clear()

    @precondition(lambda self: bool(self.late))
    @rule(data=st.data())
    def a_fact_is_told_again(self, data: st.DataObject) -> None:
        """By a keeper that slept through everything since. Its phase may be there again, but not its row."""
        vm, fact = data.draw(st.sampled_from(self.late), label="late")
        now = self.row(vm.id)
        if now.phase is not vm.phase:
            self._tell(vm, fact)
            assert self.row(vm.id) == now

    @rule(vm_id=vms)
    def tidying(self, vm_id: str) -> None:
        """Behind a sleeper: all but the snapshot that the row names goes."""
        vm = self.row(vm_id)
        if vm.phase is Phase.SUSPENDED and vm.snapshot is not None:
            self.disks[vm_id].snapshots &= {vm.snapshot}

    @rule(vm_id=vms)
    def a_vmm_dies(self, vm_id: str) -> None:
        vm = self.row(vm_id)
        if vm.phase is Phase.RUNNING:
            self._tell(vm, Fact.LOST if vm.snapshot is None else Fact.FELL_BACK)

    @rule()
    def the_service_dies(self) -> None:
        """Whatever is not in the file is gone; works are begun again from the rows."""
        self.wait(self.store.close())
        self.works.clear()
        self.store = self.wait(self._open())

    @rule()
    def the_host_is_restarted(self) -> None:
        """No process is left; what a suspend had made whole is found by the work that is begun again."""
        self.the_service_dies()
        self.boots += 1
        before = [self.row(vm_id) for vm_id in self.disks]
        self.wait(self.store.host_booted("local", f"boot {self.boots}"))
        for vm in before:
            now, disk = self.row(vm.id), self.disks[vm.id]
            disk.runs = False
            assert now.handle is None
            assert now.phase is not Phase.RUNNING or vm.handle is None
            if now.phase is Phase.SUSPENDING and vm.revision in disk.snapshots:
                assert now.revision in disk.snapshots

    # -- what is always true

    @invariant()
    def rows_only_go_forward(self) -> None:
        for vm_id, was in self.seen.items():
            now = self.row(vm_id)
            assert now.revision >= was.revision
            same = replace(now, handle=None) == replace(was, handle=None)  # a lost process is no change of the VM
            assert (now.revision == was.revision) == same, "a change is a new revision"
            assert was.phase is not Phase.TERMINATED or now == was, "TERMINATED is final"
            assert was.phase is not Phase.TERMINATING or now.phase in OVER
            self.seen[vm_id] = now

    @invariant()
    def a_named_snapshot_is_there(self) -> None:
        for vm_id, disk in self.disks.items():
            vm = self.row(vm_id)
            if vm.snapshot is not None and vm.phase not in OVER:
                assert vm.snapshot in disk.snapshots

    @invariant()
    def times_fit_phases(self) -> None:
        for vm_id in self.disks:
            vm = self.row(vm_id)
            assert (vm.terminated_at_ms is not None) == (vm.phase is Phase.TERMINATED)
            assert vm.phase is not Phase.SUSPENDED or vm.suspended_at_ms is not None
            assert vm.phase is not Phase.RUNNING or vm.suspended_at_ms is None
            assert vm.phase not in OVER or vm.state_reason

    @invariant()
    def every_phase_has_an_owner(self) -> None:
        owing = {vm.id for vm in self.wait(self.store.owing("local"))}
        watched = {vm.id for vm in self.wait(self.store.all_microvms("local"))}
        for vm_id in self.disks:
            phase = self.row(vm_id).phase
            assert (vm_id in owing) == (phase in OWES)
            assert (vm_id in watched) == (phase is not Phase.TERMINATED)

    def everybody_can_end(self) -> None:
        """From wherever the schedule left them."""
        for vm_id in self.disks:
            with contextlib.suppress(Invalid):
                self.wait(self.store.ask(vm_id, Ask.TERMINATE))
            if (vm := self.row(vm_id)).phase is Phase.TERMINATING:
                self._tell(vm, Fact.STOPPED)
            assert self.row(vm_id).phase is Phase.TERMINATED
        self.wait(self.store.check_invariants())


class ManyLives(Lives):
    """The same, thousands of times."""


def test_a_host_that_is_restarted_behind_a_whole_snapshot() -> None:
    """One schedule that chance comes by seldom."""
    lives = Lives()
    vm_id = lives._launched()
    lives.a_work_begins(vm_id)
    lives._tell(lives.works.pop(vm_id), Fact.STARTED)
    lives.somebody_asks(vm_id, Ask.SUSPEND, 1)
    lives.rows_only_go_forward()
    lives.a_work_begins(vm_id)
    lives.a_work_gets_on(vm_id)
    lives.the_host_is_restarted()
    lives.rows_only_go_forward()
    lives.teardown()


def _schedules(number: int) -> settings:
    """Not shrunk: that takes minutes, for every step is durable, and a schedule can be read as it is."""
    return settings(
        max_examples=number,
        stateful_step_count=50,
        deadline=None,
        phases=[Stage.explicit, Stage.reuse, Stage.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )


TestLives = Lives.TestCase
TestLives.settings = _schedules(60)
TestManyLives = pytest.mark.long(ManyLives.TestCase)
TestManyLives.settings = _schedules(3000)
