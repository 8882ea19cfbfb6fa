"""What a saved handle holds: the VMM's identity, and what the driver must know of the machine in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rekindle.core.errors import MachineError
from rekindle.driver import host, machine
from rekindle.driver.base import Accel, Handle
from rekindle.driver.manifest import Binding
from rekindle.driver.process import Identity


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """`Handle.extra`, typed."""

    kind: str
    tools: Path
    image: Path
    memory_mib: int
    vcpus: int
    accel: Accel
    kernel_sha256: str
    base: str | None
    layers: list[Path]  #: below the top one, top first

    @classmethod
    def of(cls, vm: Handle) -> Facts:
        extra = vm.extra
        return cls(
            kind=str(extra["kind"]),
            tools=Path(str(extra["tools"])),
            image=Path(str(extra["image"])),
            memory_mib=int(str(extra["memory_mib"])),
            vcpus=int(str(extra["vcpus"])),
            accel=Accel(extra["accel"]),
            kernel_sha256=str(extra["kernel_sha256"]),
            base=None if extra["base"] is None else str(extra["base"]),
            layers=[Path(name) for name in strings(extra["layers"])],
        )

    @property
    def ram(self) -> Path:
        return self.image / "snapshot/ram"

    def binding(self, qemu: str, tsc_khz: int) -> Binding:
        return Binding(
            tools=self.tools.name,
            qemu=qemu,
            machine=machine.MACHINE,
            cpu=machine.cpu_of(self.accel, host.cpu_model() if self.accel is Accel.KVM else ""),
            memory_mib=self.memory_mib,
            vcpus=self.vcpus,
            accel=self.accel.value,
            tsc_khz=tsc_khz,
        )


def strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise MachineError(f"A saved handle has {value!r} where a list belongs")
    return [str(one) for one in value]


def identity(vm: Handle) -> Identity:
    return Identity(vm.pid, vm.started_ticks)


def handle_of(saved: Mapping[str, object]) -> Handle:
    extra = saved["extra"]
    if not isinstance(extra, dict):
        raise MachineError("A saved handle has no extra")
    return Handle(
        vm_id=str(saved["vm_id"]),
        pid=int(str(saved["pid"])),
        started_ticks=int(str(saved["started_ticks"])),
        home=Path(str(saved["home"])),
        extra=extra,
    )
