"""The floor: a bare QEMU restore of a baked snapshot. No service, no relay, no jail; what nothing of ours can beat.

    python -m bench.floor restore IMAGE_FOLDER [--times N]

`restore` is also a function, for a bench that goes on with the guest's messages on the two ports.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rekindle import config, unixsock
from rekindle.driver import machine, manifest, qcow2, qmp
from rekindle.driver.base import Accel, MachineSpec
from rekindle.driver.machine import Disks
from rekindle.driver.probe import tree_program

END_S = 20.0


@dataclass(frozen=True)
class Bare:
    """A restored, paused machine; `home/run/in` and `home/run/out` take connections."""

    home: Path
    link: qmp.Link
    restored_s: float  #: from before the spawn until the guest may run


@contextmanager
def _home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="rekindle-floor-"))
    (home / "run").mkdir()
    try:
        yield home
    finally:
        shutil.rmtree(home)


def _line(tree: Path, image: Path, home: Path, found: manifest.Manifest) -> list[str]:
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
    snap = image / "snapshot"
    disks = Disks(root=image / "root.erofs", base=snap / "disk.raw")
    binds = machine.restore_binds(disks, home / "disk.qcow2", snap / "ram", snap / "state")
    line = machine.restore_line(spec, disks)[1:]
    paths = {bind.target: str(bind.source) for bind in binds}
    inside = re.compile("|".join(map(re.escape, paths)))
    line = [inside.sub(lambda found: paths[found[0]], word) for word in line]
    firmware = [word for name in ("qemu", "seabios") for word in ("-L", str(tree / "usr/share" / name))]
    return [*tree_program(tree, "qemu-system-x86_64"), *firmware, *line]


@contextmanager
def _spawned(line: list[str], home: Path, stack: ExitStack) -> Iterator[None]:
    """QEMU with its listening sockets as descriptors 3, 4 and 5."""
    sockets = [stack.enter_context(unixsock.listen(home / "run" / name)) for name in machine.SOCKETS]
    passed = [sock.fileno() for sock in sockets]
    line = [_with_descriptors(word, passed) for word in line]
    vmm = subprocess.Popen(line, pass_fds=passed, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        vmm.kill()
        vmm.wait(END_S)


def _with_descriptors(word: str, passed: list[int]) -> str:
    """The line counts descriptors from 3, as the jail hands them over; here they keep their numbers."""
    return re.sub(r"(?<=,fd=)\d+", lambda found: str(passed[int(found[0]) - machine.FIRST_FD]), word)


@contextmanager
def _prepared(image: Path) -> Iterator[tuple[Path, manifest.Manifest]]:
    with _home() as home:
        found = manifest.read(image / "snapshot")
        qcow2.create(home / "disk.qcow2", (image / "snapshot/disk.raw").stat().st_size, owner_uid=None)
        yield home, found


class Restore:
    """`async with Restore(tree, image) as bare`: restored, paused; connect to the ports, then `run`.."""

    def __init__(self, tree: Path, image: Path) -> None:
        self._tree = tree
        self._image = image
        self._stack = ExitStack()

    async def _paused(self) -> Bare:
        """Restore and leave it paused."""
        home, found = self._stack.enter_context(_prepared(self._image))
        line = _line(self._tree, self._image, home, found)
        before = time.perf_counter()
        self._stack.enter_context(_spawned(line, home, self._stack))
        link = await qmp.attach(unixsock.connect(home / "run" / machine.SOCKETS[0]))
        self._stack.callback(link.close)
        await link.greet(END_S)
        await self._load(link)
        return Bare(home=home, link=link, restored_s=time.perf_counter() - before)

    async def _load(self, link: qmp.Link) -> None:
        with link.listening() as events:
            await link.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            await link.ask("migrate-incoming", uri=f"file:{self._image / 'snapshot/state'}")
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
