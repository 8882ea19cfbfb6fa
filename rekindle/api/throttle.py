"""Rates: a token bucket per account and operation, with a short queue in front of each (spec §8.1).

AWS delays a burst before it refuses one, and so does this: a call that is a little early waits for its token, in the
order of arrival; one that is earlier is told when to come back. Buckets are forgotten when they are full again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rekindle.clock import Clock
from rekindle.config import Quotas
from rekindle.core.errors import Throttled
from rekindle.rest import rest

#: How long a call may be held instead of refused.
QUEUE_MS = 1000 // 5
FORGET_EVERY_MS = 60_000
_TOKEN = 1000  #: so many parts have a token: at `rate` a second, `rate` parts come back each millisecond

#: Operations with a rate of their own and the key of `[quotas]` that says it. All others share one.
OWN_RATE = {
    "RunMicrovm": "run_microvm",
    "ResumeMicrovm": "resume_microvm",
    "SuspendMicrovm": "suspend_microvm",
    "TerminateMicrovm": "terminate_microvm",
    "GetMicrovm": "get_microvm",
    "CreateMicrovmAuthToken": "create_microvm_auth_token",
    "CreateMicrovmShellAuthToken": "create_microvm_shell_auth_token",
}
SHARED_RATE = "other_operations"
#: What Service Quotas calls the rate, where that is known.
QUOTA_CODE = {"RunMicrovm": "L-535CA9B6"}


@dataclass(slots=True)
class Bucket:
    """Integers only: what comes out does not depend on how often it is asked."""

    rate: int  #: tokens per second
    burst: int
    parts: int  #: of tokens there now; below zero: promised to calls that wait
    at_ms: int

    def take(self, now_ms: int) -> float:
        """Milliseconds until the token that was taken is there; above QUEUE_MS nothing was taken."""
        self.refill(now_ms)
        wait_ms = max(0, _TOKEN - self.parts) / self.rate
        if wait_ms <= QUEUE_MS:
            self.parts -= _TOKEN
        return wait_ms

    def refill(self, now_ms: int) -> None:
        """A clock that was set back gives nothing, and takes nothing."""
        came = max(0, now_ms - self.at_ms) * self.rate
        self.parts = min(self.burst * _TOKEN, self.parts + came)
        self.at_ms = now_ms

    def full(self) -> bool:
        return self.parts >= self.burst * _TOKEN


class Throttle:
    """All buckets of a service. `pause` sleeps for a number of seconds."""

    def __init__(self, quotas: Quotas, clock: Clock, pause: Callable[[float], Awaitable[None]] = rest) -> None:
        self._quotas = quotas
        self._clock = clock
        self._pause = pause
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._forgot_at_ms = clock()

    async def admit(self, account: str, operation: str) -> None:
        """Return when the call may go on. Raises Throttled when that would take too long."""
        key = OWN_RATE.get(operation, SHARED_RATE)
        rate, burst = getattr(self._quotas, key)
        if not rate:
            return
        wait_ms = self._bucket(account, key, rate, burst).take(self._clock())
        if wait_ms > QUEUE_MS:
            raise Throttled(
                "Rate exceeded", retry_after_s=int(-(-wait_ms // 1000)), quota_code=QUOTA_CODE.get(operation)
            )
        if wait_ms:
            await self._pause(wait_ms / 1000)

    def _bucket(self, account: str, key: str, rate: int, burst: int) -> Bucket:
        now_ms = self._clock()
        if abs(now_ms - self._forgot_at_ms) >= FORGET_EVERY_MS:
            self._forget_full(now_ms)
        bucket = self._buckets.get((account, key))
        if bucket is None:
            bucket = self._buckets[account, key] = Bucket(rate, burst, burst * _TOKEN, now_ms)
        return bucket

    def _forget_full(self, now_ms: int) -> None:
        """A full bucket says nothing that a new one would not."""
        for bucket in self._buckets.values():
            bucket.refill(now_ms)
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.full()}
        self._forgot_at_ms = now_ms
