"""What /proc says, read without help: processes, descriptors, sockets, mounts, namespaces.

A process may end between two reads: every reader answers with nothing then, and never raises for it. The same for a
process of another user, which an ordinary user may not look into.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_UNREADABLE = (FileNotFoundError, ProcessLookupError, PermissionError, NotADirectoryError)
_LISTENING_TCP = "0A"
_LISTENING_UNIX = 0x10000  # SO_ACCEPTON in the flags column of /proc/net/unix


@dataclass(frozen=True, slots=True)
class Process:
    """`started_ticks` makes the identity: a pid alone is reused."""

    pid: int
    parent: int
    started_ticks: int
    state: str
    name: str


def processes() -> Iterator[Process]:
    for entry in os.listdir(PROC):
        if entry.isdigit() and (process := process_of(int(entry))) is not None:
            yield process


def process_of(pid: int) -> Process | None:
    stat = text(PROC / str(pid) / "stat")
    if not stat:
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]  # the name may hold blanks and parentheses
    rest = stat[stat.rindex(")") + 2 :].split()
    return Process(pid=pid, parent=int(rest[1]), started_ticks=int(rest[19]), state=rest[0], name=name)


def command(pid: int) -> str:
    return text(PROC / str(pid) / "cmdline").replace("\0", " ").strip()


def link(path: Path) -> str:
    try:
        return os.readlink(path)
    except _UNREADABLE:
        return ""


def text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except (*_UNREADABLE, OSError):  # EINVAL and EIO for a process that is just ending
        return ""


def descriptors(pid: int) -> dict[int, str]:
    """Open descriptors and what they are: a path, `socket:[inode]`, `pipe:[inode]`, `anon_inode:...`."""
    folder = PROC / str(pid) / "fd"
    try:
        numbers = os.listdir(folder)
    except _UNREADABLE:
        return {}
    found = {int(number): link(folder / number) for number in numbers}
    return {number: target for number, target in found.items() if target}  # the listing's own is gone by now


def namespaces(pid: int) -> dict[str, str]:
    """Kind to identity, for example `net` to `net:[4026531840]`."""
    found = {kind: link(PROC / str(pid) / "ns" / kind) for kind in NAMESPACES}
    return {kind: identity for kind, identity in found.items() if identity}


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    root: str  #: the folder within its file system that is mounted; `net:[..]` for a pinned namespace
    kind: str
    source: str
    options: str

    def names(self, folder: str) -> bool:
        return any(folder in part for part in (self.point, self.root, self.source, self.options))


def mounts(pid: int | str = "self") -> list[Mount]:
    found = []
    for line in text(PROC / str(pid) / "mountinfo").splitlines():
        first, _, second = line.partition(" - ")
        fields, (kind, source, *options) = first.split(), second.split(" ", 2)
        found.append(Mount(fields[4], fields[3], kind, source, " ".join(options)))
    return found


@dataclass(frozen=True, slots=True)
class Listener:
    where: str
    inode: str


def listeners(pid: int | str = "self") -> list[Listener]:
    """Listening TCP and unix sockets of the network namespace of `pid`."""
    net = PROC / str(pid) / "net"
    found = []
    for family in ("tcp", "tcp6"):
        for line in text(net / family).splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING_TCP:
                found.append(Listener(f"{family} port {int(fields[1].rpartition(':')[2], 16)}", fields[9]))
    for line in text(net / "unix").splitlines()[1:]:
        fields = line.split(None, 7)
        if int(fields[3], 16) & _LISTENING_UNIX:
            found.append(Listener(f"unix {fields[7] if len(fields) > 7 else '(unnamed)'}", fields[6]))
    return found
