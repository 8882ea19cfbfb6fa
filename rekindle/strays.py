"""What has lost its record: processes, folders, groups and mounts of this state folder that no row names any more.

Found by looking, so that it works beside a service and without one. Beside a service, what may be its work of this
moment (builds, images being made) is left out. What belongs to another state folder is never ours: a process is known
by the files that its jail shows it, a folder by where it lies, a group by the name of a thing of ours.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rekindle.clock import wall_ms
from rekindle.config import Config
from rekindle.core.errors import MachineError
from rekindle.driver import cgroup, leftovers, process
from rekindle.driver.host import boot_id
from rekindle.driver.process import Identity
from rekindle.mounts import Mount, mounts_of, place_of
from rekindle.node.agent import NODE
from rekindle.node.layout import Layout
from rekindle.node.perform import remove_tree
from rekindle.store.db import Store

KILL_S = 20.0
JAIL = "/vm/"  #: where a VMM sees the files of its machine folder (driver/machine.py)
DAY_S = 86_400
TEMP = "rekindle-*"  #: the tools that make a toolbox work in such a folder


@dataclass(frozen=True, slots=True)
class Stray:
    kind: str  #: process, folder, image, log, cgroup, mount or temp
    what: str  #: a sentence for the operator
    clean: Callable[[], Awaitable[None]]  #: end or remove it; repeatable; raises MachineError or OSError


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """What rows name, and whether a service is at work; read after the machine was looked at."""

    live: frozenset[str]  #: microVM ids
    known: frozenset[str]  #: those that are over too
    images: frozenset[str]  #: folders, as rows say
    building: bool  #: a version is not whole yet
    served: bool
    rebooted: bool  #: pids in files are of an earlier boot of the machine


async def find(config: Config) -> list[Stray]:
    """Everything that has lost its record, in the order in which it can be cleaned; nothing where no service ever was.

    Raises Invalid when the database is of another version than this program.
    """
    layout = Layout(config.state)
    if not (layout.state / "rekindle.db").exists():
        return []
    seen = await asyncio.to_thread(
        _Seen.now, layout
    )  # before the rows: they are written before anything that they name is made
    records = await _records(layout, seen)
    found = [*_processes(seen, records), *_mounts(layout, records)]  # first: what is removed later must be free of both
    found += [*_folders(layout, seen, records), *_images(layout, seen, records), *_logs(layout, seen, records)]
    return [*found, *_groups(seen, records), *_temp()]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """The machine as it was at one moment."""

    processes: dict[Identity, str]  #: those whose jail shows files of a machine folder: `vms/<id>` or `builds/<name>`
    homes: tuple[Path, ...]
    images: tuple[Path, ...]
    logs: tuple[Path, ...]

    @classmethod
    def now(cls, layout: Layout) -> _Seen:
        return cls(
            processes=dict(_jailed(layout)),
            homes=(*_in(layout.vms), *_in(layout.builds)),
            images=tuple(folder for account in _in(layout.images) for folder in _in(account)),
            logs=tuple((layout.state / "logs/microvms").glob("*.log")),
        )


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _jailed(layout: Layout) -> Iterator[tuple[Identity, str]]:
    """Never a process that shares our mounts, or init's: what those show says nothing of one process."""
    place, shared = place_of(layout.state), {_namespace("self"), _namespace("1"), ""}
    for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdecimal()):
        ticks = process.started_ticks(int(pid))
        if ticks is not None and _namespace(pid) not in shared:
            shown = [mount.shows(place) for mount in mounts_of(pid) if mount.point.startswith(JAIL)]
            home = next((part[:2] for part in shown if len(part) > 2 and part[0] in ("vms", "builds")), None)
            if home is not None:
                yield Identity(int(pid), ticks), "/".join(home)


def _namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


async def _records(layout: Layout, seen: _Seen) -> Records:
    served = _is_served(layout)
    store = await Store.open_to_read(layout.state / "rekindle.db", wall_ms)
    try:
        names = {home.name for home in seen.homes} | _names(seen) | {log.stem for log in seen.logs}
        return Records(
            live=frozenset(vm.id for vm in await store.all_microvms(NODE)),
            known=frozenset([name for name in names if await store.microvm(name) is not None]),
            images=frozenset(await store.version_folders()),
            building=bool(await store.versions_owing()),
            served=served,
            rebooted=await store.last_boot(NODE) not in (None, boot_id()),
        )
    finally:
        await store.close()


def _names(seen: _Seen) -> set[str]:
    """Of the machines that have a process."""
    return {name.partition("/")[2] for name in seen.processes.values()}


def _is_served(layout: Layout) -> bool:
    """Whether the process that `serve.pid` names holds that file open. Its lock is not tried: a service that starts at
    this moment would find it taken.
    """
    path = layout.state / "serve.pid"
    try:
        return any(_is_file(held, path) for held in Path(f"/proc/{int(path.read_text())}/fd").iterdir())
    except (OSError, ValueError):
        return False


def _is_file(held: Path, path: Path) -> bool:
    try:
        return held.samefile(path)
    except OSError:  # closed meanwhile, or no file
        return False


# -- one kind after the other ------------------------------------------------------------------------------------------


def _processes(seen: _Seen, records: Records) -> Iterator[Stray]:
    for who, name in seen.processes.items():
        folder, _, vm_id = name.partition("/")
        if (folder == "builds" and not records.served) or (folder == "vms" and vm_id not in records.live):
            yield Stray("process", f"process {who.pid} of {name}, which no row names", partial(_kill, who))


async def _kill(who: Identity) -> None:
    await process.kill(who, within_s=KILL_S)


def _folders(layout: Layout, seen: _Seen, records: Records) -> Iterator[Stray]:
    for home in seen.homes:
        stray = not records.served if home.parent == layout.builds else home.name not in records.live
        if stray:
            what = f"folder {home}, which no row names"
            yield Stray("folder", what, partial(_end, home, rebooted=records.rebooted))


async def _end(home: Path, *, rebooted: bool) -> None:
    if rebooted:
        leftovers.disown(home)
    await leftovers.end(home)
    await asyncio.to_thread(remove_tree, home)


def _images(layout: Layout, seen: _Seen, records: Records) -> Iterator[Stray]:
    for folder in seen.images:
        being_made = records.served and (records.building or folder.name.startswith("."))
        if str(folder.relative_to(layout.images)) not in records.images and not being_made:
            yield Stray("image", f"image folder {folder}, which no row names", partial(_remove, folder))


def _logs(layout: Layout, seen: _Seen, records: Records) -> Iterator[Stray]:
    for log in seen.logs:
        if log.stem not in records.known:
            yield Stray("log", f"log {log} of a microVM that is forgotten", partial(_unlink, log))


async def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _remove(folder: Path) -> None:
    await asyncio.to_thread(remove_tree, folder)


def _groups(seen: _Seen, records: Records) -> Iterator[Stray]:
    """Groups of things that are ours and over. One whose name nothing of ours has may be another service's."""
    ours = records.known | {home.name for home in seen.homes} | _names(seen)
    building = {home.name for home in seen.homes if home.parent.name == "builds"} if records.served else set()
    for name in sorted(ours - records.live - building):
        if folders := cgroup.find(name):
            yield Stray("cgroup", f"control group of {name}, which is over", partial(_remove_groups, folders))


async def _remove_groups(folders: Iterable[Path]) -> None:
    cgroup.remove(folders)


def _mounts(layout: Layout, records: Records) -> Iterator[Stray]:
    """In our own mount namespace; VMMs and builds have theirs. One on a folder of the layout is the operator's own."""
    if records.served:
        return
    for mount in mounts_of("self"):
        if len(mount.below(layout.state)) > 2:
            yield Stray("mount", f"{mount.kind} mounted on {mount.point}", partial(_unmount, mount))


async def _unmount(mount: Mount) -> None:
    done = await asyncio.to_thread(subprocess.run, ["umount", "--", mount.point], capture_output=True, check=False)
    if done.returncode:
        raise MachineError(done.stderr.decode(errors="replace").strip())


def _temp() -> Iterator[Stray]:
    """Making a toolbox takes minutes: a folder of yesterday is nobody's work any more."""
    for folder in Path(tempfile.gettempdir()).glob(TEMP):
        if folder.is_dir() and wall_ms() / 1000 - folder.stat().st_mtime > DAY_S:
            yield Stray("temp", f"temporary folder {folder}, older than a day", partial(_remove, folder))
