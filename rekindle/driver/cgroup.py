"""Memory and process limits of one VMM: control groups of version 1 or 2, whichever has the controller.

Groups live beside the service, not below it, so that ending the service does not end its VMs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PARENT = "rekindle"


@dataclass(frozen=True, slots=True)
class Group:
    folders: tuple[Path, ...]  #: what to join, and to remove at the end
    measures: Mapping[str, str]  #: limit -> why it is not active; empty: it is


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    mount: Path
    version: int
    controllers: frozenset[str]


def make(name: str, *, memory_bytes: int, pids: int) -> Group:
    """A fresh group `name` with both limits as far as this machine allows; never raises for what it does not."""
    wanted = {
        "memory": {1: ("memory.limit_in_bytes", memory_bytes), 2: ("memory.max", memory_bytes)},
        "pids": {1: ("pids.max", pids), 2: ("pids.max", pids)},
    }
    mounted = _mounted()
    folders: list[Path] = []
    measures: dict[str, str] = {}
    for controller, how in wanted.items():
        label = f"cgroup {controller} limit"
        hierarchy = next((one for one in mounted if controller in one.controllers), None)
        if hierarchy is None:
            measures[label] = f"no cgroup hierarchy on this machine has the {controller} controller"
            continue
        try:
            folder = _folder(hierarchy, controller, name)
            file, value = how[hierarchy.version]
            (folder / file).write_text(str(value))
        except OSError as err:
            measures[label] = f"{hierarchy.mount / PARENT}: {os.strerror(err.errno or 0)}"
            continue
        measures[label] = ""
        if folder not in folders:
            folders.append(folder)
    return Group(tuple(folders), measures)


def oom_kills(folders: Iterable[Path]) -> int:
    """How often the kernel killed something in these groups because of their memory limit; 0 where nobody counts."""
    total = 0
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
            with suppress(OSError):
                lines = (folder / name).read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


def remove(folders: Iterable[Path]) -> None:
    """Remove groups whose processes are gone. A group that is not there is fine; one that is busy raises OSError."""
    for folder in folders:
        with suppress(FileNotFoundError):
            folder.rmdir()


def remove_parents() -> None:
    """Remove the folders of our groups where no group of any service is left; they are made again when needed."""
    for hierarchy in _mounted():
        with suppress(OSError):  # not there, not empty, or not ours
            (hierarchy.mount / PARENT).rmdir()


def find(name: str) -> tuple[Path, ...]:
    """The folders of group `name` that exist (left by an earlier service)."""
    return tuple(one.mount / PARENT / name for one in _mounted() if (one.mount / PARENT / name).is_dir())


def _folder(hierarchy: _Hierarchy, controller: str, name: str) -> Path:
    if hierarchy.version == 2:
        _delegate(hierarchy.mount, controller)
    with suppress(FileNotFoundError):  # another service, the last on this machine, removes the parent at this moment
        return _below_parent(hierarchy, controller, name)
    return _below_parent(hierarchy, controller, name)


def _below_parent(hierarchy: _Hierarchy, controller: str, name: str) -> Path:
    parent = hierarchy.mount / PARENT
    parent.mkdir(exist_ok=True)
    if hierarchy.version == 2:
        _delegate(parent, controller)
    folder = parent / name
    folder.mkdir(exist_ok=True)
    return folder


def _delegate(folder: Path, controller: str) -> None:
    control = folder / "cgroup.subtree_control"
    if controller not in control.read_text().split():
        control.write_text(f"+{controller}")


def _mounted() -> list[_Hierarchy]:
    found: list[_Hierarchy] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        mount = Path(before.split()[4])
        if kind == "cgroup":
            found.append(_Hierarchy(mount, 1, frozenset(options.split(","))))
        elif kind == "cgroup2" and (mount / "cgroup.controllers").exists():
            found.append(_Hierarchy(mount, 2, frozenset((mount / "cgroup.controllers").read_text().split())))
    return found
