"""Starting one VMM: its sockets, its walls, its first words; and clearing what is left of it.

The sockets listen before the VMM exists, and the control connection is made before it runs: nobody polls. The launcher
writes `run/vmm` (pid and start time) before it lets the VMM begin, so no crash of ours leaves a VMM that nothing names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rekindle import unixsock
from rekindle.core.errors import MachineError
from rekindle.driver import cgroup, jail, machine, process, qmp
from rekindle.driver.base import Accel, MachineSpec
from rekindle.driver.cgroup import Group
from rekindle.driver.jail import Bind, Program, Walls
from rekindle.driver.machine import MIB
from rekindle.driver.process import Identity

GREET_S = 20.0
KILL_S = 20.0
PID_FILE = "vmm"
DEFAULT_PIDS = 160  #: QEMU's own threads, and up to 64 for disk requests
_OVERHEAD_BYTES = 512 * MIB  #: what QEMU needs beside guest RAM
_ADDRESS_SPACE_BYTES = 3072 * MIB  #: beside guest RAM; tcg's translation buffer alone reserves 1 GiB


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    spec: MachineSpec
    argv: Sequence[str]
    binds: Sequence[Bind]
    file_bytes: int  #: the longest file that it writes


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    who: Identity
    link: qmp.Link
    cgroups: Group


async def start(launcher: Path, what: Start) -> Started:
    """Launch the VMM and greet it; the machine exists then and is paused. Raises MachineError; nothing runs then."""
    spec = what.spec
    run = spec.home / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    group = _group(spec)
    said, saying = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with ExitStack() as handed_over:
        handed_over.callback(os.close, saying)
        try:
            listening = [handed_over.enter_context(unixsock.listen(run / name)) for name in machine.SOCKETS]
            descriptors = [sock.fileno() for sock in listening]
            if spec.accel is Accel.KVM:
                descriptors.append(_open_kvm())
                handed_over.callback(os.close, descriptors[-1])
            link = await qmp.attach(unixsock.connect(run / machine.SOCKETS[0]), said)
            try:
                who = await jail.launch(launcher, _program(what, descriptors, group, saying))
                handed_over.close()  # a VMM that dies now must be the last one to hold its sockets: then we see the end
                await _greet(link)
            except BaseException:
                link.close()
                raise
        except BaseException:
            await asyncio.shield(_abandon(spec.home, group))
            raise
    return Started(who=who, link=link, cgroups=group)


async def connect(home: Path, within_s: float) -> qmp.Link:
    """Connect to a VMM that an earlier service started. Raises MachineError."""
    try:
        sock = unixsock.connect(home / "run" / machine.SOCKETS[0])
    except OSError as err:
        raise MachineError(f"The VMM of {home.name} does not take a control connection: {err.strerror}") from err
    link = await qmp.attach(sock)
    try:
        await link.greet(within_s)
    except BaseException:
        link.close()
        raise
    return link


async def _greet(link: qmp.Link) -> None:
    try:
        await link.greet(GREET_S)
    except MachineError as err:
        raise MachineError(f"{err.message}. QEMU said: {link.last_words() or 'nothing'}") from err


async def _abandon(home: Path, group: Group) -> None:
    who = recorded(home)
    if who is not None:
        await process.kill(who, within_s=KILL_S)
    clear(home)
    cgroup.remove(group.folders)


def _group(spec: MachineSpec) -> Group:
    limits = spec.limits
    return cgroup.make(
        spec.vm_id,
        memory_bytes=limits.memory_bytes or spec.memory_mib * MIB + _OVERHEAD_BYTES,
        pids=limits.pids or DEFAULT_PIDS,
    )


def _open_kvm() -> int:
    try:
        return os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as err:
        raise MachineError(f"/dev/kvm: {err.strerror}") from err


def _program(what: Start, descriptors: Sequence[int], group: Group, saying: int) -> Program:
    spec = what.spec
    return Program(
        tree=spec.tools,
        argv=what.argv,
        binds=what.binds,
        walls=Walls(
            uid=spec.uid,
            address_space_bytes=spec.memory_mib * MIB + _ADDRESS_SPACE_BYTES,
            file_bytes=what.file_bytes,
        ),
        descriptors=descriptors,
        cgroups=group.folders,
        pid_file=spec.home / "run" / PID_FILE,
        output=saying,
    )


def recorded(home: Path) -> Identity | None:
    """The VMM that the launcher last started in this home, running or not."""
    try:
        pid, ticks = (home / "run" / PID_FILE).read_text().split()
    except FileNotFoundError:
        return None
    return Identity(int(pid), int(ticks))


def clear(home: Path) -> None:
    """Remove sockets and pid file of a VMM that is gone."""
    for name in (*machine.SOCKETS, PID_FILE, PID_FILE + ".new"):
        (home / "run" / name).unlink(missing_ok=True)
