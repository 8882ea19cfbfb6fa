"""How far a long work on a VM's memory is, in bytes. For whoever looks (`rekindle inspect`); nothing depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Progress:
    work: str
    done_bytes: int = 0
    of_bytes: int = 0  #: 0 until it is known


class Board:
    """One for a driver: what goes on at this moment, by VM. Written in threads, read anywhere."""

    def __init__(self) -> None:
        self._now: dict[str, Progress] = {}

    @contextmanager
    def showing(self, vm_id: str, work: str) -> Iterator[Progress]:
        """Shown while the block goes on."""
        self._now[vm_id] = one = Progress(work)
        try:
            yield one
        finally:
            self._now.pop(vm_id, None)

    def of(self, vm_id: str) -> Mapping[str, object] | None:
        """`{"work", "done_bytes", "of_bytes"}`, or None when no such work goes on."""
        one = self._now.get(vm_id)
        return None if one is None else asdict(one)
