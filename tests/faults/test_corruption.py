"""Every file that a resume reads, harmed in every way: refused before the guest runs, named, and no more than that.

The VM sleeps on, a request is answered at once, and with the file put back it goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from rekindle.driver import manifest, start
from tests.e2e.cloud import Vm, reply
from tests.e2e.conftest import IDLE, PAYLOAD
from tests.faults.rig import Rig
from tests.waiting import until

SAMPLE = 3
DISK = "disk"  #: the layer that is left when a sleep has been tidied, whatever it is called
OWN = ("manifest.json", "delta", "state", DISK)
IMAGE = ("snapshot/manifest.json", "snapshot/ram", "snapshot/state", "snapshot/disk.raw", "root.erofs")


def cut(file: Path, _: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path, _: Path) -> None:
    os.truncate(file, 0)


def flipped(file: Path, _: Path) -> None:
    """One bit: in the middle of what is not a hole; in a manifest, in the first digest."""
    with file.open("r+b", buffering=0) as opened:
        at = os.lseek(opened.fileno(), file.stat().st_size // 2, os.SEEK_DATA) if file.suffix != ".json" else 0
        at += file.read_bytes().index(b"sha256:") + 9 if file.suffix == ".json" else 7
        byte = os.pread(opened.fileno(), 1, at)
        os.pwrite(opened.fileno(), bytes([byte[0] ^ 1]), at)


def removed(file: Path, _: Path) -> None:
    file.unlink()


def swapped(file: Path, another: Path) -> None:
    shutil.copyfile(another, file)


HARMS = (cut, emptied, flipped, removed, swapped)
Case = tuple[str, Callable[[Path, Path], None]]
CASES: list[Case] = [*product(OWN, HARMS), *product(IMAGE, HARMS[:-1])]


@dataclass
class Sleepers:
    """Two VMs of one image that have slept twice."""

    vm: Vm
    other: Vm

    def file(self, name: str) -> Path:
        return self.image / name if name in IMAGE else own_file(self.vm, name)

    @property
    def image(self) -> Path:
        version = self.vm.row()
        rig = self.vm.cloud
        assert isinstance(rig, Rig)
        (row,) = rig.rows(
            "SELECT folder FROM version WHERE image_arn = ? AND version = ?",
            version["imageArn"],
            version["imageVersion"],
        )
        return rig.state / "images" / str(row["folder"])


def own_file(vm: Vm, name: str) -> Path:
    (sleep,) = (vm.home / "snapshots").iterdir()
    return sleep / (manifest.read(sleep).disks[0].file if name == DISK else name)


def is_tidy(vm: Vm) -> bool:
    """Only the newest sleep is there, and its layers are merged."""
    sleeps = list((vm.home / "snapshots").iterdir())
    return len(sleeps) == 1 and len(manifest.read(sleeps[0]).disks) == 1


@pytest.fixture
def sleepers(rig: Rig, baked: str) -> Iterator[Sleepers]:
    with rig.nothing_left():
        vms = [rig.run(baked, idlePolicy=IDLE, runHookPayload=PAYLOAD) for _ in range(2)]
        try:
            for number, vm in enumerate(vms):
                reply(vm, f"kept = {number}; f = open('kept', 'w'); f.write(str(kept)); f.close()")
                vm.suspend()
                rig.client().resume_microvm(microvmIdentifier=vm.id)
                vm.until("RUNNING")
                vm.suspend()
            for vm in vms:
                until(partial(is_tidy, vm), 60, "the sleeps are tidy")
            yield Sleepers(*vms)
        finally:
            for vm in vms:
                vm.terminate()


@contextlib.contextmanager
def harmed(file: Path, harm: Callable[[Path, Path], None], another: Path) -> Iterator[None]:
    """A copy takes the file's place and is harmed; the file itself comes back."""
    aside = file.parent.parent / f"{file.name}.aside"
    file.rename(aside)
    try:
        subprocess.run(["cp", "--archive", "--sparse=always", aside, file], check=True)
        file.chmod(0o644)
        harm(file, another)
        yield
    finally:
        aside.replace(file)


def refusal(vm: Vm) -> tuple[int, str]:
    """When a resume failed last, and why; the story shows its newest events only."""
    events = vm.cloud.inspect(vm.id)["events"]
    told = [(event["at_ms"], str(event["why"])) for event in events if event["what"] == "why the resume failed"]
    return max(told, default=(0, ""))


def is_refused(sleepers: Sleepers, name: str, harm: Callable[[Path, Path], None]) -> None:
    vm, file = sleepers.vm, sleepers.file(name)
    another = own_file(sleepers.other, name) if name in OWN else file
    before = refusal(vm)
    with harmed(file, harm, another):
        with vm.http() as session:
            assert session.get("/state").status_code == 502, f"{name} {harm.__name__}: it was answered"
        until(lambda: vm.cloud.inspect(vm.id)["phase"] == "SUSPENDED", 20, "it sleeps on")
        told = refusal(vm)
        assert told > before
        wanted = file.parent if file.suffix == ".json" else file
        assert str(wanted) in told[1], f"{name} {harm.__name__}: {told[1]}"
        assert start.recorded(vm.home) is None, "nothing of the attempt is left running"


def _run(sleepers: Sleepers, cases: list[Case]) -> None:
    for name, harm in cases:
        print(f"{name} {harm.__name__}")
        is_refused(sleepers, name, harm)
    assert reply(sleepers.vm, "kept, open('kept').read()") == "(0, '0')"
    assert reply(sleepers.other, "kept, open('kept').read()") == "(1, '1')"


def test_some_harms_to_some_files_are_refused_and_named(sleepers: Sleepers, seed: int) -> None:
    _run(sleepers, random.Random(seed).sample(CASES, SAMPLE))


@pytest.mark.long
def test_every_harm_to_every_file_is_refused_and_named(sleepers: Sleepers) -> None:
    _run(sleepers, CASES)
