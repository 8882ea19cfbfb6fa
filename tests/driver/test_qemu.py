"""The QEMU driver: the conformance suite, and what is QEMU's own. Real machines, in the jail."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from rekindle.core.errors import DiskFull, MachineError, SnapshotMismatch
from rekindle.driver import jail, layers, manifest, pagemap, reserve
from rekindle.driver.base import Accel, ExitKind, Limits
from rekindle.driver.qemu import QemuDriver
from tests.accel import ACCEL
from tests.driver import conformance
from tests.driver.conftest import fresh
from tests.driver.lab import MARKER, MEMORY_MIB, Guest, Lab
from tests.waiting import SLOWNESS

MIB = 1024**2


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Callable[[Lab], Awaitable[None]], lab: Lab) -> None:
    await check(lab)


async def test_a_fresh_clone_shares_the_images_memory(lab: Lab) -> None:
    ram = lab.baked / "ram"
    before = ram.stat()
    async with lab.running(lab.spec()) as (one, guest), lab.running(lab.spec()) as (other, second):
        for talk in (guest, second):
            await talk.ask("ping")
        for vm in (one, other):
            assert _anonymous_bytes(vm.pid) <= 40 * MIB
            regions = pagemap.regions_of(vm.pid, ram, MEMORY_MIB * MIB)
            assert sum(region.length for region in regions) == MEMORY_MIB * MIB
        await guest.ask("fill dirty 16")
    assert (ram.stat().st_mtime_ns, ram.stat().st_blocks) == (before.st_mtime_ns, before.st_blocks)


def _anonymous_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Anonymous:"))


async def test_the_accelerator_that_was_asked_for_is_the_one_that_runs(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    link = await cast(QemuDriver, lab.driver)._link(vm)
    assert (await link.ask("query-kvm"))["enabled"] is (ACCEL is Accel.KVM)
    assert manifest.read(lab.baked).binding.accel == ACCEL.value


async def test_a_suspend_costs_what_the_vm_changed(lab: Lab) -> None:
    async with lab.running(lab.spec()) as (vm, guest):
        await guest.ask("fill dirty 10")
    await lab.driver.pause(vm)
    snap = await lab.driver.snapshot(vm, vm.home / "snapshots/1")
    assert 10 * MIB <= snap.private_bytes <= 30 * MIB
    assert snap.disk_bytes <= 4 * MIB


@pytest.mark.parametrize("kind", ["scan", "classic"])
async def test_both_page_map_readers_keep_memory(baked: Lab, tmp_path: Path, launcher: Path, kind: str) -> None:
    if kind == "scan" and not pagemap.scan_supported():
        pytest.skip("PAGEMAP_SCAN needs Linux 6.7")
    lab = fresh(baked, tmp_path, lambda: QemuDriver(launcher, pagemap_kind=kind))
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        await guest.ask("fill data 6")
        await guest.ask("fill zero 6")
    snap = await lab.suspend(vm, "1")
    async with lab.running(spec, snap) as (_, guest):
        assert await guest.ask("check data") == "right 6"
        assert await guest.ask("check zero") == "right 6"
        assert await guest.ask("check baked") == "right 4"
    await lab.close()


async def test_both_page_map_readers_find_the_same_pages(lab: Lab) -> None:
    async with lab.running(lab.spec()) as (vm, guest):
        await guest.ask("fill data 6")
        await lab.driver.pause(vm)
        regions = pagemap.regions_of(vm.pid, lab.baked / "ram", MEMORY_MIB * MIB)
        runs = pagemap.classic(vm.pid, regions)
        assert sum(run.count for run in runs) * pagemap.PAGE_BYTES >= 6 * MIB
        if pagemap.scan_supported():
            assert pagemap.scan(vm.pid, regions) == runs


async def test_layers_are_merged_while_a_vm_sleeps(lab: Lab, launcher: Path) -> None:
    spec, snap = lab.spec(), lab.baked
    for generation in range(3):
        async with lab.running(spec, snap) as (vm, guest):
            await guest.ask(f"write f{generation} 100")
            await guest.ask(f"write same {50 + generation}")
        snap = await lab.suspend(vm, str(generation))
        layers.drop_older(spec.home / "snapshots", keep=snap.name)
        await layers.merge(launcher, spec, snap)
        await layers.merge(launcher, spec, snap)
        assert len(manifest.read(snap).disks) == 1
        assert len(list(snap.glob("*.qcow2"))) == 1
    async with lab.running(spec, snap) as (_, guest):
        assert [await guest.ask(f"verify f{number}") for number in range(3)] == ["right 100"] * 3
        assert await guest.ask("verify same") == "right 52"


async def test_merging_never_writes_into_an_older_snapshot(lab: Lab, launcher: Path) -> None:
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        await guest.ask("write first 100")
    older = await lab.suspend(vm, "1")
    async with lab.running(spec, older) as (vm, guest):
        await guest.ask("write second 100")
    newer = await lab.suspend(vm, "2")
    before = (older / "disk.qcow2").read_bytes()
    await layers.merge(launcher, spec, newer)
    assert (older / "disk.qcow2").read_bytes() == before
    async with lab.running(spec, older) as (_, guest):
        assert await guest.ask("verify second") == "absent"


async def test_a_merge_that_was_interrupted_is_done_again(lab: Lab, launcher: Path) -> None:
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        await guest.ask("write first 100")
    snap = await lab.suspend(vm, "1")
    async with lab.running(spec, snap) as (vm, guest):
        await guest.ask("write second 100")
    snap = await lab.suspend(vm, "2")
    layers._open_to_writes(snap, manifest.read(snap))
    whole = (snap / "manifest.json").read_bytes()
    upper = (snap / "disk.qcow2").read_bytes()
    await layers.merge(launcher, spec, snap)
    (snap / "manifest.json").write_bytes(whole)  # as if we had died after the commit, before the new manifest
    (snap / "disk.qcow2").write_bytes(upper)
    (snap / "disk.qcow2").chmod(0o644)
    await layers.merge(launcher, spec, snap)
    async with lab.running(spec, snap) as (_, guest):
        assert await guest.ask("verify first") == "right 100"
        assert await guest.ask("verify second") == "right 100"


async def test_a_vm_resumes_from_where_a_merge_was_cut_off(lab: Lab, launcher: Path) -> None:
    """After the commit, before the new manifest: the lower layer has grown and the upper one still covers it."""
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        await guest.ask("write first 100")
    snap = await lab.suspend(vm, "1")
    async with lab.running(spec, snap) as (vm, guest):
        await guest.ask("write second 4000")
    snap = await lab.suspend(vm, "2")
    layers.drop_older(spec.home / "snapshots", keep="2")
    found = layers._open_to_writes(snap, manifest.read(snap))
    upper, lower = found.disks
    await layers._commit(launcher, spec, snap, upper, lower)
    assert (snap / lower.file).stat().st_size > lower.bytes
    async with lab.running(spec, snap) as (vm, guest):
        assert await guest.ask("verify first") == "right 100"
        assert await guest.ask("verify second") == "right 4000"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def slept(lab: Lab) -> tuple[Lab, Path]:
    async with lab.running(lab.spec()) as (vm, guest):
        await guest.ask("fill data 1")
    return lab, await lab.suspend(vm, "1")


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def _remove(path: Path) -> None:
    path.unlink()


async def test_damaged_snapshots_are_refused(slept: tuple[Lab, Path]) -> None:
    lab, snap = slept
    for name in ("delta", "state", "disk.qcow2", "manifest.json"):
        for damage in (_truncate, _remove):
            spec, copy = lab.fork(snap)
            (copy / name).chmod(0o644)
            damage(copy / name)
            with pytest.raises(SnapshotMismatch, match=name):
                await lab.restore(spec, copy)
            assert not (spec.home / "run").exists()


OTHER_ACCEL = next(one.value for one in Accel if one is not ACCEL)
OTHERS: dict[str, object] = {
    "qemu": "7.2.0", "tools": "another", "memory_mib": 1024, "vcpus": 2, "accel": OTHER_ACCEL, "cpu": "host",
    "machine": "q35", "tsc_khz": 1, "base": "0" * 64, "format": 2,
}  # fmt: skip


async def test_what_binds_a_snapshot_is_compared(slept: tuple[Lab, Path]) -> None:
    lab, snap = slept
    spec, copy = lab.fork(snap)
    whole = json.loads((copy / "manifest.json").read_text())
    del whole["digest"]
    for name, value in OTHERS.items():
        (copy / "manifest.json").write_text(json.dumps(whole | {name: value}))
        with pytest.raises(SnapshotMismatch, match={"base": "another image"}.get(name, name)):
            await lab.restore(spec, copy)


async def test_another_machine_than_the_images_is_refused(lab: Lab) -> None:
    with pytest.raises(SnapshotMismatch, match="memory_mib"):
        await lab.restore(replace(lab.spec(), memory_mib=2 * MEMORY_MIB))


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=240m", "small", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(folder: Path, leave_mib: int) -> Path:
    space = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - leave_mib * MIB)
    return folder / "filler"


async def test_a_full_disk_leaves_the_vm_usable_and_no_snapshot(small_disk: Path, baked: Lab) -> None:
    lab = fresh(baked, small_disk)
    _fill(small_disk, leave_mib=12)
    async with lab.running(lab.spec()) as (vm, guest):
        await guest.ask("fill big 20")
        await lab.driver.pause(vm)
        with pytest.raises(MachineError, match=os.strerror(errno.ENOSPC)):
            await lab.driver.snapshot(vm, vm.home / "snapshots/1")
        assert not (vm.home / "snapshots/1").exists()
        await lab.driver.unpause(vm)
        assert await guest.ask("check big") == "right 20"
    await lab.close()
    shutil.rmtree(vm.home)


async def test_what_is_set_aside_is_enough_to_sleep_on_a_full_disk(small_disk: Path, baked: Lab) -> None:
    lab = fresh(baked, small_disk)
    spec = lab.spec()
    assert reserve.make(spec.home, MEMORY_MIB * MIB)
    async with lab.running(spec) as (vm, guest):
        await guest.ask("fill big 60")
        filler = _fill(small_disk, leave_mib=0)
        await lab.driver.pause(vm)
        (vm.home / "snapshots/1").mkdir(parents=True)
        reserve.take(vm.home, vm.home / "snapshots/1")  # as a service that died over its first try
        snap = await lab.driver.snapshot(vm, vm.home / "snapshots/1")
    await lab.driver.kill(vm)
    assert os.statvfs(small_disk).f_bavail > 0, "what was not written is given back"
    assert 60 * MIB <= snap.memory_bytes <= 100 * MIB
    filler.unlink()
    async with lab.running(spec, snap.folder) as (vm, guest):
        assert await guest.ask("check big") == "right 60"
    await lab.close()
    shutil.rmtree(vm.home)


async def test_a_machine_that_boots_has_disk_for_all_of_its_memory(small_disk: Path, baked: Lab) -> None:
    lab = fresh(baked, small_disk)
    vm = await lab.driver.boot(lab.spec(boot=True))
    try:
        with Guest(vm.home) as guest:
            filler = _fill(small_disk, leave_mib=0)
            await lab.driver.unpause(vm)
            assert await guest.ask("marker") == MARKER
            await guest.ask("fill big 90")
            assert await guest.ask("check big") == "right 90"
        filler.unlink()
    finally:
        await lab.driver.kill(vm)
        shutil.rmtree(vm.home)


async def test_a_machine_whose_memory_finds_no_disk_does_not_boot(small_disk: Path, baked: Lab) -> None:
    lab = fresh(baked, small_disk)
    _fill(small_disk, leave_mib=MEMORY_MIB - 10)
    with pytest.raises(MachineError, match=f"memory of the machine, {MEMORY_MIB} MiB in .*{os.strerror(errno.ENOSPC)}"):
        await lab.driver.boot(lab.spec(boot=True))


async def test_a_vm_whose_disk_cannot_grow_waits_and_loses_nothing(small_disk: Path, baked: Lab) -> None:
    lab = fresh(baked, small_disk)
    spec = lab.spec()
    async with lab.running(spec) as (vm, guest):
        filler = _fill(small_disk, leave_mib=3)
        await guest.tell("write large 9000")
        link = await lab.driver._link(vm)  # type: ignore[attr-defined]
        with link.listening() as events:
            async with asyncio.timeout(60):
                while (await events.get()).name != "BLOCK_IO_ERROR":
                    pass
        with pytest.raises(DiskFull):
            await lab.driver.unpause(vm)
        async with asyncio.TaskGroup() as own:
            waiting = own.create_task(lab.driver.wait(vm))
            filler.unlink()
            assert (await guest.answer()).startswith("written"), "it goes on by itself"
            waiting.cancel()
        assert await guest.ask("verify large") == "right 9000"
    await lab.close()
    shutil.rmtree(vm.home)


# -- how it ends -------------------------------------------------------------------------------------------------------


async def test_a_vmm_that_the_kernel_kills_for_memory_is_told_from_one_that_died(lab: Lab) -> None:
    if os.geteuid() != 0:
        pytest.skip("control groups are made by root")
    spec = replace(lab.spec(), limits=Limits(memory_bytes=80 * MIB))
    async with lab.running(spec) as (vm, guest):
        await guest.tell("fill much 100")
        async with asyncio.timeout(60):
            end = await lab.driver.wait(vm)
    assert (end.kind, end.detail) == (ExitKind.STARVED, "signal SIGKILL")
    other = await lab.restore(lab.spec())
    os.kill(other.pid, signal.SIGKILL)
    assert (await lab.driver.wait(other)).kind is ExitKind.DIED


# -- the walls ---------------------------------------------------------------------------------------------------------


async def test_every_wall_stands_around_a_vmm(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    missing = [one for one in (*jail.observe(vm.pid), jail.seccomp(vm.pid)) if not one.active]
    assert not missing
    if os.geteuid() == 0:
        assert vm.extra["unlimited"] == {}


async def test_a_vmm_reaches_its_own_files_only(lab: Lab) -> None:
    vm = await lab.restore(lab.spec())
    root = Path(f"/proc/{vm.pid}/root")
    found = {str(path.relative_to(root)) for path in root.rglob("*") if "usr" not in path.relative_to(root).parts}
    assert found == {
        "bin", "lib", "lib64", "sbin", "dev", "dev/null", "dev/urandom", "etc", "etc/ld.so.cache", "image",
        "image/root.erofs", "image/ram", "image/disk.raw", "vm", "vm/disk.qcow2", "vm/state",
    }  # fmt: skip


async def test_a_vmm_that_cannot_start_says_why(lab: Lab) -> None:
    spec = lab.spec(boot=True)
    assert spec.kernel is not None
    broken = lab.folder / "not-a-kernel"
    broken.write_text("not a kernel")
    async with asyncio.timeout(10 * SLOWNESS):
        with pytest.raises(MachineError, match=r"QEMU said: .*kernel"):
            await lab.driver.boot(replace(spec, kernel=replace(spec.kernel, vmlinux=broken)))
    assert not list((spec.home / "run").iterdir())


async def test_many_at_once(lab: Lab) -> None:
    specs = [lab.spec() for _ in range(4)]
    async with asyncio.TaskGroup() as own:
        tasks = [own.create_task(_one(lab, spec.vm_id), name=spec.vm_id) for spec in specs]
    assert [task.result() for task in tasks] == ["right 4"] * 4


async def _one(lab: Lab, vm_id: str) -> str:
    async with lab.running(lab.spec(vm_id)) as (vm, guest):
        answer = await guest.ask("check baked")
    await lab.driver.kill(vm)
    return answer


def test_a_baked_image_is_what_its_manifest_says(baked: Lab) -> None:
    assert manifest.verify(baked.baked).kind == manifest.IMAGE
    assert not [path for path in baked.baked.iterdir() if path.name != "manifest.json" and path.stat().st_mode & 0o222]
