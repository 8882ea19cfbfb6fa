"""Rates: the arithmetic of a bucket, the queue in front of it, and what the wire says when it is full."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.api import model
from rekindle.api.app import Api
from rekindle.api.context import Tools
from rekindle.api.throttle import FORGET_EVERY_MS, OWN_RATE, QUEUE_MS, Bucket, Throttle
from rekindle.config import AWS_QUOTAS, Config, Quotas
from rekindle.core.errors import Throttled
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, HandClock, arn

from .conftest import KEYS
from .wire import RecordingEngine, Wire, create_params

AWS = Quotas(**AWS_QUOTAS)
RATES = st.sampled_from([(1, 1), (2, 2), (5, 5), (5, 1), (1, 20), (15, 15), (100, 100), (5000, 10_000)])


def bucket(rate: int, burst: int, now_ms: int = 0) -> Bucket:
    return Bucket(rate, burst, burst * 1000, now_ms)


# --- arithmetic


@given(rates=RATES, gaps=st.lists(st.sampled_from([0, 0, 0, 1, 7, 199, 200, 201, 1000, 60_000]), max_size=200))
def test_no_window_lets_through_more_than_burst_and_rate(rates: tuple[int, int], gaps: Sequence[int]) -> None:
    """Waiting calls go on when their wait is over; that is when they count."""
    rate, burst = rates
    one, now_ms, through = bucket(rate, burst), 0, []
    for gap in gaps:
        now_ms += gap
        wait_ms = one.take(now_ms)
        if wait_ms <= QUEUE_MS:
            through.append(now_ms + Fraction(round(wait_ms * rate), rate))
    through.sort()
    for first, start in enumerate(through):
        for last in range(first, len(through)):
            assert last - first + 1 <= burst + rate * (through[last] - start) / 1000


@given(rates=RATES, gaps=st.lists(st.integers(0, 3000), max_size=50))
def test_a_call_within_the_rate_never_waits(rates: tuple[int, int], gaps: Sequence[int]) -> None:
    rate, burst = rates
    one, now_ms = bucket(rate, burst), 0
    for gap in gaps:
        now_ms += gap + -(-1000 // rate)
        assert one.take(now_ms) == 0


@given(rates=RATES, looks=st.lists(st.integers(0, 500), max_size=30))
def test_looking_often_changes_nothing(rates: tuple[int, int], looks: Sequence[int]) -> None:
    seen, unseen = (replace(bucket(*rates), parts=0) for _ in range(2))
    for at_ms in sorted(looks):
        seen.refill(at_ms)
    for one in (seen, unseen):
        one.refill(500)
    assert seen == unseen


def test_refused_calls_take_nothing() -> None:
    one = bucket(2, 2)
    assert [one.take(0) for _ in range(2)] == [0, 0]
    assert {one.take(0) for _ in range(1000)} == {500}
    assert one.take(499) == 1


def test_a_clock_set_back_gives_and_takes_nothing() -> None:
    one = bucket(5, 5, now_ms=1_000_000)
    for _ in range(5):
        one.take(1_000_000)
    assert one.take(0) == 200
    assert one.take(200) == 200, "time goes on from where the clock was set"


# --- queueing


@dataclass
class HandPause:
    """Sleepers of a throttle, woken in the order of their time when the clock is moved."""

    clock: HandClock
    asleep: list[tuple[float, int, asyncio.Event]] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        woken = asyncio.Event()
        heapq.heappush(self.asleep, (self.clock() + seconds * 1000, len(self.asleep), woken))
        await woken.wait()

    async def pass_ms(self, ms: int) -> None:
        self.clock.now_ms += ms
        while self.asleep and self.asleep[0][0] <= self.clock():
            heapq.heappop(self.asleep)[2].set()
        await turns()


async def turns() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.wait([asyncio.get_running_loop().run_in_executor(None, int)])


class Scene:
    def __init__(self, quotas: Quotas) -> None:
        self.clock = HandClock()
        self.pause = HandPause(self.clock)
        self.throttle = Throttle(quotas, self.clock, self.pause)
        self.through: list[str] = []

    async def call(self, name: str, account: str = ACCOUNT, operation: str = "RunMicrovm") -> None:
        try:
            await self.throttle.admit(account, operation)
        except Throttled:
            self.through.append(f"{name} refused")
        else:
            self.through.append(name)


async def test_calls_wait_their_turn_and_no_longer_than_a_fifth_of_a_second() -> None:
    scene = Scene(Quotas(run_microvm=(20, 1)))
    async with asyncio.TaskGroup() as calls:
        for name in "abcdef":
            calls.create_task(scene.call(name))
        await turns()
        assert scene.through == ["a", "f refused"]
        assert len(scene.pause.asleep) == 4
        for behind in "bcde":
            await scene.pause.pass_ms(49)
            assert behind not in scene.through
            calls.create_task(scene.call(f"{behind} late"))
            await scene.pause.pass_ms(1)
            assert behind in scene.through
        await scene.pause.pass_ms(QUEUE_MS + 1)
    order = [name for name in scene.through if not name.endswith("refused")]
    assert order == [*"abcde", "b late", "c late", "d late", "e late"], "nobody who comes later overtakes"


async def test_a_stranger_in_the_queue_does_not_make_others_wait() -> None:
    scene = Scene(AWS)
    for _ in range(5):
        await scene.call("x")
    async with asyncio.TaskGroup() as calls:
        calls.create_task(scene.call("waits"))
        await turns()
        await scene.call("other account", OTHER)
        await scene.call("other operation", operation="ResumeMicrovm")
        await scene.call("refused")
        assert scene.through[5:] == ["other account", "other operation", "refused refused"]
        await scene.pause.pass_ms(200)
    assert scene.through[-1] == "waits"


async def test_operations_without_a_rate_of_their_own_share_one() -> None:
    scene = Scene(Quotas(other_operations=(1, 3)))
    for operation in ("ListMicrovms", "CreateNetworkConnector", "ListTags"):
        await scene.throttle.admit(ACCOUNT, operation)
    for operation in ("GetMicrovmImage", "ListMicrovms"):
        with pytest.raises(Throttled):
            await scene.throttle.admit(ACCOUNT, operation)
    await scene.throttle.admit(ACCOUNT, "GetMicrovm")


async def test_when_to_come_back_is_when_a_token_is_there() -> None:
    scene = Scene(Quotas(run_microvm=(1, 1), suspend_microvm=(2, 1)))
    await scene.throttle.admit(ACCOUNT, "RunMicrovm")
    with pytest.raises(Throttled) as run:
        await scene.throttle.admit(ACCOUNT, "RunMicrovm")
    assert (run.value.retry_after_s, run.value.quota_code) == (1, "L-535CA9B6")
    await scene.pause.pass_ms(1000 * run.value.retry_after_s)
    await scene.throttle.admit(ACCOUNT, "RunMicrovm")
    await scene.throttle.admit(ACCOUNT, "SuspendMicrovm")
    with pytest.raises(Throttled) as suspend:
        await scene.throttle.admit(ACCOUNT, "SuspendMicrovm")
    assert (suspend.value.retry_after_s, suspend.value.quota_code) == (1, None), "half a second, rounded up"


async def test_no_rate_is_no_limit() -> None:
    scene = Scene(Quotas(run_microvm=(0, 0)))
    for _ in range(10_000):
        await scene.throttle.admit(ACCOUNT, "RunMicrovm")
    assert scene.throttle._buckets == {}


async def test_idle_accounts_are_forgotten_and_busy_ones_are_not() -> None:
    scene = Scene(Quotas(run_microvm=(1, 1000)))
    for number in range(500):
        await scene.throttle.admit(str(number), "GetMicrovm")
    for _ in range(1000):
        await scene.throttle.admit(ACCOUNT, "RunMicrovm")
    await scene.pause.pass_ms(FORGET_EVERY_MS)
    await scene.throttle.admit(OTHER, "GetMicrovm")
    assert set(scene.throttle._buckets) == {(ACCOUNT, "run_microvm"), (OTHER, "get_microvm")}
    for _ in range(FORGET_EVERY_MS // 1000):
        await scene.throttle.admit(ACCOUNT, "RunMicrovm")
    with pytest.raises(Throttled):
        await scene.throttle.admit(ACCOUNT, "RunMicrovm")


def test_every_rate_names_an_operation_and_a_key() -> None:
    assert set(OWN_RATE) <= {one.name for one in model.operations()}
    assert all(isinstance(getattr(AWS, key), tuple) for key in OWN_RATE.values())


# --- on the wire


def strict(api: Api, quotas: Quotas) -> Api:
    """The same service with these rates."""
    return Api(replace(api.tools, config=replace(api.tools.config, quotas=quotas)))


async def test_a_throttled_call_is_told_so_before_it_is_looked_at(api: Api) -> None:
    wire = Wire(strict(api, Quotas(run_microvm=(1, 1))), KEYS[ACCOUNT])
    first = await wire.call("RunMicrovm", imageIdentifier=arn("demo"))
    assert first.status == HTTPStatus.NOT_FOUND
    answer = await wire.call("RunMicrovm")  # an invalid one, too
    assert answer.status == HTTPStatus.TOO_MANY_REQUESTS
    assert answer.reply.headers["X-Amzn-Errortype"] == "ThrottlingException"
    assert answer.reply.headers["Retry-After"] == "1"
    assert answer.json == {"message": "Rate exceeded", "quotaCode": "L-535CA9B6", "serviceCode": "lambda"}


@pytest.mark.parametrize(
    ("name", "params", "code", "body"),
    [
        (
            "GetMicrovm",
            {"microvmIdentifier": "microvm-x"},
            "ThrottlingException",
            {"quotaCode": None, "serviceCode": None},
        ),
        ("ListTags", {"Resource": arn("demo")}, "TooManyRequestsException", {"Type": None}),
        ("ListNetworkConnectors", {}, "TooManyRequestsException", {"Reason": "CallerRateLimitExceeded"}),
    ],
)
async def test_each_family_has_its_shape(
    api: Api, name: str, params: dict[str, str], code: str, body: dict[str, str | None]
) -> None:
    wire = Wire(strict(api, Quotas(get_microvm=(1, 1), other_operations=(1, 1))), KEYS[ACCOUNT])
    await wire.call(name, **params)
    answer = await wire.call(name, **params)
    assert (answer.status, answer.reply.headers["X-Amzn-Errortype"]) == (HTTPStatus.TOO_MANY_REQUESTS, code)
    assert answer.json == {"message": "Rate exceeded", **body}
    assert answer.reply.headers["Retry-After"] == "1"


async def test_strangers_take_nobodys_tokens(api: Api) -> None:
    service = strict(api, Quotas(other_operations=(1, 1)))
    forger = Wire(service, (KEYS[ACCOUNT][0], "wrong"))
    for _ in range(5):
        assert (await forger.call("ListMicrovms")).status == HTTPStatus.FORBIDDEN
    await Wire(service, KEYS[OTHER]).ok("ListMicrovms")
    await Wire(service, KEYS[ACCOUNT]).ok("ListMicrovms")
    assert (await Wire(service, KEYS[ACCOUNT]).call("ListMicrovms")).status == HTTPStatus.TOO_MANY_REQUESTS


async def test_a_loop_that_runs_away_makes_no_rows(
    store: Store, engine: RecordingEngine, config: Config, clock: HandClock
) -> None:
    tools = Tools(
        store=store,
        engine=engine,
        config=replace(config, quotas=Quotas(other_operations=(1, 3))),
        clock=clock,
        host_cpus=1,
    )
    wire = Wire(Api(tools), KEYS[ACCOUNT])
    statuses = [(await wire.call("CreateMicrovmImage", **create_params(name=f"n{one}"))).status for one in range(20)]
    assert statuses == [HTTPStatus.CREATED] * 3 + [HTTPStatus.TOO_MANY_REQUESTS] * 17
    assert len(await store.versions_owing()) == 3
