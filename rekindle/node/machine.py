"""From rows and configuration to what the driver and the relay need to know of one VM."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from rekindle.config import Config
from rekindle.core import connectors, quiet
from rekindle.core.image import Hooks
from rekindle.core.microvm import MicroVM
from rekindle.driver.base import Accel, Driver, MachineSpec
from rekindle.image.toolbox import Toolbox
from rekindle.node.layout import Layout

GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """This machine as the node uses it; made once at start."""

    config: Config
    layout: Layout
    accel: Accel
    as_root: bool
    launcher: Path  #: the built rekindle-jail
    driver: Driver

    def uid(self, slot: int) -> int | None:
        """The VMM's uid for a slot (its endpoint port is unique among live VMs); None in user mode."""
        machine = self.config.machine
        return machine.first_uid + slot % machine.uids if self.as_root else None

    def uid_of_bakes(self) -> int | None:
        """Above all slots: no microVM ever shares it."""
        machine = self.config.machine
        return machine.first_uid + machine.uids if self.as_root else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Baked:
    """What the node must know of an image version to run VMs of it."""

    folder: str
    tools: Toolbox
    hooks: Hooks | None
    memory_mib: int  #: guest RAM, as in its snapshot
    vcpus: int
    confirms: bool = True  #: its agent confirms every step of a thaw; those of older images confirm the seed alone


def disk_bytes(memory_mib: int) -> int:
    """Virtual size of the writable disk (spec §6.2): 8 GB up to 2048 MiB, 16 at 4096, 32 at 8192."""
    return max(8, memory_mib // 256) * GIB


def spec_of(host: Host, vm: MicroVM, baked: Baked) -> MachineSpec:
    """The machine of a microVM: its size is the image's, whatever the configuration says since."""
    return MachineSpec(
        vm_id=vm.id,
        home=host.layout.home(vm.id),
        image=host.layout.image(baked.folder),
        tools=baked.tools.root,
        memory_mib=baked.memory_mib,
        vcpus=baked.vcpus,
        accel=host.accel,
        uid=host.uid(vm.endpoint_port),
    )


def route_of(host: Host, vm: MicroVM, state: str) -> dict[str, object]:
    """The relay's route (docs/contracts.md §4)."""
    home = host.layout.home(vm.id)
    rules = quiet.rules(host.config.quiet.rules, host.config.quiet.sets)
    return {
        "generation": vm.generation,
        "state": state,
        "endpoint_port": vm.endpoint_port,
        "endpoint_host": vm.endpoint_id,
        "default_port": 8080,
        "auto_resume": vm.idle is not None and vm.idle.auto_resume,
        "in": str(home / "run/in"),
        "out": str(home / "run/out"),
        "egress": connectors.way_out(vm.egress, host.config.egress.vpc),
        "ingress": connectors.lets_app_traffic_in(vm.ingress),
    } | ({"quiet": [rule.wire() for rule in rules]} if rules else {})


def about(host: Host, vm: MicroVM) -> dict[str, object]:
    """What the app may read about its own VM (docs/guest-api.md). The revision grows with every start and resume."""
    idle = vm.idle and {
        "max_idle_seconds": vm.idle.max_idle_s,
        "suspended_seconds": vm.idle.suspended_s,
        "auto_resume": vm.idle.auto_resume,
    }
    return {
        "microvm_id": vm.id,
        "revision": vm.revision,
        "idle": idle,
        "lease_max_seconds": host.config.idle.lease_max_s,
        "ends_at_ms": vm.expires_at_ms(),
    }


def endpoint_of(vm: MicroVM) -> str:
    """A bare authority, as on AWS; port mode (`localhost:<port>`)."""
    return f"localhost:{vm.endpoint_port}"


def hostname_of(vm: MicroVM) -> str:
    """`microvm-` and the first eight digits: unique enough to read, short enough for a prompt."""
    return vm.id[:16]


def machine_id_of(vm: MicroVM) -> str:
    """32 hex digits, the same for the whole life of the VM (machine-id(5))."""
    return uuid.UUID(vm.id.removeprefix("microvm-")).hex
