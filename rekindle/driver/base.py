"""What a hypervisor driver is: eight methods (style.md C4). A ninth needs a decision record.

Suspend, resume, bake, checkpoint are composed from these in `node/`; a driver knows no lifecycle, no AWS, no guest
protocol. `check_driver` in `tests/driver/conformance.py` is the contract as a test and runs against every driver.

A *machine folder* (`MachineSpec.home`) belongs to one VM and the driver may write only there:

    run/         unix sockets: `in` and `out` (the guest channel), and the driver's own control socket
    disk.qcow2   the writable top layer of the running VM
    snapshots/<name>/   what `snapshot` makes: immutable, `manifest.json` renamed in last

An *image folder* (`MachineSpec.image`) is read-only and shared by every VM of the version: `root.erofs` and `snapshot/`
(the baked snapshot: `manifest.json`, `ram`, `state`, and `disk.raw`, the writable disk as it was at bake). A boot
(bake) needs only `root.erofs` there; it makes `ram` and `disk.raw` in its own home, and `snapshot` copies them sparse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol


class Accel(Enum):
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the host lets one VMM process have. None: the driver's default for the machine's size."""

    memory_bytes: int | None = None
    pids: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """What a cold boot needs; a restore needs none of it."""

    vmlinux: Path
    initrd: Path
    extra_cmdline: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """One machine, the same description for its boot and for every later restore."""

    vm_id: str
    home: Path
    image: Path
    tools: Path  #: root of the toolbox tree whose VMM runs it
    memory_mib: int
    vcpus: int
    accel: Accel
    uid: int | None  #: the VMM's own uid (root mode); None: the caller's, in a user namespace
    kernel: Kernel | None = None  #: only for boot
    disk_bytes: int = 8 * 1024**3  #: virtual size of the writable disk; only for boot
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Handle:
    """Names one VMM process for good: a pid alone is reused, pid and start time are not. JSON-able through `saved`."""

    vm_id: str
    pid: int
    started_ticks: int  #: field 22 of /proc/<pid>/stat
    home: Path
    extra: Mapping[str, object] = field(default_factory=dict)  #: the driver's own (tree, cgroup, image, layers)

    def saved(self) -> dict[str, object]:
        return {
            "vm_id": self.vm_id,
            "pid": self.pid,
            "started_ticks": self.started_ticks,
            "home": str(self.home),
            "extra": dict(self.extra),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A complete snapshot on disk. Sizes are allocated bytes, as `du` counts them."""

    folder: Path
    memory_bytes: int
    disk_bytes: int
    private_bytes: int  #: guest memory that differs from the image's; equals memory_bytes for a baked one


class ExitKind(Enum):
    SHUTDOWN = "guest shut down"
    RESET = "guest reset"
    PANIC = "guest panicked"
    DIED = "VMM died"  # killed, crashed: nothing the guest asked for
    STARVED = "VMM was killed: out of memory"  # by the kernel, at the limit of its control group


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    kind: ExitKind
    detail: str = ""


class Driver(Protocol):
    """Every method raises MachineError (or its child SnapshotMismatch) and leaves no process, socket or mount behind
    when it raises. Every method may be called again after a crash at any await."""

    async def boot(self, spec: MachineSpec) -> Handle:
        """Start the machine cold, paused before its first instruction; the channel sockets accept connections."""

    async def restore(self, spec: MachineSpec, snap: Path) -> Handle:
        """Start a new process from the snapshot folder `snap`, paused; no guest memory is copied beyond the VM's own
        delta. An earlier process of the same home is killed and its top disk layer dropped first."""

    async def pause(self, vm: Handle) -> None:
        """Stop the vCPUs; a second call is a no-op."""

    async def unpause(self, vm: Handle) -> None:
        """Run the vCPUs; a no-op on a running machine. Connect the channel first: output without a host is lost.
        Raises DiskFull for a machine that was stopped by a full disk and is stopped by it again: it stays whole."""

    async def snapshot(self, vm: Handle, into: Path) -> Snapshot:
        """Write memory, device state and disk of this one stop into the new folder `into`; the VM must be paused and
        stays usable (unpause goes on). A half-written folder is never mistaken for a whole one: `manifest.json` is
        renamed in last, after fsync of every file and of the folder. An incomplete `into` is replaced."""

    async def kill(self, vm: Handle) -> None:
        """End the process; returns when it is gone with its sockets and cgroup. Idempotent."""

    async def wait(self, vm: Handle) -> Exit:
        """Return when the process has ended, and why. Works for adopted processes too."""

    async def adopt(self, saved: Mapping[str, object]) -> Handle | None:
        """The handle again after a restart of the service; None when that very process is gone."""
