"""Damage is found before a guest runs on it, and named; what is whole is not read twice where that would cost."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.core.errors import SnapshotMismatch
from rekindle.driver import files, layers, manifest, whole
from tests.driver.conftest import fresh
from tests.driver.lab import Lab

MIB = 1024**2
GOING_ON = threading.Event()


@contextmanager
def flipped(path: Path, at: int | None = None) -> Iterator[None]:
    """One bit of the file is another for the block's time; by default one in the middle of what it holds."""
    with path.open("r+b", buffering=0) as file:
        begin = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        at = (begin + os.lseek(file.fileno(), begin, os.SEEK_HOLE)) // 2 if at is None else at
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 4]), at)
        yield
        os.pwrite(file.fileno(), byte, at)


@pytest.fixture
async def slept(lab: Lab) -> tuple[Lab, Path]:
    """Two sleeps: a snapshot with two layers, each with something in it."""
    spec, snap = lab.spec(), lab.baked
    for name in ("1", "2"):
        async with lab.running(spec, snap) as (vm, guest):
            await guest.ask(f"fill m{name} 1")
            await guest.ask(f"write f{name} 300")
        snap = await lab.suspend(vm, name)
    return lab, snap


async def refused(lab: Lab, snap: Path, name: str) -> None:
    spec, copy = lab.fork(snap)
    with pytest.raises(SnapshotMismatch, match=f"{name} is damaged|{name}: the checksum"):
        await lab.restore(spec, copy)
    assert list((spec.home / "run").iterdir()) == []


async def test_a_flipped_bit_of_a_sleeping_vm_is_found_and_named(slept: tuple[Lab, Path]) -> None:
    lab, snap = slept
    assert manifest.verify(snap).disks[1].file == "disk-1.qcow2"
    for name in ("delta", "state", "disk.qcow2", "disk-1.qcow2"):
        with flipped(snap / name):
            await refused(lab, snap, name)
            with pytest.raises(SnapshotMismatch, match=name):
                manifest.verify(snap)
    with flipped(snap / "disk.qcow2", at=1):  # no qcow2 any more: QEMU itself would refuse it, and not name it
        await refused(lab, snap, "disk.qcow2")
    spec, copy = lab.fork(snap)
    async with lab.running(spec, copy) as (_, guest):
        assert [await guest.ask(f"verify f{number}") for number in "12"] == ["right 300"] * 2


async def test_a_snapshot_from_before_layers_had_sums_resumes(slept: tuple[Lab, Path], launcher: Path) -> None:
    lab, snap = slept
    path = snap / "manifest.json"
    values = json.loads(path.read_text())
    values["disks"] = [{"file": one["file"], "bytes": one["bytes"]} for one in values["disks"]]
    del values["root"], values["digest"]
    path.write_text(json.dumps(values))
    spec, copy = lab.fork(snap)
    async with lab.running(spec, copy) as (vm, guest):
        assert await guest.ask("verify f1") == "right 300"
    again = await lab.suspend(vm, "3")
    digests = [one.digest for one in manifest.read(again).disks]
    assert [digest is None for digest in digests] == [False, True, True]
    await layers.merge(launcher, spec, again)
    (only,) = manifest.verify(again).disks
    assert only.digest is not None


async def test_a_damaged_layer_is_not_merged(slept: tuple[Lab, Path], launcher: Path) -> None:
    lab, snap = slept
    whole_manifest = (snap / "manifest.json").read_bytes()
    spec = lab.spec(snap.parent.parent.name)
    for name in ("disk.qcow2", "disk-1.qcow2"):
        with flipped(snap / name):
            with pytest.raises(SnapshotMismatch, match=name):
                await layers.merge(launcher, spec, snap)
            assert (snap / "manifest.json").read_bytes() == whole_manifest
    await layers.merge(launcher, spec, snap)
    manifest.verify(snap)
    with flipped(snap / "disk-1.qcow2"):
        await refused(lab, snap, "disk-1.qcow2")


async def test_a_damaged_image_starts_nothing_and_is_read_once(baked: Lab, tmp_path: Path) -> None:
    lab = fresh(baked, tmp_path)
    image = tmp_path / "image"
    shutil.copytree(baked.image, image, copy_function=_sparse)
    spec = replace(lab.spec(), image=image)
    for name in ("root.erofs", "snapshot/ram", "snapshot/disk.raw", "snapshot/state"):
        with flipped(image / name):
            with pytest.raises(SnapshotMismatch, match=f"{name} is damaged"):
                await lab.restore(spec, image / "snapshot")
            assert list((spec.home / "run").iterdir()) == []
    await lab.restore(spec, image / "snapshot")
    images = whole.Images()
    first = await _read_bytes(images, image / "snapshot")
    assert first >= files.allocated_bytes(image / "snapshot/ram")
    assert await _read_bytes(images, image / "snapshot") < 64 * 1024
    with flipped(image / "root.erofs"), pytest.raises(SnapshotMismatch, match="root"):
        await images.check(image / "snapshot")
    await lab.close()


def _sparse(source: str, target: str) -> None:
    files.clone_sparse(Path(source), Path(target), mode=0o644)


async def _read_bytes(images: whole.Images, folder: Path) -> int:
    """What reading twenty clones' image costs this process, in bytes."""
    before = _rchar()
    async with asyncio.TaskGroup() as own:
        for _ in range(20):
            own.create_task(images.check(folder))
    return _rchar() - before


def _rchar() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


# -- large layers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, manifest.Layer]:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"x" * (whole.ALWAYS_BYTES + MIB))
    os.utime(path, ns=(1, 1))
    return path, whole.summed(tmp_path, path.name)


def test_a_large_layer_that_nobody_touched_is_not_read_again(large: tuple[Path, manifest.Layer]) -> None:
    path, layer = large
    before = _rchar()
    whole.check_layers(GOING_ON, path.parent, (layer,))
    assert _rchar() - before < MIB
    os.link(path, path.with_name("another"))
    path.chmod(0o600)
    whole.check_layers(GOING_ON, path.parent, (layer,))
    assert _rchar() - before < MIB


def test_a_large_layer_that_was_written_into_is_read(large: tuple[Path, manifest.Layer]) -> None:
    path, layer = large
    with flipped(path), pytest.raises(SnapshotMismatch, match="damaged"):
        whole.check_layers(GOING_ON, path.parent, (layer,))
    whole.check_layers(GOING_ON, path.parent, (layer,))


@pytest.mark.parametrize("what", ["copy", "boot"])
def test_a_large_layer_is_read_when_it_is_another_file_or_another_boot(
    large: tuple[Path, manifest.Layer], tmp_path: Path, what: str
) -> None:
    path, layer = large
    if what == "copy":
        copy = tmp_path / "copy"
        shutil.copy2(path, copy)
        copy.rename(path)
    else:
        assert layer.seen is not None
        layer = replace(layer, seen="another boot" + layer.seen[36:])
    with flipped(path):
        os.utime(path, ns=(1, 1))
        with pytest.raises(SnapshotMismatch, match="damaged"):
            whole.check_layers(GOING_ON, path.parent, (layer,))


def test_a_sum_that_nobody_waits_for_is_given_up(large: tuple[Path, manifest.Layer]) -> None:
    path, _ = large
    stop = threading.Event()
    stop.set()
    for sum_of in (files.sum_of, files.page_sum_of):
        before = _rchar()
        with pytest.raises(files.Stopped):
            sum_of(path, stop)
        assert _rchar() - before <= 2 * MIB
