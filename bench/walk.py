"""What a guest of the soak must hold, kept apart from the guest: its bytes after every step, and which step may be its.

`Walk` is the model of bench/guests in its own words. `Ledger` knows what was asked of one microVM and what was done to
it, and judges every answer: the bytes of memory and disk must be those of one step, and the step one that the VM may
be at. It raises `Lost` otherwise.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PAGE_BYTES = 4096
BLOCK_BYTES = 32  #: a page is one SHA-256 digest, over and over
SEARCHED = 400  #: steps among which the moment of a foreign digest is looked for


class Lost(Exception):
    """State of a microVM is not what it must be; the sentence says how."""


@dataclass(frozen=True, slots=True)
class Sums:
    """SHA-256 of a guest's buffer and of its file, in hex."""

    memory: str
    disk: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a guest says of itself."""

    counter: int
    sums: Sums


def answer_of(said: Mapping[str, object]) -> Answer:
    """The guest's JSON. Raises KeyError or ValueError when it is not an answer."""
    return Answer(int(str(said["counter"])), Sums(str(said["memory"]), str(said["disk"])))


@dataclass(frozen=True, slots=True)
class Growth:
    """Pages at the beginning, pages that each step adds, the most there may be, pages that each step rewrites."""

    first: int
    more: int
    most: int
    touched: int


MEMORY = Growth(first=1024, more=32, most=2048, touched=64)
DISK = Growth(first=256, more=16, most=768, touched=16)


class Area:
    """The pages of one kind, by the digest that fills each. Steps are made in order, each once."""

    def __init__(self, name: str, growth: Growth) -> None:
        self._name = name
        self._growth = growth
        self._pages: list[bytes] = []
        self.sums: list[str] = []  #: by step
        self.bytes_of: list[int] = []  #: by step

    def advance(self) -> None:
        step = len(self.sums)
        size = min(self._growth.first + step * self._growth.more, self._growth.most)
        changed = set(range(len(self._pages), size))
        self._pages += [b""] * (size - len(self._pages))
        if step:
            changed |= {self._number(f"{step}/pick/{which}") % size for which in range(self._growth.touched)}
        for page in changed:
            self._pages[page] = self._digest(f"{step}/{page}")
        whole = hashlib.sha256()
        for block in self._pages:
            whole.update(block * (PAGE_BYTES // BLOCK_BYTES))
        self.sums.append(whole.hexdigest())
        self.bytes_of.append(size * PAGE_BYTES)

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._name}/{text}".encode()).digest()

    def _number(self, text: str) -> int:
        return int.from_bytes(self._digest(text)[:8], "big")


class Walk:
    """The sums of a guest with this seed, step by step."""

    def __init__(self, seed: str, memory: Growth = MEMORY, disk: Growth = DISK) -> None:
        self._memory = Area(f"{seed}/memory", memory)
        self._disk = Area(f"{seed}/disk", disk)

    def sums(self, step: int) -> Sums:
        self._reach(step)
        return Sums(self._memory.sums[step], self._disk.sums[step])

    def bytes_of(self, step: int) -> tuple[int, int]:
        """How many bytes of memory and disk the sums of `step` cover."""
        self._reach(step)
        return self._memory.bytes_of[step], self._disk.bytes_of[step]

    def moments(self, sums: Sums) -> tuple[str, str]:
        """In words: at which step memory was so, and at which the disk."""
        return _moment(self._memory.sums, sums.memory), _moment(self._disk.sums, sums.disk)

    def _reach(self, step: int) -> None:
        while len(self._memory.sums) <= step:
            self._memory.advance()
            self._disk.advance()


def _moment(known: Sequence[str], sum_: str) -> str:
    last = max(0, len(known) - SEARCHED)
    found = (f"that of step {step}" for step in range(len(known) - 1, last - 1, -1) if known[step] == sum_)
    return next(found, "of no step")


@dataclass(frozen=True, slots=True)
class Sleep:
    """A sleep that the VM may fall back to: the step it was at lies between these, both included."""

    low: int
    high: int

    def holds(self, step: int) -> bool:
        return self.low <= step <= self.high


class Ledger:
    """What is known of one VM. The steps are asked one at a time; strikes may come from another thread.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, seed: str) -> None:
        self.walk = Walk(seed)
        self.acked = 0  #: the last step the VM has answered
        self.sent = 0  #: the last step that was asked for
        self.sleeps: list[Sleep] = []  #: the last one; several when it is not certain which is the last
        self.struck = False  #: its VMM was killed, and no answer since has told where that has put it
        self._dead_at = 0.0
        self._lock = threading.Lock()

    def stepping(self) -> int:
        """The next step is about to be asked for: its number."""
        with self._lock:
            self.sent = self.acked + 1
            return self.sent

    def slept(self) -> None:
        """The VM was seen asleep. After a strike it may sleep where it slept before."""
        with self._lock:
            here = Sleep(self.acked, self.sent)
            self.sleeps = [*self.sleeps, here] if self.struck else [here]

    def may_have_slept(self, low: int) -> None:
        """A sleep was asked for when the VM was at `low`; a step may have come before or after it."""
        with self._lock:
            self.sleeps = [*self.sleeps, Sleep(low, self.sent)]

    def strike(self) -> bool:
        """The VMM is about to be killed; whether it may be: a VM that never slept has nothing to fall back to."""
        with self._lock:
            if self.sleeps:
                self.struck, self._dead_at = True, float("inf")
            return bool(self.sleeps)

    def dead(self, at_s: float) -> None:
        """The VMM that was struck is gone."""
        with self._lock:
            self._dead_at = at_s

    def answered(self, answer: Answer, asked_at_s: float) -> bool:
        """Judge an answer to what was asked at `asked_at_s`; whether the VM has fallen back. Raises Lost."""
        with self._lock:
            self._whole(answer)
            if self.struck and asked_at_s >= self._dead_at:
                return self._after_the_fall(answer.counter)
            if self.acked <= answer.counter <= self.sent:
                self.acked = answer.counter
                if self.struck and answer.counter == self.sent:
                    self._maybe_after_the_fall(answer.counter)
                return False
            if self.struck:
                return self._after_the_fall(answer.counter)
            raise Lost(
                f"it is at step {answer.counter}, but step {self.acked} was answered, {self.sent} was asked for, "
                "and no VMM was killed"
            )

    def _whole(self, answer: Answer) -> None:
        if not 0 <= answer.counter <= self.sent:
            raise Lost(f"it is at step {answer.counter}, and only {self.sent} were asked for")
        if answer.sums == self.walk.sums(answer.counter):
            return
        memory, disk = self.walk.moments(answer.sums)
        raise Lost(f"it says step {answer.counter}, but its memory is {memory} and its disk {disk}")

    def _maybe_after_the_fall(self, counter: int) -> None:
        """A step that was asked for before the kill may have been made behind it, by a VM that was woken once more: its
        fall is over then, and it goes on from here."""
        if any(one.high + 1 == counter for one in self.sleeps):
            self.sleeps = [*self.sleeps, Sleep(counter, counter)]

    def _after_the_fall(self, counter: int) -> bool:
        """The VM must be where it slept; one step that was on its way may have been made since."""
        reached = [one for one in self.sleeps if one.holds(counter) or one.high + 1 == counter == self.sent]
        if not reached:
            slept = " or ".join(f"{one.low}..{one.high}" for one in self.sleeps)
            raise Lost(f"its VMM was killed and it is at step {counter}, but it slept at {slept}")
        fell = counter < self.acked
        on_the_way = self.sent if self.sent == counter + 1 else counter
        self.acked, self.sent = counter, max(on_the_way, *(one.high for one in reached))
        self.sleeps, self.struck = reached, False
        return fell
