"""What a driver's tests work with: homes, machines, and talking to the test guest (guest/main.go)."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rekindle import unixsock
from rekindle.driver.base import Driver, Handle, Kernel, MachineSpec
from rekindle.driver.probe import tree_program
from rekindle.image.toolbox import Toolbox
from tests.accel import ACCEL
from tests.waiting import SLOWNESS

MARKER = "this is the root disk"
MEMORY_MIB = 192
DISK_BYTES = 2 * 1024**3
ANSWER_S = 60.0 * SLOWNESS
_ids = itertools.count(1)


class Guest:
    """Both ports of one guest, connected before it runs, as the relay does it."""

    def __init__(self, home: Path) -> None:
        self._run = home / "run"

    def __enter__(self) -> Guest:
        self._in = unixsock.connect(self._run / "in")
        self._out = unixsock.connect(self._run / "out")
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self._in.close()
        self._out.close()

    async def tell(self, line: str) -> None:
        await asyncio.get_running_loop().sock_sendall(self._in, line.encode() + b"\n")

    async def ask(self, line: str) -> str:
        """The guest's answer. Raises AssertionError when it says that something is wrong."""
        await self.tell(line)
        answer = await self.answer()
        assert not answer.startswith("error"), f"{line}: {answer}"
        return answer

    async def answer(self) -> str:
        """The answer to a line that was told."""
        return await _line(self._in)


async def _line(sock: socket.socket) -> str:
    text = b""
    async with asyncio.timeout(ANSWER_S):
        while not text.endswith(b"\n"):
            chunk = await asyncio.get_running_loop().sock_recv(sock, 4096)
            assert chunk, f"the guest hung up after {text!r}"
            text += chunk
    return text.decode().strip()


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Everything for one test; `close` kills what it started."""

    folder: Path
    image: Path
    tools: Path
    kernel: Kernel
    make: Callable[[], Driver]
    uid: int | None
    panics_are_told: bool  #: the guest has the pvpanic modules
    driver: Driver = field(init=False)
    started: list[Handle] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "driver", self.make())

    def spec(self, name: str = "", *, boot: bool = False) -> MachineSpec:
        """A machine of its own, or the one called `name` again."""
        vm_id = name or f"test-{os.getpid()}-{next(_ids)}"
        home = self.folder / vm_id
        home.mkdir(exist_ok=True)
        return MachineSpec(
            vm_id=vm_id,
            home=home,
            image=self.image,
            tools=self.tools,
            memory_mib=MEMORY_MIB,
            vcpus=1,
            accel=ACCEL,
            uid=self.uid,
            kernel=self.kernel if boot else None,
            disk_bytes=DISK_BYTES,
        )

    @property
    def baked(self) -> Path:
        return self.image / "snapshot"

    async def restore(self, spec: MachineSpec, snap: Path | None = None) -> Handle:
        vm = await self.driver.restore(spec, snap or self.baked)
        self.started.append(vm)
        return vm

    @asynccontextmanager
    async def running(self, spec: MachineSpec, snap: Path | None = None) -> AsyncIterator[tuple[Handle, Guest]]:
        """Restored, connected and running; the connection is closed at the end, the VM is not."""
        vm = await self.restore(spec, snap)
        with Guest(vm.home) as guest:
            await self.driver.unpause(vm)
            yield vm, guest

    async def suspend(self, vm: Handle, name: str) -> Path:
        """Pause, snapshot, kill: what a suspend is."""
        await self.driver.pause(vm)
        snap = await self.driver.snapshot(vm, vm.home / "snapshots" / name)
        await self.driver.kill(vm)
        return snap.folder

    def fork(self, snap: Path) -> tuple[MachineSpec, Path]:
        """A copy of a snapshot in the home of a new VM."""
        spec = self.spec()
        copy = spec.home / "snapshots" / snap.name
        shutil.copytree(snap, copy)
        return spec, copy

    def names(self) -> set[str]:
        return {vm.vm_id for vm in self.started}

    async def close(self) -> None:
        for vm in self.started:
            await self.driver.kill(vm)


async def bake(lab: Lab) -> None:
    """Boot once and make the image's snapshot, with a file on the disk and a pattern in memory."""
    vm = await lab.driver.boot(lab.spec(boot=True))
    try:
        with Guest(vm.home) as guest:
            await lab.driver.unpause(vm)
            assert await guest.ask("marker") == MARKER
            await guest.ask("write baked 200")
            await guest.ask("fill baked 4")
        await lab.driver.pause(vm)
        await lab.driver.snapshot(vm, lab.baked)
    finally:
        await lab.driver.kill(vm)
        shutil.rmtree(vm.home)


def make_root(toolbox: Toolbox, folder: Path) -> None:
    """`root.erofs` with one file in it."""
    source = folder / "root"
    source.mkdir()
    (source / "marker").write_text(MARKER + "\n")
    command = [*tree_program(toolbox.root, "mkfs.erofs"), "--quiet", str(folder / "root.erofs"), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(source)
