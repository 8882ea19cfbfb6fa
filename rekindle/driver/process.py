"""One foreign process, named for good by pid and start time; watched through a pidfd, which also works for a process
that is not our child (one that an earlier service started)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rekindle.core.errors import MachineError


@dataclass(frozen=True, slots=True)
class Identity:
    pid: int
    started_ticks: int  #: field 22 of /proc/<pid>/stat

    def open(self) -> int | None:
        """A pidfd of this very process, dead but unreaped included; None when it is gone. The caller closes it."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if started_ticks(self.pid) == self.started_ticks:
            return pidfd
        os.close(pidfd)
        return None

    def alive(self) -> bool:
        """Whether it can still run: a process that waits to be reaped does not count."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.started_ticks and stat[0] not in ("Z", "X")

    def cpu_ms(self) -> int:
        """CPU time that it has used so far, in user and kernel mode; 0 when it is gone."""
        stat = _stat(self.pid)
        if stat is None or int(stat[19]) != self.started_ticks:
            return 0
        return (int(stat[11]) + int(stat[12])) * 1000 // os.sysconf("SC_CLK_TCK")


def started_ticks(pid: int) -> int | None:
    """When `pid` was started, in clock ticks after boot; None when there is no such process."""
    stat = _stat(pid)
    return None if stat is None else int(stat[19])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the name (which may hold anything).

    [0] is the state, [11] and [12] the CPU time, [19] the start.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


@asynccontextmanager
async def readiness(descriptor: int) -> AsyncIterator[asyncio.Event]:
    """An event that is set when `descriptor` becomes readable. One watcher a descriptor: duplicate it to have two."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        yield ready
    finally:
        loop.remove_reader(descriptor)


async def until_readable(descriptor: int, within_s: float | None, what: str) -> None:
    """Return when `descriptor` is readable. Raises MachineError naming `what` after `within_s`."""
    async with readiness(descriptor) as ready:
        try:
            async with asyncio.timeout(within_s):
                await ready.wait()
        except TimeoutError as err:
            raise MachineError(f"{what}: not within {within_s} s") from err


async def wait(who: Identity) -> str:
    """Return when the process has ended, reaped if it is ours; says how it ended when we may know."""
    pidfd = who.open()
    if pidfd is None:
        return ""
    try:
        await until_readable(pidfd, None, "end of a process")
        return _reap(pidfd)
    finally:
        os.close(pidfd)


async def kill(who: Identity, *, within_s: float) -> None:
    """End the process and return when it is gone; a no-op when it is. Raises MachineError after `within_s`."""
    pidfd = who.open()
    if pidfd is None:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await until_readable(pidfd, within_s, f"end of process {who.pid} after SIGKILL")
        _reap(pidfd)
    finally:
        os.close(pidfd)


def _reap(pidfd: int) -> str:
    """Collect a dead child. Somebody else's child (after a restart of the service: init's) is not ours to collect."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return ""
    if result is None:
        return ""
    if result.si_code == os.CLD_EXITED:
        return f"exit status {result.si_status}"
    return f"signal {signal.Signals(result.si_status).name}"
