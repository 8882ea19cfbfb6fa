"""A campaign takes hours and may be run in parts, beside each other; what they came by is judged when all are in.

`FAULTS` says which faults (kill, others, each: both, all: more than one other a boundary), `FAULTS_OF` of which half
(microvms, images; none: both), `FAULTS_RECORD` names a folder in which every part that came to its end leaves a file.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

KINDS = ("kill", "others")
HALVES = ("microvms", "images")
WHOLE = frozenset(itertools.product(HALVES, KINDS))

Key = tuple[str, str, str]  #: of a boundary: file, function and text of the line


@dataclass(frozen=True, slots=True)
class Asked:
    """Which parts to run: halves and kinds of faults."""

    halves: tuple[str, ...]
    kinds: tuple[str, ...]
    every: bool  #: each other fault at each boundary, not one of them

    @classmethod
    def from_environment(cls) -> Asked:
        """Raises ValueError for a word that means nothing: a run that does nothing would pass."""
        faults, half = os.environ.get("FAULTS", "each"), os.environ.get("FAULTS_OF")
        if faults not in ("all", "each", *KINDS):
            raise ValueError(f"FAULTS={faults}: all, each, kill or others")
        if half is not None and half not in HALVES:
            raise ValueError(f"FAULTS_OF={half}: microvms or images")
        return cls((half,) if half else HALVES, (faults,) if faults in KINDS else KINDS, faults == "all")

    @property
    def parts(self) -> frozenset[tuple[str, str]]:
        return frozenset(itertools.product(self.halves, self.kinds))


def never_met(asked: Asked, counts: Mapping[Key, int]) -> set[Key] | None:
    """Boundaries that no part came by; None while parts are missing. Leaves a file of this one."""
    met: set[tuple[str, ...]] = {key for key, count in counts.items() if count}
    parts: Set[tuple[str, ...]] = asked.parts
    if named := os.environ.get("FAULTS_RECORD"):
        folder = Path(named)
        folder.mkdir(parents=True, exist_ok=True)
        name = "-".join((*asked.halves, *asked.kinds))
        told = {"parts": sorted(parts), "source": sorted(counts), "met": sorted(met)}
        (folder / f"{name}.json").write_text(json.dumps(told))
        for other in map(_read, folder.glob("*.json")):
            if other["source"] == set(counts):  # of another source: it says nothing about this one
                parts |= other["parts"]
                met |= other["met"]
    return {key for key in counts if key not in met} if parts >= WHOLE else None


def _read(path: Path) -> dict[str, set[tuple[str, ...]]]:
    return {name: {tuple(one) for one in listed} for name, listed in json.loads(path.read_text()).items()}
