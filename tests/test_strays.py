"""What has lost its record is found and goes; what has one, or belongs to others, is left alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from rekindle import doctor, mounts, strays
from rekindle.check import Verdict
from rekindle.config import Config
from rekindle.core.errors import Invalid
from rekindle.core.lifecycle import Ask, Fact
from rekindle.driver import cgroup
from rekindle.driver.process import Identity, started_ticks
from rekindle.node.layout import Layout
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, HandClock, built_image, started

JAILED = """
import os, signal, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
os.mkdir("/mnt/vm")
open("/mnt/vm/disk.qcow2", "x").close()
subprocess.run(["mount", "--bind", sys.argv[1], "/mnt/vm/disk.qcow2"], check=True)
os.chroot("/mnt")
os.chdir("/")
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    layout = Layout(tmp_path / "state")
    layout.make()
    store = await Store.open(layout.state / "rekindle.db", HandClock())
    await store.add_account(ACCOUNT, "default")
    yield store
    await store.close()


def config(tmp_path: Path) -> Config:
    return Config(state=tmp_path / "state", tools_dir=tmp_path / "tools")


async def found(tmp_path: Path) -> list[str]:
    """Kind and last path or name of each stray; temporary folders are the machine's, not this test's."""
    return [f"{one.kind}: {one.what}" for one in await strays.find(config(tmp_path)) if one.kind != "temp"]


async def cleaned(tmp_path: Path) -> None:
    for one in await strays.find(config(tmp_path)):
        if one.kind != "temp":
            await one.clean()
    assert await found(tmp_path) == []


async def test_folders_images_and_logs_without_a_row(tmp_path: Path, store: Store) -> None:
    layout = Layout(tmp_path / "state")
    version = await built_image(store)
    vm = await started(store, HandClock())
    over = await started(store, HandClock())
    await store.report(await store.ask(over.id, Ask.TERMINATE), Fact.STOPPED)
    kept = (layout.home(vm.id), layout.image(str(version.folder)), layout.app_log(over.id))
    lost = (
        layout.home("microvm-nobody"),
        layout.home(over.id),
        layout.builds / "bake-1",
        layout.images / ACCOUNT / "unnamed",
        layout.images / ACCOUNT / ".making-7",
        layout.app_log("microvm-nobody"),
    )
    for path in (*kept, *lost):
        if path.suffix == ".log":
            path.write_text("last words")
        else:
            path.mkdir(parents=True)
    told = await found(tmp_path)
    assert len(told) == len(lost)
    for path in lost:
        assert [str(path) in one for one in told].count(True) == 1
    await cleaned(tmp_path)
    assert [path.exists() for path in (*kept, *lost)] == [True] * 3 + [False] * 6


async def test_beside_a_service_its_work_of_this_moment_is_left_out(tmp_path: Path, store: Store) -> None:
    layout = Layout(tmp_path / "state")
    (layout.builds / "bake-1").mkdir()
    (layout.images / ACCOUNT / ".making-7").mkdir(parents=True)
    layout.home("microvm-nobody").mkdir()
    with (layout.state / "serve.pid").open("w") as file:
        print(os.getpid(), file=file, flush=True)
        assert await found(tmp_path) == [f"folder: folder {layout.home('microvm-nobody')}, which no row names"]
    assert len(await found(tmp_path)) == 3


async def test_a_database_of_another_version_is_not_read(tmp_path: Path, store: Store) -> None:
    store._db._connection.execute("PRAGMA user_version = 999")
    with pytest.raises(Invalid, match="has schema 999, this Rekindle"):
        await strays.find(config(tmp_path))
    check = await doctor._leftovers(config(tmp_path))
    assert (check.verdict, "not looked for" in check.detail) == (Verdict.WARN, True)


async def test_looking_changes_nothing(tmp_path: Path, store: Store) -> None:
    reader = await Store.open_to_read(tmp_path / "state/rekindle.db", HandClock())
    with pytest.raises(Exception, match="readonly database"):
        await reader.add_account("222222222222", "third")
    await reader.close()


async def test_a_recorded_pid_of_an_earlier_boot_is_not_believed(tmp_path: Path, store: Store) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "600")
    home = Layout(tmp_path / "state").home("microvm-nobody")
    (home / "run").mkdir(parents=True)
    (home / "run/vmm").write_text(f"{stranger.pid} {started_ticks(stranger.pid)}")
    await store.host_booted("local", "an earlier boot")
    await cleaned(tmp_path)
    assert stranger.returncode is None
    assert Path(f"/proc/{stranger.pid}").exists()
    stranger.kill()
    await stranger.wait()


# -- processes, groups, mounts -----------------------------------------------------------------------------------------


@asynccontextmanager
async def jailed(disk: Path) -> AsyncIterator[Identity]:
    """A process that sees `disk` as a VMM does, at the same place of a root of its own."""
    disk.parent.mkdir(parents=True, exist_ok=True)
    disk.touch()
    command = ("unshare", "--mount", "--propagation", "private", sys.executable, "-c", JAILED, str(disk))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        ticks = started_ticks(process.pid)
        assert ticks is not None
        yield Identity(process.pid, ticks)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


@pytest.mark.root
async def test_a_vmm_without_a_row_is_ended_and_others_are_not(tmp_path: Path, store: Store) -> None:
    layout = Layout(tmp_path / "state")
    await built_image(store)
    vm = await started(store, HandClock())
    elsewhere = tmp_path / "other/vms/microvm-theirs/disk.qcow2"
    async with (
        jailed(layout.home("microvm-lost") / "disk.qcow2") as lost,
        jailed(layout.home(vm.id) / "disk.qcow2") as ours,
        jailed(elsewhere) as theirs,
    ):
        shutil.rmtree(layout.home("microvm-lost"))  # not even its folder is left
        told = [f"process: process {lost.pid} of vms/microvm-lost, which no row names"]
        assert await found(tmp_path) == told
        await cleaned(tmp_path)
        assert (lost.alive(), ours.alive(), theirs.alive()) == (False, True, True)


@pytest.mark.root
async def test_a_process_that_shares_our_mounts_is_never_ended(tmp_path: Path, store: Store) -> None:
    """A mount of a machine folder that everybody sees makes nobody a VMM, though it looks like one's."""
    home = Layout(tmp_path / "state").home("microvm-lost")
    async with jailed(home / "disk.qcow2") as one:
        place = mounts.place_of(tmp_path / "state")
        assert any(mount.shows(place) for mount in mounts.mounts_of(one.pid))
        shared = strays._namespace(str(one.pid))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(strays, "_namespace", lambda pid: shared)
            assert [one for one in await found(tmp_path) if one.startswith("process")] == []


@pytest.mark.root
async def test_groups_of_what_is_over_go_and_groups_of_others_stay(tmp_path: Path, store: Store) -> None:
    layout = Layout(tmp_path / "state")
    over, name = f"microvm-over-{os.getpid()}", f"microvm-theirs-{os.getpid()}"
    layout.home(over).mkdir()
    groups = [cgroup.make(one, memory_bytes=1 << 30, pids=8).folders for one in (over, name)]
    try:
        if not all(groups):
            pytest.skip("this machine lets nobody make control groups")
        assert f"cgroup: control group of {over}, which is over" in await found(tmp_path)
        assert not any(name in one for one in await found(tmp_path))
        await cleaned(tmp_path)
        assert (cgroup.find(over), len(cgroup.find(name)) > 0) == ((), True)
    finally:
        for folders in groups:
            cgroup.remove(folders)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@pytest.mark.root
async def test_a_mount_inside_a_folder_of_ours_is_found_and_goes(tmp_path: Path, store: Store) -> None:
    layout = Layout(tmp_path / "state")
    await built_image(store)
    vm = await started(store, HandClock())
    inside, own = layout.home(vm.id) / "merged", layout.builds
    inside.mkdir(parents=True)
    for folder in (inside, own):
        run("mount", "-t", "tmpfs", "none", str(folder))
    try:
        assert await found(tmp_path) == [f"mount: tmpfs mounted on {inside}"]
        await cleaned(tmp_path)
        assert (inside.is_mount(), own.is_mount()) == (False, True)
    finally:
        for folder in (inside, own):
            if folder.is_mount():
                run("umount", str(folder))


def test_only_old_temporary_folders_are_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("rekindle-old", "rekindle-new", "other"):
        (tmp_path / name).mkdir()
    for name in ("rekindle-old", "other"):
        os.utime(tmp_path / name, (0, 0))
    assert [one.what for one in strays._temp()] == [f"temporary folder {tmp_path}/rekindle-old, older than a day"]
