"""The floor: a bare QEMU restore of a snapshot. No service, no relay, no jail; what nothing of ours can beat.

    python -m bench.floor restore IMAGE_FOLDER [--times N]

`Restore` is for a bench that goes on with the guest's messages on the two ports (`bench.speaker`), `save` for one that
then writes what a suspend writes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import select
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rekindle import config, unixsock
from rekindle.driver import delta, machine, manifest, pagemap, qcow2, qmp
from rekindle.driver.base import Accel, MachineSpec
from rekindle.driver.machine import Disks
from rekindle.driver.probe import tree_program

END_S = 20.0


@dataclass(frozen=True)
class Bare:
    """A restored, paused machine; `home/run/in` and `home/run/out` take connections."""

    home: Path
    link: qmp.Link
    pid: int
    ram: Path
    memory_bytes: int
    restored_s: float  #: from before the spawn until the guest may run


@contextmanager
def _home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="rekindle-floor-"))
    (home / "run").mkdir()
    try:
        yield home
    finally:
        shutil.rmtree(home)


def _line(tree: Path, image: Path, snap: Path, home: Path, found: manifest.Manifest) -> list[str]:
    """The driver's own command line, with the jail's paths turned into the host's."""
    binding = found.binding
    spec = MachineSpec(
        vm_id="floor",
        home=home,
        image=image,
        tools=tree,
        memory_mib=binding.memory_mib,
        vcpus=binding.vcpus,
        accel=Accel(binding.accel),
        uid=None,
    )
    base = image / "snapshot"
    below = [snap / layer.file for layer in reversed(found.disks)]
    disks = Disks(root=image / "root.erofs", base=base / "disk.raw", layers=below)
    binds = machine.restore_binds(disks, home / "disk.qcow2", base / "ram", snap / "state")
    line = machine.restore_line(spec, disks)[1:]
    paths = {bind.target: str(bind.source) for bind in binds}
    inside = re.compile("|".join(map(re.escape, paths)))
    line = [inside.sub(lambda found: paths[found[0]], word) for word in line]
    firmware = [word for name in ("qemu", "seabios") for word in ("-L", str(tree / "usr/share" / name))]
    return [*tree_program(tree, "qemu-system-x86_64"), *firmware, *line]


@contextmanager
def _spawned(line: list[str], home: Path, stack: ExitStack) -> Iterator[int]:
    """QEMU with its listening sockets as descriptors 3, 4 and 5."""
    sockets = [stack.enter_context(unixsock.listen(home / "run" / name)) for name in machine.SOCKETS]
    passed = [sock.fileno() for sock in sockets]
    line = [_with_descriptors(word, passed) for word in line]
    vmm = subprocess.Popen(line, pass_fds=passed, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield vmm.pid
    finally:
        vmm.kill()
        vmm.wait(END_S)


def _with_descriptors(word: str, passed: list[int]) -> str:
    """The line counts descriptors from 3, as the jail hands them over; here they keep their numbers."""
    return re.sub(r"(?<=,fd=)\d+", lambda found: str(passed[int(found[0]) - machine.FIRST_FD]), word)


class Restore:
    """`async with Restore(tree, image) as bare`: restored, paused; connect to the ports, then `run`.

    `snap` is the snapshot of a microVM of that image; without it the image's own is restored.
    """

    def __init__(self, tree: Path, image: Path, snap: Path | None = None) -> None:
        self._tree = tree
        self._image = image
        self._snap = snap or image / "snapshot"
        self._stack = ExitStack()

    async def _paused(self) -> Bare:
        """Restore and leave it paused."""
        home, ram = self._stack.enter_context(_home()), self._image / "snapshot/ram"
        before = time.perf_counter()
        found = manifest.read(self._snap)
        memory_bytes = found.binding.memory_mib * machine.MIB
        qcow2.create(home / "disk.qcow2", (self._image / "snapshot/disk.raw").stat().st_size, owner_uid=None)
        line = _line(self._tree, self._image, self._snap, home, found)
        pid = self._stack.enter_context(_spawned(line, home, self._stack))
        link = await qmp.attach(unixsock.connect(home / "run" / machine.SOCKETS[0]))
        self._stack.callback(link.close)
        await link.greet(END_S)
        if found.kind == manifest.VM:
            saved = delta.open_delta(self._snap / "delta")
            delta.load(saved, pid, pagemap.regions_of(pid, ram, memory_bytes))
        await self._load(link)
        restored_s = time.perf_counter() - before
        return Bare(home=home, link=link, pid=pid, ram=ram, memory_bytes=memory_bytes, restored_s=restored_s)

    async def _load(self, link: qmp.Link) -> None:
        with link.listening() as events:
            await link.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            await link.ask("migrate-incoming", uri=f"file:{self._snap / 'state'}")
            while (event := await events.get()) is not None:
                if event.name == "MIGRATION" and event.data["status"] == "completed":
                    return
        raise RuntimeError("QEMU could not load the snapshot")

    async def __aenter__(self) -> Bare:
        try:
            return await self._paused()
        except BaseException:
            self._stack.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()


async def run(bare: Bare) -> None:
    """Let the guest run."""
    await bare.link.ask("cont")


async def save(bare: Bare) -> None:
    """What a suspend cannot do without: stop, device state, the pages that are the machine's own, on the disk for good.
    Then the process is gone."""
    await bare.link.ask("stop")
    state = bare.home / "state"
    await bare.link.ask("xen-save-devices-state", filename=str(state))
    regions = pagemap.regions_of(bare.pid, bare.ram, bare.memory_bytes)
    own = pagemap.reader("auto")(bare.pid, regions)
    delta.save(bare.home / "delta", bare.pid, regions, own, bare.memory_bytes)
    with state.open("rb") as written:
        os.fsync(written.fileno())
    pidfd = os.pidfd_open(bare.pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], END_S)
    finally:
        os.close(pidfd)


async def _measure(tree: Path, image: Path, times: int) -> list[float]:
    found = []
    for _ in range(times):
        async with Restore(tree, image) as bare:
            before = time.perf_counter()
            await run(bare)
            found.append(1000 * (bare.restored_s + time.perf_counter() - before))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["restore"])
    parser.add_argument("image", type=Path, help="folder with root.erofs and snapshot/")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--tree", type=Path, help="toolbox tree; default: the one that the snapshot names")
    asked = parser.parse_args()
    image = asked.image.absolute()
    tree = asked.tree or config.load(env=os.environ).tools_dir / manifest.read(image / "snapshot").binding.tools
    ms = asyncio.run(_measure(tree, image, asked.times))
    median = statistics.median(ms)
    print(f"bare restore until the guest may run: median {median:.1f} ms, min {ms[0]:.1f}, max {ms[-1]:.1f}")


if __name__ == "__main__":
    main()
