"""What a snapshot saves: a cold boot of the image's root disk, as a bake does it, until the app's first answer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.speaker import Speaker
from rekindle import binaries
from rekindle.driver import manifest
from rekindle.driver.base import Accel, Kernel, MachineSpec
from rekindle.driver.qemu import QemuDriver
from rekindle.guest import kernel
from rekindle.image.toolbox import Toolbox

LISTEN_S = 120.0
DISK_BYTES = 8 * 1024**3
UID = 799_990  #: outside of what a service gives out


@dataclass(frozen=True, kw_only=True)
class Image:
    """A baked image: where it lies, what it starts, and where its app answers."""

    folder: Path
    config: Mapping[str, Any]  #: of its image.json
    port: int
    path: str


class Oven:
    """Boots images of one toolbox; `folder` is for its own files."""

    def __init__(self, tools: Toolbox, folder: Path) -> None:
        self._tools = tools
        self._folder = folder
        self._driver = QemuDriver(binaries.find("rekindle-jail"))
        self._initrd = folder / "initrd"
        kernel.make_initramfs(self._initrd, agent=binaries.find("rekindle-agent"), modules=tools.modules)

    async def boot(self, image: Image, speaker: Speaker) -> float:
        """Seconds from nothing to the first answer: empty disk, VMM, kernel, agent, container, app."""
        with TemporaryDirectory(prefix="cold-", dir=self._folder) as home:
            spec = self._spec(image, Path(home))
            before = time.perf_counter()
            handle = await self._driver.boot(spec)
            try:
                speaker.connect(spec.home / "run")
                await self._driver.unpause(handle)
                speaker.ask("POST", "/v1/start", start_body(image.config))
                speaker.get(image.port, image.path, patience_s=LISTEN_S)
                return time.perf_counter() - before
            finally:
                speaker.close()
                await self._driver.kill(handle)

    def _spec(self, image: Image, home: Path) -> MachineSpec:
        binding = manifest.read(image.folder / "snapshot").binding
        return MachineSpec(
            vm_id=f"bench-{home.name}",
            home=home,
            image=image.folder,
            tools=self._tools.root,
            memory_mib=binding.memory_mib,
            vcpus=binding.vcpus,
            accel=Accel(binding.accel),
            uid=UID if os.geteuid() == 0 else None,
            kernel=Kernel(vmlinux=self._tools.vmlinux, initrd=self._initrd),
            disk_bytes=DISK_BYTES,
        )


def start_body(config: Mapping[str, Any]) -> dict[str, object]:
    """`POST /v1/start` of docs/contracts.md §3."""
    return {
        "argv": config["argv"],
        "env": config["env"],
        "workdir": config["workdir"] or "/",
        "user": config["user"],
        "capabilities": "default",
        "shm_mib": 64,
        "hostname": "localhost",
    }
