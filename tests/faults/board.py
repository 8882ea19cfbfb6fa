"""What the test and the traced service tell each other: a file that both map, so that no kill loses a count.

4 words     control: armed (boundary + 1; 0: none), fault, arrivals left, strikes so far
20 words    what is armed after a strike, and after that, ...: boundary + 1 and fault each
n words     arrivals at every boundary, over all services that used the board
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType

_WORD = struct.Struct("<I")
_ARMED, _FAULT, _LEFT, _STRUCK, _QUEUE = range(5)
_QUEUED = 10
_CONTROL = _QUEUE + 2 * _QUEUED


class Fault(Enum):
    KILL = 1  #: SIGKILL of the service before the line
    KILL_DURING = 2  #: SIGKILL of the service while the line's await is under way
    FULL = 3  #: the line raises OSError(ENOSPC)
    BROKEN = 4  #: the line raises OSError(EIO)
    VMM = 5  #: SIGKILL of every VMM of the service before the line
    RELAY = 6  #: SIGKILL of the relay before the line

    @property
    def ends_service(self) -> bool:
        return self in (Fault.KILL, Fault.KILL_DURING)


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault at the n-th arrival at a boundary."""

    boundary: int
    fault: Fault
    arrival: int = 1


class Board:
    """Made by the test with `size` boundaries, opened by the service without."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        if size is not None:
            path.write_bytes(bytes((_CONTROL + size) * _WORD.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self._map.close()

    def _get(self, word: int) -> int:
        return int(_WORD.unpack_from(self._map, word * _WORD.size)[0])

    def _put(self, word: int, value: int) -> None:
        _WORD.pack_into(self._map, word * _WORD.size, value)

    # -- the test's side

    def arm(self, *strikes: Strike) -> None:
        """Let one fault after the other happen, each at its boundary, in whichever service is there then."""
        self.disarm()
        self._put(_STRUCK, 0)
        for number, one in enumerate(strikes[1:]):
            self._put(_QUEUE + 2 * number + 1, one.fault.value)
            self._put(_QUEUE + 2 * number, one.boundary + 1)
        if strikes:
            self._put(_FAULT, strikes[0].fault.value)
            self._put(_LEFT, strikes[0].arrival)
            self._put(_ARMED, strikes[0].boundary + 1)

    def disarm(self) -> None:
        for number in range(_QUEUED):
            self._put(_QUEUE + 2 * number, 0)
        self._put(_ARMED, 0)

    @property
    def struck(self) -> int:
        """How many faults have happened since the board was armed."""
        return self._get(_STRUCK)

    def counts(self) -> list[int]:
        words = len(self._map) // _WORD.size
        return [self._get(word) for word in range(_CONTROL, words)]

    # -- the service's side

    def arrive(self, boundary: int) -> Fault | None:
        """Count; the fault to do now, if this is the moment. KILL_DURING is only announced: see `during`."""
        self._put(_CONTROL + boundary, self._get(_CONTROL + boundary) + 1)
        if self._get(_ARMED) != boundary + 1:
            return None
        left = self._get(_LEFT)
        if left > 1:
            self._put(_LEFT, left - 1)
            return None
        fault = Fault(self._get(_FAULT))
        if fault is not Fault.KILL_DURING:
            self.strike()
        return fault

    def during(self, boundary: int) -> bool:
        """Whether this boundary's await is to be cut off while it is under way."""
        armed = self._get(_ARMED) == boundary + 1 and self._get(_LEFT) == 1
        return armed and self._get(_FAULT) == Fault.KILL_DURING.value

    def strike(self) -> None:
        """The fault happens now; the next one is armed."""
        number = self._get(_STRUCK)
        self._put(_STRUCK, number + 1)
        self._put(_FAULT, self._get(_QUEUE + 2 * number + 1))
        self._put(_LEFT, 1)
        self._put(_ARMED, self._get(_QUEUE + 2 * number) if number < _QUEUED - 1 else 0)
