"""The box a build runs in: a cgroup with its limits, and namespaces whose init dies with this process.

`opened` starts `builder.sh` (which makes the mounts and goes into the toolbox tree), gives it a network, lets it go,
and guarantees that nothing of it is left: no process, mount, namespace or cgroup, however the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rekindle.core.errors import MachineError
from rekindle.image import buildnet, buildwatch, inside

_SCRIPT = Path(__file__).with_name("builder.sh")
_START_DEADLINE_S = 30
_LINE_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """What is inside, and how much it may have."""

    name: str  #: of its cgroup; unique on this machine
    tree: Path
    folders: Mapping[str, Path]  #: `work`, `storage`, `context`, `base`, `out`: seen inside as /rk/<name>
    doors: Iterable[buildnet.Door]
    memory_mib: int
    pids: int


class Cgroup:
    """One group of that name in every hierarchy (v1, v2 or both); runc makes its own below it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._mounts = dict(_cgroup_mounts(Path("/proc/self/mountinfo").read_text()))

    @property
    def command(self) -> list[str]:
        """The start of the build's command line: nothing, it joins the group later."""
        return []

    def make(self, *, memory_mib: int, pids: int) -> None:
        """Make the groups and set their limits. Raises MachineError when this machine does not let us."""
        memory_bytes = str(memory_mib << 20)
        try:
            if "memory" in self._mounts and "pids" in self._mounts:
                self._set("memory", "memory.limit_in_bytes", memory_bytes)
                self._set_if_there("memory", "memory.memsw.limit_in_bytes", memory_bytes)
                self._set("pids", "pids.max", str(pids))
            else:
                self._make_unified(memory_bytes, str(pids))
        except (OSError, KeyError) as err:
            self._remove()
            raise MachineError(f"Builds need a cgroup with limits on memory and pids: {err}") from err

    def _make_unified(self, memory_bytes: str, pids: str) -> None:
        (self._mounts[""] / "cgroup.subtree_control").write_text("+memory +pids")
        self._set("", "cgroup.subtree_control", "+memory +pids")
        self._set("", "memory.max", memory_bytes)
        self._set_if_there("", "memory.swap.max", "0")
        self._set("", "pids.max", pids)
        (self._mounts[""] / self.name / "builder").mkdir(exist_ok=True)

    def _set(self, controller: str, file: str, value: str) -> None:
        group = self._mounts[controller] / self.name
        group.mkdir(exist_ok=True)
        (group / file).write_text(value)

    def _set_if_there(self, controller: str, file: str, value: str) -> None:
        if (self._mounts[controller] / self.name / file).exists():
            self._set(controller, file, value)

    def add(self, pid: int) -> None:
        for group in self._groups():
            leaf = group / "builder" if (group / "builder").is_dir() else group
            (leaf / "cgroup.procs").write_text(str(pid))

    def _groups(self) -> list[Path]:
        """The groups that exist; a cgroup is in a hierarchy once somebody (we or runc) made it there."""
        return [path for mount in dict.fromkeys(self._mounts.values()) if (path := mount / self.name).is_dir()]

    async def clear(self) -> None:
        """Kill everything in the groups, wait for its end, remove the groups. Repeatable."""
        while pids := self._pids():
            for pid in pids:
                await self._kill(pid)
        self._remove()

    async def _kill(self, pid: int) -> None:
        """Kill one process of the group and wait until it is over (a zombie counts as over)."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if pid in self._pids():  # still ours, so the descriptor is not of somebody who got a used number
                await buildwatch.killed(pidfd)
        finally:
            os.close(pidfd)

    def _pids(self) -> set[int]:
        found: set[int] = set()
        for group in self._groups():
            for procs in group.rglob("cgroup.procs"):
                with contextlib.suppress(FileNotFoundError):  # runc removes its own
                    found |= {int(line) for line in procs.read_text().split()}
        return found - {0}

    def _remove(self) -> None:
        for group in self._groups():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(FileNotFoundError):
                    Path(folder).rmdir()

    async def keep(self, ended: asyncio.Event) -> None:
        """Nothing to do: the kernel keeps the build within its limits."""

    def hit_memory_limit(self) -> bool:
        """Whether the build ran into its memory limit (it may have got by: v1 counts file pages, and newer kernels no
        longer count failures there)."""
        if "memory" in self._mounts:
            group = self._mounts["memory"] / self.name
            return _number(group / "memory.max_usage_in_bytes") >= _number(group / "memory.limit_in_bytes")
        words = (self._mounts[""] / self.name / "memory.events").read_text().split()
        return int(words[words.index("oom_kill") + 1]) > 0


def _cgroup_mounts(mountinfo: str) -> Iterator[tuple[str, Path]]:
    """Controller (or `name=...`; empty: the unified hierarchy) and where it is mounted."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        where = Path(fields.split()[4])
        if kind == "cgroup2":
            yield "", where
        elif kind == "cgroup":
            for option in options.split(","):
                if option not in ("rw", "ro", "xattr", "clone_children"):
                    yield option, where


def _number(path: Path) -> int:
    return int(path.read_text())


class Bounds(Protocol):
    """What ends a build's processes and limits them: a cgroup, or a watch where we may make none."""

    @property
    def command(self) -> list[str]: ...
    def make(self, *, memory_mib: int, pids: int) -> None: ...
    def add(self, pid: int) -> None: ...
    async def clear(self) -> None: ...
    async def keep(self, ended: asyncio.Event) -> None: ...
    def hit_memory_limit(self) -> bool: ...


def bounds(name: str) -> Bounds:
    """Root's builds have a cgroup of that name, an ordinary user's are watched."""
    return Cgroup(name) if os.geteuid() == 0 else buildwatch.Watch()


@dataclass(frozen=True, slots=True)
class Running:
    """A box at work."""

    bounds: Bounds
    _process: asyncio.subprocess.Process

    async def lines(self, on_line: Callable[[str], None]) -> int:
        """Hand every line that it prints to `on_line`; returns its exit code."""
        output = self._process.stdout
        assert output is not None  # noqa: S101 - opened as a pipe below
        rest = b""
        while data := await output.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                on_line(_text(line))
            if len(rest) > _LINE_MAX_BYTES:
                on_line(_text(rest))
                rest = b""
        if rest:
            on_line(_text(rest))
        return await self._process.wait()


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


@asynccontextmanager
async def opened(box: Box, env: Mapping[str, str]) -> AsyncIterator[Running]:
    """Run `builder.sh` in the box with the environment `env`. Raises MachineError when the box cannot be made."""
    limits = bounds(box.name)
    await limits.clear()
    limits.make(memory_mib=box.memory_mib, pids=box.pids)
    try:
        async with (
            _started(box, env, limits) as (process, init),
            buildnet.connected(init, box.tree, box.doors) as resolver,
        ):
            _tell(process, resolver)
            yield Running(limits, process)
    finally:
        await limits.clear()


def _tell(process: asyncio.subprocess.Process, resolver: str) -> None:
    """The network is there: the script waits for the address of its resolver."""
    assert process.stdin is not None  # noqa: S101 - opened as a pipe below
    process.stdin.write(f"{resolver}\n".encode())


@asynccontextmanager
async def _started(
    box: Box, env: Mapping[str, str], limits: Bounds
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The script, its init (as this machine counts pids) within its limits. Ends with the block or this process."""
    process = await asyncio.create_subprocess_exec(
        *_argv(box, limits),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(env),
    )
    try:
        init = await _init_pid(process)
        limits.add(init)
        yield process, init
    finally:
        await limits.clear()  # its init first: unshare, which is not in the group, then ends by itself
        if process.returncode is None and process.stdin is not None:
            process.stdin.close()  # a script that never came into the group reads its end here
        await process.wait()


def _argv(box: Box, limits: Bounds) -> list[str]:
    user = () if os.geteuid() == 0 else inside.USER_NAMESPACE
    enter = ["setpriv", "--pdeathsig", "KILL", *limits.command]
    enter += ["unshare", *user, "--fork", "--kill-child", "--propagation", "private"]
    enter += ["--mount", "--net", "--ipc", "--uts", "--pid"]
    return [*enter, "sh", str(_SCRIPT), str(box.tree), *(f"{name}={path}" for name, path in box.folders.items())]


async def _init_pid(process: asyncio.subprocess.Process) -> int:
    """The script's first line is its pid."""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    try:
        async with asyncio.timeout(_START_DEADLINE_S):
            line = await process.stdout.readline()
    except TimeoutError as err:
        raise MachineError(f"The build's namespaces were not there after {_START_DEADLINE_S} s") from err
    if not line.strip().isdigit():
        rest = await process.stdout.read(2000)
        raise MachineError(f"The build's namespaces cannot be made: {(line + rest).decode(errors='replace').strip()}")
    return int(line)
