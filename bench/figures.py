"""Series of milliseconds, and what is said of them: median, p95, and the ratio to another series. Nothing is judged."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


def median(ms: Sequence[float]) -> float:
    return statistics.median(ms)


def p95(ms: Sequence[float]) -> float:
    """The smallest value that at least 95 of 100 do not exceed."""
    ordered = sorted(ms)
    return ordered[max(0, -(-95 * len(ordered) // 100) - 1)]


@dataclass
class Guest:
    """All series of one guest, by name."""

    name: str
    ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, series: str, seconds: float) -> None:
        self.ms.setdefault(series, []).append(1000 * seconds)

    def ratio(self, above: str, below: str) -> float | None:
        if above not in self.ms or below not in self.ms:
            return None
        return median(self.ms[above]) / median(self.ms[below])


def summary(guest: Guest, floors: dict[str, str], cold: str) -> dict[str, object]:
    """JSON-able: for every series its rounds, median, p95, the raw values, and its ratios."""
    return {
        name: {
            "rounds": len(ms),
            "median_ms": round(median(ms), 1),
            "p95_ms": round(p95(ms), 1),
            "to_floor": _rounded(guest.ratio(name, floors[name])) if name in floors else None,
            "of_cold_boot": _rounded(guest.ratio(name, cold)),
            "ms": [round(one, 2) for one in ms],
        }
        for name, ms in guest.ms.items()
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def table(guest: Guest, floors: dict[str, str], cold: str) -> str:
    """Markdown: one row a series, in the order in which they were first measured."""
    rows = [
        f"| {guest.name} | rounds | median ms | p95 ms | to its floor | to cold boot |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, ms in guest.ms.items():
        floor, boot = guest.ratio(name, floors.get(name, "")), guest.ratio(name, cold)
        against = "" if floor is None else f"x {floor:.2f}"
        share = "" if not boot or name == cold else f"1/{1 / boot:.0f}"
        rows.append(f"| {name} | {len(ms)} | {median(ms):.1f} | {p95(ms):.1f} | {against} | {share} |")
    return "\n".join(rows)
