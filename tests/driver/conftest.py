"""A baked image of the test guest, once a session, and a lab for every test."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from rekindle import binaries
from rekindle.driver.base import Kernel
from rekindle.driver.qemu import QemuDriver
from rekindle.guest.kernel import make_initramfs, modules_in_order
from rekindle.image import toolbox as toolboxes
from rekindle.image.toolbox import Toolbox
from tests.accel import PROGRAMS
from tests.driver import lab as labs
from tests.driver.lab import Lab

UID = 765_000 if os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def launcher() -> Path:
    return binaries.find("rekindle-jail")


@pytest.fixture(scope="session")
def toolbox(tools_dir: Path) -> Toolbox:
    return asyncio.run(toolboxes.ensure(tools_dir, print))


@pytest.fixture(scope="session")
def baked(toolbox: Toolbox, launcher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The image: built, booted and frozen. The lab's own folder is nobody's; tests make theirs with `fresh`."""
    folder = tmp_path_factory.mktemp("driver")
    image = folder / "image"
    image.mkdir()
    guest = _build_guest(folder / "init")
    labs.make_root(toolbox, image)
    make_initramfs(folder / "initrd", agent=guest, modules=toolbox.modules)
    lab = Lab(
        folder=folder,
        image=image,
        tools=toolbox.root,
        kernel=Kernel(vmlinux=toolbox.vmlinux, initrd=folder / "initrd"),
        make=lambda: QemuDriver(launcher),
        uid=UID,
        panics_are_told="pvpanic-mmio" in modules_in_order(toolbox.modules),
    )
    asyncio.run(labs.bake(lab))
    yield lab
    shutil.rmtree(folder)


def _build_guest(out: Path) -> Path:
    if PROGRAMS is not None:
        shutil.copy(PROGRAMS / "guest", out)
        return out
    go = Path(sys.executable).parent / "go"
    command = [str(go), "build", "-trimpath", "-ldflags=-s -w", "-o", str(out), "main.go", "churn.go"]
    env = {**os.environ, "CGO_ENABLED": "0"}
    subprocess.run(command, cwd=Path(__file__).parent / "guest", env=env, check=True, capture_output=True)
    return out


def fresh(baked: Lab, folder: Path, make: Callable[[], QemuDriver] | None = None) -> Lab:
    """A lab on the baked image with a folder and a driver of its own."""
    return Lab(
        folder=folder,
        image=baked.image,
        tools=baked.tools,
        kernel=baked.kernel,
        make=make or baked.make,
        uid=baked.uid,
        panics_are_told=baked.panics_are_told,
    )


@pytest.fixture
async def lab(baked: Lab, tmp_path: Path) -> AsyncIterator[Lab]:
    """One test's lab; after it no process, socket, mount, cgroup or descriptor of it may be left."""
    before = _descriptors()
    made = fresh(baked, tmp_path)
    yield made
    await made.close()
    gc.collect()  # a socket in a reference cycle is closed by the collector, not a leak
    assert _children() == []
    assert [one for group in _cgroups() if (one := group.name) in made.names()] == []
    assert [name for home in tmp_path.iterdir() if (home / "run").is_dir() for name in os.listdir(home / "run")] == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert _descriptors() <= before + 1  # the loop's own wake-up pipe may be new


def _cgroups() -> list[Path]:
    """Of version 1 (a hierarchy for each controller) and of version 2, alone or beside them."""
    return [path for shape in ("rekindle/test-*", "*/rekindle/test-*") for path in Path("/sys/fs/cgroup").glob(shape)]


def _children() -> list[str]:
    """Living and unreaped children of this process."""
    return [child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
