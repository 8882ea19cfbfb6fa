"""Ending a machine that no row names any more, by its folder alone. Upkeep, outside the driver's eight methods."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rekindle.driver import cgroup, process, start

KILL_S = 20.0


async def end(home: Path) -> None:
    """End the VMM last started in `home`, if it still runs, and remove its sockets and cgroups. Repeatable."""
    who = start.recorded(home)
    if who is not None:
        await process.kill(who, within_s=KILL_S)
    start.clear(home)
    cgroup.remove(cgroup.find(home.name))


def disown(home: Path) -> None:
    """Forget the VMM last started in `home` without touching any process: the machine was restarted since, and its pid
    may be a stranger's. Repeatable."""
    start.clear(home)
    with suppress(OSError):  # busy: a process that is not ours to end lives in it
        cgroup.remove(cgroup.find(home.name))
