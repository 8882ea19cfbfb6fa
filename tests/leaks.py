"""Did a test leave anything behind? A census before, a census after, and the difference.

`snapshot` looks at what can be *ours*: this process, its descendants, every process whose command line, root, working
folder, program, environment or mounts name one of our folders, and orphans (children of init) that are one of the
programs we start. Sockets and namespaces are those of these processes. What other people do on the machine at the
same time is not counted.
"""

from __future__ import annotations

import fnmatch
import gc
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from tests import procfs
from tests.procfs import PROC, Process
from tests.waiting import until

#: Programs that we start (the kernel keeps 15 letters of a name). A new orphan of this name is a leak even if nothing
#: else points to us.
PROGRAMS = (
    "qemu-system",
    "qemu-img",
    "rekindle",
    "buildah",
    "runc",
    "slirp4netns",
    "mkfs.erofs",
    "mmdebstrap",
    "conmon",
)
#: What may appear below a state folder while a service lives, as patterns on the path relative to it.
ALLOWED = (
    "rekindle.db*",
    "rekindle.toml",
    "client.env",
    "serve.pid",
    "aws",
    "ca",
    "logs",
    "artifacts",
    "accounts",
    "tools",
    "keys",
    "accel.json",
    "run/initrd",
    "run/relay.sock.lock",
)
#: Folders that may be there, but what is in them must be accounted for.
STRUCTURE = ("run", "vms", "builds", "images", "images/*")
#: Names that our programs use in the machine's temp folders. A temp folder of one's own (TMPDIR) is counted whole.
TEMP_NAMES = ("rekindle*", "buildah*", "container_images_*", "storage*", "mmdebstrap*", "vl.*", "qemu*", "runc*")
SHARED_TEMP = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
_NAMES_A_FOLDER = re.compile(r"--(state|socket)[ =]/")
CGROUPS = Path("/sys/fs/cgroup")
#: Parts of cgroup names that our programs use; the parent that all our groups share may stay.
CGROUP_MARKS = ("rekindle", "buildah", "runc")
CGROUP_PARENT = "rekindle"
NAMED_NETWORKS = Path("/var/run/netns")


@dataclass(frozen=True, slots=True)
class Leak:
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    state: Path | None
    roots: tuple[str, ...]
    allowed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """For each kind, what is there: an identity that is never reused, and words for people."""

    scope: Scope
    found: Mapping[str, Mapping[str, str]]


def snapshot(state: Path | None, *roots: Path, allowed: Iterable[str] = ALLOWED) -> Census:
    """Everything of ours at this moment. `roots` are further folders that mark a process or mount as ours."""
    uvloop.new_event_loop().close()  # libuv makes a pipe with its first loop that stays for the process's life
    folders = tuple(str(folder) for folder in (*([state] if state else []), *roots))
    return _take(Scope(state=state, roots=folders, allowed=tuple(allowed)))


def compare(before: Census, after: Census) -> list[Leak]:
    """What `after` has that `before` had not."""
    return [
        Leak(kind, words)
        for kind, things in after.found.items()
        for identity, words in sorted(things.items())
        if identity not in before.found.get(kind, {})
    ]


def settled(before: Census, *, within_s: float = 5.0) -> list[Leak]:
    """The leaks that are still there after `within_s`; returns at once when there are none.

    Ends of processes, of their namespaces and of their sockets are not one instant, hence the patience.
    """
    last: list[Leak] = []

    def none_left() -> bool:
        gc.collect()  # a socket object in a reference cycle is closed by the collector, not a leak
        last[:] = compare(before, _take(before.scope))
        return not last

    try:
        until(none_left, within_s, "no leaks")
    except AssertionError:
        return last
    return []


def _take(scope: Scope) -> Census:
    ours = _ours(scope)
    found = {
        "process": {_identity(one): _words(one) for one in ours if one.pid != os.getpid()},
        "socket": _sockets(scope, ours),
        "mount": _mounts(scope),
        "namespace": dict(_namespaces(ours)),
        "cgroup": _cgroups({one.pid for one in ours}),
        "file": {path: path for path in _files(scope)},
        "temp": {path: path for path in _temp()},
        "descriptor": _descriptors(),
    }
    return Census(scope=scope, found=found)


def _identity(process: Process) -> str:
    return f"{process.pid}@{process.started_ticks}"


def _words(process: Process) -> str:
    zombie = " (zombie)" if process.state == "Z" else ""
    return f"pid {process.pid}{zombie}: {procfs.command(process.pid) or process.name}"


def _ours(scope: Scope) -> list[Process]:
    everyone = {one.pid: one for one in procfs.processes()}
    family = _descendants(os.getpid(), everyone)
    return [
        one
        for one in everyone.values()
        if (one.pid in family or _is_orphaned_program(one, everyone) or _points_at(one.pid, scope.roots))
        and not (one.state == "Z" and one.parent in (1, os.getpid()))  # init's or the test's own to reap
    ]


def _descendants(pid: int, everyone: Mapping[int, Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for one in everyone.values():
        children.setdefault(one.parent, []).append(one.pid)
    family, queue = {pid}, [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            family.add(child)
            queue.append(child)
    return family


def _is_orphaned_program(process: Process, everyone: Mapping[int, Process]) -> bool:
    """Orphans go to pid 1, or to the user's systemd, which makes itself the reaper of its sessions.

    A program of ours that names a state folder is left to `_points_at`: it may be the developer's own service.
    """
    parent = everyone.get(process.parent)
    orphaned = parent is None or parent.pid == 1 or parent.name == "systemd"
    if not orphaned or not process.name.startswith(PROGRAMS):
        return False
    return _NAMES_A_FOLDER.search(procfs.command(process.pid)) is None


def _points_at(pid: int, roots: tuple[str, ...]) -> bool:
    if not roots or not procfs.link(PROC / str(pid) / "exe"):  # kernel threads have no program
        return False
    folder = PROC / str(pid)
    clues = [procfs.command(pid), procfs.text(folder / "environ")]
    clues += [procfs.link(folder / name) for name in ("root", "cwd", "exe")]
    if any(root in clue for root in roots for clue in clues):
        return True
    if procfs.link(folder / "ns/mnt") == procfs.link(PROC / "self/ns/mnt"):
        return False
    return any(mount.names(root) for mount in procfs.mounts(pid) for root in roots)


def _sockets(scope: Scope, ours: list[Process]) -> dict[str, str]:
    """Listening sockets that one of our processes holds, and unix ones in our folders whoever holds them."""
    held = {target for one in ours for target in procfs.descriptors(one.pid).values() if target.startswith("socket:")}
    networks = {procfs.link(PROC / str(one.pid) / "ns/net"): one.pid for one in ours} or {"": os.getpid()}
    return {
        listener.inode: f"listening {listener.where}"
        for pid in networks.values()
        for listener in procfs.listeners(pid)
        if f"socket:[{listener.inode}]" in held or any(root in listener.where for root in scope.roots)
    }


def _mounts(scope: Scope) -> dict[str, str]:
    """Mounts in our own mount namespace that show or use one of our folders; others end with their namespace."""
    ours = [mount for mount in procfs.mounts() if any(mount.names(root) for root in scope.roots)]
    counted = Counter[str]()
    named = {}
    for mount in ours:
        words = f"{mount.kind} {mount.source}{mount.root} on {mount.point}"
        counted[words] += 1
        named[f"{words} #{counted[words]}"] = words
    return named


def _namespaces(ours: list[Process]) -> Iterator[tuple[str, str]]:
    """Namespaces other than this process's own: lived in, held by a descriptor, or pinned by a mount or a name."""
    own = set(procfs.namespaces(os.getpid()).values())
    for one in ours:
        for identity in procfs.namespaces(one.pid).values():
            if identity not in own:
                yield identity, f"{identity} of pid {one.pid}"
        for target in procfs.descriptors(one.pid).values():
            if target.partition(":[")[0] in procfs.NAMESPACES and target not in own:
                yield target, f"{target} held open by pid {one.pid}"
    for mount in procfs.mounts():
        if mount.kind == "nsfs":
            yield mount.root, f"{mount.root} pinned at {mount.point}"
    if NAMED_NETWORKS.is_dir():
        yield from ((str(name), str(name)) for name in NAMED_NETWORKS.iterdir())


def _cgroups(pids: set[int]) -> dict[str, str]:
    """Our cgroups in every hierarchy, v1 and v2, but for those in which only other people's processes live."""
    found = {}
    for folder, names, _ in os.walk(CGROUPS):
        for path in (Path(folder) / name for name in names if name != CGROUP_PARENT):
            members = {int(pid) for pid in procfs.text(path / "cgroup.procs").split()}
            if any(mark in str(path) for mark in CGROUP_MARKS) and (not members or members & pids):
                found[str(path)] = str(path)
    return found


def _files(scope: Scope) -> Iterator[str]:
    """Every file and folder below the state folder, but for what is allowed there and below that."""
    if scope.state is None:
        return
    for folder, names, files in os.walk(scope.state):
        below = Path(folder).relative_to(scope.state)
        names[:] = [name for name in names if not _allowed(below / name, scope)]
        yield from (str(below / name) for name in names if not _is_structure(below / name))
        yield from (str(below / name) for name in files if not _allowed(below / name, scope))


def _allowed(path: Path, scope: Scope) -> bool:
    return any(fnmatch.fnmatchcase(str(path), pattern) for pattern in scope.allowed)


def _is_structure(path: Path) -> bool:
    return any(len(path.parts) == len(Path(pattern).parts) and path.match(pattern) for pattern in STRUCTURE)


def _temp() -> Iterator[str]:
    private = Path(tempfile.gettempdir())
    for folder in {private, *SHARED_TEMP}:
        for name in os.listdir(folder) if folder.is_dir() else []:
            whole = folder not in SHARED_TEMP
            if whole or any(fnmatch.fnmatchcase(name, pattern) for pattern in TEMP_NAMES):
                yield str(folder / name)


def _descriptors() -> dict[str, str]:
    """This process's open descriptors by what they are; numbers are reused and say nothing."""
    counted = Counter(procfs.descriptors(os.getpid()).values())
    return {f"{target} #{n}": target for target, count in counted.items() for n in range(1, count + 1)}
