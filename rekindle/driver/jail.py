"""Walls around every VMM and disk tool: what to ask of `rekindle-jail` (go/internal/jail), and what is really there.

The launcher makes namespaces and an own root, sets rlimits, drops every privilege and executes. Cgroups are made here,
because they must be removed here. `observe` reads the walls of a running process from /proc: what `doctor` shows is
what it finds, not what was asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

from rekindle import threads
from rekindle.core.errors import MachineError
from rekindle.driver import cgroup, process
from rekindle.driver.process import Identity

GIVE_UP_S = 5.0
START_S = 20.0
OUTPUT_MAX_BYTES = 2000
DEVICES = ("/dev/null", "/dev/urandom")
_REPORT_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bind:
    """One file or device that the jailed program sees at `target`."""

    source: Path
    target: str
    writable: bool = False
    device: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Walls:
    """What one jailed program may use; 0 leaves the limit of the service."""

    uid: int | None  #: its own uid and gid (root mode); None: the caller's, in a user namespace
    address_space_bytes: int = 0
    file_bytes: int = 0
    open_files: int = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    tree: Path
    argv: Sequence[str]
    binds: Sequence[Bind]
    walls: Walls
    descriptors: Sequence[int] = ()  #: the program finds them as 3, 4, ...
    cgroups: Sequence[Path] = ()
    pid_file: Path | None = None
    output: int = -1  #: descriptor for stdout and stderr


@dataclass(frozen=True, slots=True)
class Measure:
    """One wall: is it there, and if not, why."""

    name: str
    active: bool
    why_not: str = ""


async def launch(launcher: Path, program: Program) -> Identity:
    """Start `program` in its jail; returns when it has been executed. It is our child and outlives us.

    Raises MachineError with the launcher's reason; then no process is left.
    """
    report, report_child = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    text = bytearray()
    try:
        try:
            starter = _spawn(launcher, program, report_child)
        finally:
            os.close(report_child)
        try:
            await _read_all(report, text)
            errors = await _collect(starter)
        except BaseException:
            await threads.finish(_give_up, starter, report, text)
            raise
        return _started(text, errors)
    finally:
        os.close(report)


async def run(launcher: Path, program: Program, *, within_s: float) -> None:
    """Run a jailed tool to its end. Raises MachineError with its last words when it fails or takes too long."""
    name = Path(program.argv[0]).name
    output = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        who = await launch(launcher, replace(program, output=output))
        end = await _end(who, within_s, name)
        if end != "exit status 0":
            said = os.pread(output, OUTPUT_MAX_BYTES, 0).decode(errors="replace").strip()
            raise MachineError(f"{name} failed ({end}): {said}")
    finally:
        os.close(output)


async def _end(who: Identity, within_s: float, name: str) -> str:
    try:
        async with asyncio.timeout(within_s):
            return await process.wait(who)
    except TimeoutError as err:
        raise MachineError(f"{name} did not end within {within_s} s") from err
    finally:
        await asyncio.shield(process.kill(who, within_s=START_S))


def _spawn(launcher: Path, program: Program, report: int) -> subprocess.Popen[bytes]:
    passed = list(program.descriptors) + ([program.output] if program.output >= 0 else [])
    try:
        starter = subprocess.Popen(
            [launcher],
            stdin=subprocess.PIPE,
            stdout=report,
            stderr=subprocess.PIPE,
            pass_fds=passed,
            env={"GOMAXPROCS": "1", "GOGC": "off"},
            cwd="/",
        )
    except OSError as err:
        raise MachineError(f"The launcher {launcher} could not be started: {err.strerror}") from err
    with suppress(BrokenPipeError), cast(IO[bytes], starter.stdin) as pipe:  # it died: `_started` finds out why
        pipe.write(_specification(program))
    return starter


def _specification(program: Program) -> bytes:
    walls = program.walls
    spec = {
        "argv": list(program.argv),
        "env": ["PATH=/usr/sbin:/usr/bin", "LC_ALL=C"],
        "tree": str(program.tree),
        "binds": [
            {"source": str(one.source), "target": one.target, "writable": one.writable, "device": one.device}
            for one in (*(Bind(Path(name), name, writable=True, device=True) for name in DEVICES), *program.binds)
        ],
        "uid": walls.uid,
        "limits": {
            "address_space_bytes": walls.address_space_bytes,
            "file_bytes": walls.file_bytes,
            "open_files": walls.open_files,
        },
        "cgroups": [str(folder / "cgroup.procs") for folder in program.cgroups],
        "pid_file": str(program.pid_file) if program.pid_file else "",
        "fds": list(program.descriptors),
        "output": program.output,
    }
    return json.dumps(spec).encode()


async def _read_all(descriptor: int, text: bytearray) -> None:
    """Everything that the launcher reports; the end of it is the program's exec (or the launcher's death)."""
    while len(text) < _REPORT_MAX_BYTES:
        await process.until_readable(descriptor, START_S, "start of a jailed program")
        chunk = os.read(descriptor, 4096)
        if not chunk:
            break
        text += chunk


def _give_up(starter: subprocess.Popen[bytes], report: int, text: bytearray) -> None:
    """Nobody waits for it any more: end what was started and reap it. Blocking.

    The first stage is not killed but waited for, some milliseconds: only it can name the second, which is our child.
    """
    try:
        starter.wait(GIVE_UP_S)
    except subprocess.TimeoutExpired:
        starter.kill()
        starter.wait()
    cast(IO[bytes], starter.stderr).close()
    with suppress(BlockingIOError):
        while chunk := os.read(report, 4096):
            text += chunk
    for pid in {line["pid"] for line in _lines(text) if "pid" in line}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # our child, not reaped yet: the pid is nobody else's
        _reap(pid)


async def _collect(starter: subprocess.Popen[bytes]) -> str:
    """Reap the launcher's first stage, which ends by itself, and return what it wrote to its standard error."""
    pidfd = os.pidfd_open(starter.pid)
    try:
        await process.until_readable(pidfd, START_S, "end of the launcher's first stage")
    except MachineError:
        starter.kill()
        raise
    finally:
        os.close(pidfd)
        starter.wait()
        with cast(IO[bytes], starter.stderr) as pipe:
            errors = pipe.read().decode(errors="replace").strip()
    return errors


def _started(text: bytearray, errors: str) -> Identity:
    lines = _lines(text)
    failure = next((line["error"] for line in lines if "error" in line), None)
    for line in lines:
        if failure is None and "started_ticks" in line:
            return Identity(line["pid"], line["started_ticks"])
        if "pid" in line:
            _reap(line["pid"])  # the second stage: it has reported its failure, or was never told what to do
    raise MachineError(f"The jail could not be built: {failure or errors or 'the launcher said nothing'}")


def _lines(text: bytearray) -> list[dict[str, Any]]:
    """The whole lines of the launcher's report; a last one without its end is not one."""
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


# -- what is really there ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    status: Mapping[str, str]
    namespaces: frozenset[str]  #: kinds that differ from ours
    limits: Mapping[str, str] = field(default_factory=dict)


def observe(pid: int) -> list[Measure]:
    """The walls of a running process, read from /proc. Raises MachineError when it is gone."""
    try:
        seen = _look(Path(f"/proc/{pid}"))
    except (FileNotFoundError, ProcessLookupError) as err:
        raise MachineError(f"Process {pid} is gone") from err
    own_uid = int(seen.status["Uid"].split()[0]) != os.getuid()
    apart = own_uid or "user" in seen.namespaces
    return [
        Measure("own user", apart, "" if apart else f"it runs as uid {os.getuid()}, as the service does"),
        _equals("no new privileges", seen.status["NoNewPrivs"], "1"),
        _equals("no capabilities", seen.status["CapEff"].lstrip("0"), ""),
        _equals("no capabilities to regain", seen.status["CapBnd"].lstrip("0"), ""),
        *(_apart(kind, seen.namespaces) for kind in ("mnt", "pid", "net", "ipc", "uts")),
        _equals("no core dumps", seen.limits["Max core file size"], "0"),
        _limited("address space limit", seen.limits["Max address space"]),
        _limited("file size limit", seen.limits["Max file size"]),
        _filters("system call filter", seen, 1),
    ]


def seccomp(pid: int) -> Measure:
    """QEMU's own system call filter, on top of the jail's; it is on once the machine has been made."""
    return _filters("QEMU's system call filter", _look(Path(f"/proc/{pid}")), 2)


def _filters(name: str, seen: _Seen, wanted: int) -> Measure:
    found = int(seen.status.get("Seccomp_filters", "0"))  # Linux 5.9
    return Measure(name, found >= wanted, "" if found >= wanted else f"{found} filters where {wanted} belong")


def _equals(name: str, found: str, wanted: str) -> Measure:
    return Measure(name, found == wanted, "" if found == wanted else f"found {found}")


def _apart(kind: str, namespaces: frozenset[str]) -> Measure:
    return Measure(f"own {kind} namespace", kind in namespaces, "" if kind in namespaces else "it is the service's")


def _limited(name: str, found: str) -> Measure:
    return Measure(name, found != "unlimited", "" if found != "unlimited" else "no limit was set")


def _look(proc: Path) -> _Seen:
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    kinds = ("mnt", "pid", "net", "ipc", "uts", "user")
    apart = frozenset(kind for kind in kinds if os.readlink(proc / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}"))
    limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()[1:]}
    return _Seen(status, apart, limits)


async def report(launcher: Path, tree: Path, uid: int | None) -> list[Measure]:
    """Try the jail with a harmless program and say which walls stand on this machine."""
    group = cgroup.make(f"doctor-{os.getpid()}", memory_bytes=64 * 1024**2, pids=8)
    try:
        program = Program(
            tree=tree,
            argv=["/usr/bin/sleep", "600"],
            binds=(),
            walls=Walls(uid=uid, address_space_bytes=1024**3, file_bytes=1024**2),
            cgroups=group.folders,
        )
        who = await launch(launcher, program)
        try:
            return [*observe(who.pid), *(Measure(name, why == "", why) for name, why in group.measures.items())]
        finally:
            await process.kill(who, within_s=START_S)
    except MachineError as err:
        return [Measure("the jail", active=False, why_not=err.message)]
    finally:
        cgroup.remove(group.folders)
