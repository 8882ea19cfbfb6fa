"""Several nested machines beside each other, each with parts of its own: one of them can use one CPU of the host."""

from __future__ import annotations

import heapq
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.kvm.machine import Ended, Machine


def shared_out(takes_s: Mapping[str, float], machines: int) -> list[list[str]]:
    """The parts of each machine, so that all end at about the same time: the longest first, to whom has least to do."""
    crew: list[tuple[float, int, list[str]]] = [(0.0, number, []) for number in range(min(machines, len(takes_s)))]
    for part in sorted(takes_s, key=lambda one: (-takes_s[one], one)):
        busy_s, number, parts = heapq.heappop(crew)
        heapq.heappush(crew, (busy_s + takes_s[part], number, [*parts, part]))
    return [parts for _, _, parts in sorted(crew, key=lambda one: one[1])]


def run(machines: Sequence[Machine], within_s: float) -> list[str]:
    """Run all of them to their ends; what ended badly. When this is interrupted no machine is left."""
    with ThreadPoolExecutor(len(machines)) as pool:
        try:
            return [said for said in pool.map(lambda one: _outcome(one, within_s), machines) if said]
        except BaseException:
            for machine in machines:
                machine.kill()
            raise


def _outcome(machine: Machine, within_s: float) -> str:
    name = f"machine {machine.name}".rstrip()
    try:
        failed = machine.run(within_s)
    except Ended as err:
        return f"{name}: {err}"
    return f"{name}: {failed} of its parts failed" if failed else ""


def gather(machines: Iterable[Machine], out: Path) -> dict[str, dict[str, object]]:
    """Everything that they left, in one folder; what each part came to, by name. One that ended early has nothing."""
    told: dict[str, dict[str, object]] = {}
    for machine in machines:
        if machine.results.exists():
            shutil.copytree(machine.results, out, dirs_exist_ok=True)
            told |= json.loads((machine.results / "parts.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    (out / "parts.json").write_text(json.dumps(told, indent=1))
    return told
