"""The bounds of an ordinary user's build, who may make no cgroup: its namespaces, one kernel limit, and a watch.

Its processes end with the init of their namespace. The kernel bounds their number (RLIMIT_NPROC). Memory is *watched*:
several times a second what the processes hold is added up, and above the limit the biggest is killed, as the kernel
would. A build may pass its limit for such a moment, and memory that no process maps (a RUN step's tmpfs) is not seen;
when this machine runs short meanwhile, the kernel kills the build's processes before all others (oom_score_adj 1000).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.2
_PAGE_BYTES = resource.getpagesize()


class Watch:
    """Watches the processes below one init. Its methods are those of `buildbox.Cgroup`."""

    def __init__(self) -> None:
        self._init: _Task | None = None
        self._memory_bytes = 0
        self._processes = 0
        self._killed_one = False

    def make(self, *, memory_mib: int, pids: int) -> None:
        """The limits of the build that `add` will name."""
        self._memory_bytes = memory_mib << 20
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        wanted = pids + _own_tasks()
        self._processes = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)

    @property
    def command(self) -> list[str]:
        """The start of the build's command line."""
        return ["choom", "-n", "1000", "--", "prlimit", f"--nproc={self._processes}:{self._processes}", "--"]

    def add(self, pid: int) -> None:
        """`pid` is the init of the build's pid namespace."""
        self._init = _Task(pid, _started(pid))

    async def clear(self) -> None:
        """End the init, and with it every process of its namespace. Repeatable."""
        if self._init and (pidfd := _pidfd(self._init)) is not None:
            try:
                await killed(pidfd)
            finally:
                os.close(pidfd)
        self._init = None

    def hit_memory_limit(self) -> bool:
        return self._killed_one

    async def keep(self, ended: asyncio.Event) -> None:
        """Keep the build within its memory until it has ended."""
        while not ended.is_set():
            await asyncio.to_thread(self.check)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await ended.wait()

    def check(self) -> None:
        """Kill the biggest process if all of them hold too much at this moment."""
        family = list(_below(self._init)) if self._init else []
        if sum(_resident_bytes(task.pid) for task in family) <= self._memory_bytes:
            return  # what is shared counts more than once here, and the exact sum costs more
        held = {task: _held_bytes(task.pid) for task in family}
        if sum(held.values()) > self._memory_bytes:
            self._killed_one = True
            _kill(max(held, key=lambda task: held[task]))


@dataclass(frozen=True, slots=True)
class _Task:
    pid: int
    started: str  #: with the pid it names one process for ever


def _below(init: _Task) -> Iterator[_Task]:
    """The descendants of a namespace's init: all its other processes, because orphans become its children."""
    children: dict[int, list[_Task]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(_Task(int(entry.name), fields[19]))
    waiting = [init.pid] if _started(init.pid) == init.started else []
    while waiting:
        for task in children.pop(waiting.pop(), ()):
            yield task
            waiting.append(task.pid)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name; none when it is gone."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _started(pid: int) -> str:
    return "".join(_stat(pid)[19:20])


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _resident_bytes(pid: int) -> int:
    return int((_read(pid, "statm").split() or ["0", "0"])[1]) * _PAGE_BYTES


def _held_bytes(pid: int) -> int:
    """Its share of memory: pages that several map are divided among them."""
    lines = (line.split() for line in _read(pid, "smaps_rollup").splitlines())
    return sum(int(words[1]) << 10 for words in lines if words[:1] == ["Pss:"])


def _kill(task: _Task) -> None:
    pidfd = _pidfd(task)
    if pidfd is not None:
        try:
            _signal(pidfd)
        finally:
            os.close(pidfd)


def _own_tasks() -> int:
    """How many tasks this user has: RLIMIT_NPROC counts them with those of the build."""
    mine = str(os.getuid())
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            status = _read(int(entry.name), "status")
            fields = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
            if fields.get("Uid", [""])[0] == mine:
                count += int(fields["Threads"][0])
    return count


def _pidfd(task: _Task) -> int | None:
    """A descriptor of exactly this process; None when it is gone, also when another one has its number now."""
    try:
        pidfd = os.pidfd_open(task.pid)
    except ProcessLookupError:
        return None
    if _started(task.pid) == task.started:
        return pidfd
    os.close(pidfd)
    return None


async def killed(pidfd: int) -> None:
    """Kill a process and wait until it is over (a zombie counts as over)."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(pidfd, over.set)
    try:
        _signal(pidfd)
        await over.wait()
    finally:
        loop.remove_reader(pidfd)


def _signal(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
