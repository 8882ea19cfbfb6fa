"""When a microVM that owes nothing must be asked to sleep or to end: bytes, leases, wishes, CPU time, restarts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.config import Idle
from rekindle.core.lifecycle import Ask, Fact, Phase
from rekindle.core.microvm import GUEST, MicroVM
from rekindle.driver.process import started_ticks
from rekindle.guest.client import Lease, Wishes
from rekindle.node.deadlines import GUEST_ASKED, IDLE, LIFETIME_OVER, SLEEP_OVER, Deadlines, Due
from rekindle.store.db import Store
from tests.node.ground import NO_WISHES, Driver, FakeRelay, hands
from tests.store.rows import HandClock, built_image, started

MAX_IDLE_S = 60  # of the row
SLEEPS = Due(Ask.SUSPEND, IDLE)


class Ground:
    """One RUNNING VM, its relay and its guest; `deadlines` as many as a test wants."""

    def __init__(self, tmp_path: Path, store: Store, clock: HandClock, vm: MicroVM) -> None:
        self.store, self.clock, self.vm = store, clock, vm
        self.relay = FakeRelay()
        self.relay.routes[vm.id] = "running"
        self._state = tmp_path / "state"

    def deadlines(self, idle: Idle = Idle()) -> Deadlines:
        return Deadlines(hands(self._state, Driver(), self.relay, self.clock, idle=idle), self.store)

    def later(self, seconds: float) -> None:
        self.clock.now_ms += int(seconds * 1000)

    async def left_s(self, of: Deadlines) -> float:
        return (await of.next_ms(self.vm) - self.clock()) / 1000


@pytest.fixture
async def ground(tmp_path: Path, store: Store, clock: HandClock) -> Ground:
    await built_image(store)
    pending = await started(store, clock)
    clock.now_ms += 1000
    return Ground(tmp_path, store, clock, await store.report(pending, Fact.STARTED, handle={"pid": 0}))


async def test_a_new_service_comes_to_the_same_deadline(ground: Ground) -> None:
    """Not that of its own start: VMs of a service that is restarted every half minute would never sleep."""
    first = ground.deadlines()
    before_ms = await first.next_ms(ground.vm)
    ground.later(50)
    second = ground.deadlines()
    assert await second.next_ms(ground.vm) == before_ms
    assert await second.due(ground.vm) is None
    ground.later(10)
    assert await second.due(ground.vm) == SLEEPS


async def test_bytes_and_not_looks_put_idle_off(ground: Ground) -> None:
    deadlines = ground.deadlines()
    ground.later(MAX_IDLE_S)
    ground.relay.last_byte_ms = ground.clock() - 20_000
    assert await deadlines.due(ground.vm) is None
    assert await ground.left_s(deadlines) == 40
    ground.later(40)
    assert await deadlines.due(ground.vm) == SLEEPS


async def test_what_a_new_relay_has_not_seen_may_have_been_bytes(ground: Ground) -> None:
    deadlines = ground.deadlines()
    ground.later(MAX_IDLE_S)
    ground.relay.started_at_ms = ground.clock() - 10_000
    assert await deadlines.due(ground.vm) is None
    assert await ground.left_s(deadlines) == 50


async def test_idle_begins_anew_with_each_resume(ground: Ground) -> None:
    store, vm = ground.store, ground.vm
    await store.ask(vm.id, Ask.SUSPEND)
    suspending = replace(vm, phase=Phase.SUSPENDING)
    asleep = await store.report(suspending, Fact.SUSPENDED)
    ground.later(300)
    assert (await ground.deadlines().next_ms(asleep)) == asleep.sleep_ends_at_ms()
    waking = await store.ask(vm.id, Ask.RESUME)
    awake = await store.report(waking, Fact.RESUMED)
    assert await ground.deadlines().next_ms(awake) == ground.clock() + MAX_IDLE_S * 1000


def lease(seconds: float, news: int = 0) -> Wishes:
    return Wishes(news=news, suspend=False, lease=Lease(left_ms=int(seconds * 1000), name="work"))


async def test_a_lease_holds_a_vm_awake_until_it_is_over(ground: Ground) -> None:
    deadlines, guest = ground.deadlines(), ground.relay.one
    guest.say(lease(100))
    ground.later(MAX_IDLE_S)
    assert await deadlines.due(ground.vm) is None
    assert await ground.left_s(deadlines) == 100
    guest.say(NO_WISHES)
    ground.later(100)
    assert await deadlines.due(ground.vm) == SLEEPS


async def test_a_request_that_comes_while_the_guest_is_asked_puts_idle_off(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly() -> Wishes:
        ground.relay.last_byte_ms = ground.clock()
        return NO_WISHES

    monkeypatch.setattr(ground.relay.one, "wishes", slowly)
    ground.later(MAX_IDLE_S)
    assert await ground.deadlines().due(ground.vm) is None


async def test_a_lease_that_is_renewed_goes_on(ground: Ground) -> None:
    deadlines = ground.deadlines()
    for _ in range(5):
        ground.relay.one.say(lease(100))
        ground.later(100)
        assert await deadlines.due(ground.vm) is None


async def test_a_lease_given_back_holds_nothing(ground: Ground) -> None:
    deadlines = ground.deadlines()
    ground.relay.one.say(lease(1000))
    ground.later(MAX_IDLE_S)
    assert await deadlines.due(ground.vm) is None
    back = Wishes(news=1, suspend=False, lease=None)
    ground.relay.one.say(back)
    deadlines.heard(back)
    assert await ground.left_s(deadlines) <= 0
    assert await deadlines.due(ground.vm) == SLEEPS


async def test_no_lease_is_longer_than_the_operator_allows(ground: Ground) -> None:
    """However often it is renewed: the ceiling is counted from the last activity."""
    deadlines = ground.deadlines(Idle(lease_max_s=300))
    for _ in range(2):
        ground.relay.one.say(lease(1e9))
        ground.later(140)
        assert await deadlines.due(ground.vm) is None
    assert await ground.left_s(deadlines) == 20
    ground.relay.one.say(lease(1e9))
    ground.later(20)
    assert await deadlines.due(ground.vm) == SLEEPS


async def test_an_operator_may_give_no_leases(ground: Ground) -> None:
    deadlines = ground.deadlines(Idle(lease_max_s=0))
    ground.relay.one.say(lease(100))
    ground.later(MAX_IDLE_S)
    assert await deadlines.due(ground.vm) == SLEEPS


async def test_a_lease_does_not_outlast_the_life(ground: Ground) -> None:
    deadlines = ground.deadlines(Idle(lease_max_s=10**6))
    ground.relay.one.say(lease(10**6))
    ground.later(MAX_IDLE_S)
    assert await deadlines.due(ground.vm) is None
    assert await deadlines.next_ms(ground.vm) == ground.vm.expires_at_ms()
    ground.clock.now_ms = ground.vm.expires_at_ms()
    assert await deadlines.due(ground.vm) == Due(Ask.TERMINATE, LIFETIME_OVER)


async def test_a_guest_that_does_not_answer_is_not_busy(ground: Ground) -> None:
    ground.relay.one.mute = True
    ground.later(MAX_IDLE_S)
    assert await ground.deadlines().due(ground.vm) == SLEEPS


async def test_a_wish_to_sleep_is_followed_when_the_vm_ran_for_a_while(ground: Ground) -> None:
    deadlines = ground.deadlines(Idle(awake_s=5))
    deadlines.heard(Wishes(news=1, suspend=True, lease=None))
    assert await deadlines.due(ground.vm) is None
    assert await ground.left_s(deadlines) == 5
    ground.later(5)
    assert await deadlines.due(ground.vm) == Due(Ask.SUSPEND, GUEST_ASKED, GUEST)
    deadlines.runs_anew()
    assert await deadlines.due(ground.vm) is None


async def test_an_operator_may_follow_no_wish(ground: Ground) -> None:
    deadlines = ground.deadlines(Idle(self_suspend=False))
    deadlines.heard(Wishes(news=1, suspend=True, lease=None))
    ground.later(30)
    assert await deadlines.due(ground.vm) is None
    assert await ground.left_s(deadlines) == 30


async def test_a_sleep_without_length_is_an_end(ground: Ground) -> None:
    assert ground.vm.idle is not None
    vm = replace(ground.vm, idle=replace(ground.vm.idle, suspended_s=0))
    ground.later(MAX_IDLE_S)
    assert await ground.deadlines().due(vm) == Due(Ask.TERMINATE, SLEEP_OVER)


async def test_without_a_policy_only_the_life_ends(ground: Ground) -> None:
    vm = replace(ground.vm, idle=None)
    ground.later(3600)
    deadlines = ground.deadlines()
    assert await deadlines.due(vm) is None
    assert await deadlines.next_ms(vm) == vm.expires_at_ms()
    assert ground.relay.asked == 0


async def test_own_traffic_counts_when_the_operator_says_so(ground: Ground) -> None:
    deadlines = ground.deadlines(Idle(egress_kib=10, window_s=20))
    assert await ground.left_s(deadlines) == 0
    for window in range(5):
        assert await deadlines.due(ground.vm) is None, window
        assert await ground.left_s(deadlines) == 20
        ground.relay.egress_bytes += 10 * 1024
        ground.later(20)
    ground.relay.egress_bytes += 10 * 1024 - 1
    assert await deadlines.due(ground.vm) is None  # the last full window ends here
    ground.later(20)
    ground.relay.egress_bytes += 10 * 1024 - 1
    assert await deadlines.due(ground.vm) is None
    ground.later(40)
    assert await deadlines.due(ground.vm) == SLEEPS


async def test_own_traffic_does_not_count_otherwise(ground: Ground) -> None:
    deadlines = ground.deadlines()
    ground.relay.egress_bytes = 10**9
    ground.later(MAX_IDLE_S)
    ground.relay.egress_bytes = 2 * 10**9
    assert await deadlines.due(ground.vm) == SLEEPS


def burn_ms(milliseconds: int) -> None:
    """Use so much CPU time of this process."""
    before = sum(os.times()[:2])
    while (sum(os.times()[:2]) - before) * 1000 < milliseconds:
        pass


async def test_cpu_time_counts_when_the_operator_says_so(ground: Ground) -> None:
    """This process stands for the VMM."""
    vm = replace(ground.vm, handle={"pid": os.getpid(), "started_ticks": started_ticks(os.getpid())})
    deadlines = ground.deadlines(Idle(cpu_percent=2, window_s=1))
    ground.later(MAX_IDLE_S)
    assert await deadlines.due(vm) is None  # the first window begins
    burn_ms(60)
    ground.later(1)
    assert await deadlines.due(vm) is None
    assert await deadlines.next_ms(vm) == ground.clock() + 1000
    ground.later(MAX_IDLE_S)
    assert await deadlines.due(vm) == SLEEPS  # the test's own few ms in a minute


async def test_a_new_service_judges_nobody_before_it_saw_a_window(ground: Ground) -> None:
    """The VM may have been busy in a way that only the last service saw."""
    ground.later(10 * MAX_IDLE_S)
    deadlines = ground.deadlines(Idle(egress_kib=10, window_s=20))
    assert await deadlines.due(ground.vm) is None
    ground.later(20)
    assert await deadlines.due(ground.vm) == SLEEPS
