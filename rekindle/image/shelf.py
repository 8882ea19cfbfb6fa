"""A folder of big things that are made once and then only read: whole ones have their `.json`, written last.

Making is done in a hidden folder beside, under a lock, and renamed in; whatever a crash leaves does not look whole and
is cleared away by the next who makes something.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rekindle.image.inside import USER_NAMESPACE

Progress = Callable[[str], None]

NAME = re.compile(r"[0-9a-f]{16}")
_MAKING = ".making-"


def name_of(facts: str) -> str:
    """The shelf name of what these facts describe: two machines that make the same thing call it the same."""
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@asynccontextmanager
async def locked(folder: Path, progress: Progress) -> AsyncIterator[None]:
    """Alone among all processes of this machine that make things in `folder`; leftovers of dead ones are gone.

    Waits as long as another one works (cancelling leaves a thread that ends when the other has finished).
    """
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process works in {folder}; waiting for it")
            await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_EX)
        await asyncio.to_thread(_clear, folder)
        yield
    finally:
        os.close(fd)


@asynccontextmanager
async def making(folder: Path) -> AsyncIterator[Path]:
    """A hidden folder to make something in; what is not put on the shelf goes with it. Only under `locked`."""
    scratch = Path(tempfile.mkdtemp(prefix=_MAKING, dir=folder))
    scratch.chmod(0o755)
    try:
        yield scratch
    finally:
        await asyncio.to_thread(remove, scratch)


async def put(folder: Path, name: str, made: Path, facts: dict[str, Any]) -> None:
    """Put the folder `made` on the shelf as `name`: it, then, once it is on disk, its facts. Only under `locked`."""
    await asyncio.to_thread(os.sync)  # a power cut must not leave facts about files that it took
    made.rename(folder / name)
    partial = folder / f"{_MAKING}{name}.json"
    with partial.open("w") as file:
        json.dump(facts, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / f"{name}.json")
    _sync(folder)


def whole(folder: Path) -> dict[str, dict[str, Any]]:
    """Name and facts of everything whole on the shelf."""
    files = (file for file in sorted(folder.glob("*.json")) if NAME.fullmatch(file.stem))
    found = {file.stem: json.loads(file.read_text()) for file in files}
    return {name: facts for name, facts in found.items() if (folder / name).is_dir()}


def take_away(folder: Path, name: str) -> None:
    """Remove a thing: first it stops looking whole. Only under `locked`."""
    (folder / f"{name}.json").unlink()
    _sync(folder)
    remove(folder / name)


def _clear(folder: Path) -> None:
    """Only what a dead maker left: hidden folders, and things under a name of ours that are not whole."""
    known = whole(folder)
    for entry in folder.iterdir():
        ours = NAME.fullmatch(entry.name.removesuffix(".json")) is not None
        if entry.name.startswith(_MAKING) or (ours and entry.name.removesuffix(".json") not in known):
            remove(entry)


def remove(path: Path) -> None:
    """Remove a file or a tree, also one with files of the sub-uids of an ordinary user (a containers-storage)."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        if os.geteuid() == 0:
            raise
        subprocess.run(["unshare", *USER_NAMESPACE, "rm", "-rf", "--", str(path)], check=True, timeout=600)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
