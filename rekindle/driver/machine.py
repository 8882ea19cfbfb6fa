"""The one machine that Rekindle builds, as QEMU's command line. It fixes what a snapshot contains: whatever changes a
device here is a new `manifest.FORMAT`.

microvm, one virtio-serial with two ports, two virtio-blk (root read-only, disk), a serial console into a ring, pvpanic.
No network card, no balloon (it would punch holes into the image's RAM file), no RNG device (clones would share it).
Paths are the jail's (see `binds`); descriptors come from `SOCKETS`, in order, from 3 on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rekindle.driver.base import Accel, Kernel, MachineSpec
from rekindle.driver.jail import Bind

QEMU = "/usr/bin/qemu-system-x86_64"
MACHINE = "microvm"
SOCKETS = ("qmp", "in", "out")
FIRST_FD = 3
KVM_FDSET = 2
CONSOLE_BYTES = 64 * 1024
MIB = 1024**2

_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, kw_only=True, slots=True)
class Disks:
    """The files of a machine, on the host; a restored one has a writable qcow2 layer on top."""

    root: Path
    base: Path  #: the raw writable disk: the machine's own at boot, the image's (read-only) afterwards
    layers: Sequence[Path] = ()  #: read-only qcow2 layers on `base`, lowest first


def boot_line(spec: MachineSpec, kernel: Kernel, tsc_khz: int) -> list[str]:
    """A cold boot: RAM is a shared file, `disk.raw` is written directly."""
    disk: dict[str, object] = {"driver": "file", "node-name": "disk", "filename": "/vm/disk.raw", "discard": "unmap"}
    return [
        *_common(spec),
        "-object", f"memory-backend-file,id=mem0,size={spec.memory_mib}M,mem-path=/vm/ram,share=on",
        "-kernel", "/kernel", "-initrd", "/initrd", "-append", _kernel_line(spec.accel, tsc_khz, kernel.extra_cmdline),
        *_blockdev(disk), *_disk_devices(),
    ]  # fmt: skip


def restore_line(spec: MachineSpec, disks: Disks) -> list[str]:
    """The same machine waiting for its state; RAM is the image's file, mapped private: nothing is copied."""
    memory = f"memory-backend-file,id=mem0,size={spec.memory_mib}M,mem-path=/image/ram,share=off,readonly=on,rom=off"
    return [
        *_common(spec),
        "-object", memory,
        *_layers(len(disks.layers)), *_disk_devices(),
        "-incoming", "defer", "-global", "migration.send-configuration=off",
    ]  # fmt: skip


def boot_binds(kernel: Kernel, disks: Disks, ram: Path) -> list[Bind]:
    return [
        Bind(kernel.vmlinux, "/kernel"),
        Bind(kernel.initrd, "/initrd"),
        Bind(disks.root, "/image/root.erofs"),
        Bind(ram, "/vm/ram", writable=True),
        Bind(disks.base, "/vm/disk.raw", writable=True),
    ]


def restore_binds(disks: Disks, top: Path, ram: Path, state: Path) -> list[Bind]:
    return [
        Bind(disks.root, "/image/root.erofs"),
        Bind(ram, "/image/ram"),
        Bind(state, "/vm/state"),
        Bind(disks.base, "/image/disk.raw"),
        *(Bind(layer, f"/vm/layer{number}.qcow2") for number, layer in enumerate(disks.layers)),
        Bind(top, "/vm/disk.qcow2", writable=True),
    ]


def cpu_of(accel: Accel, host_model: str) -> str:
    """What the manifest binds: `max` is the host's own processor under KVM, and QEMU's own invention under tcg."""
    return "max" if accel is Accel.TCG else f"max on {host_model}"


def _common(spec: MachineSpec) -> list[str]:
    board = f"{MACHINE},pit=off,pic=off,rtc=on,isa-serial=on,memory-backend=mem0"
    return [
        QEMU, "-M", board, *_accel(spec.accel), "-cpu", "max", "-m", f"{spec.memory_mib}M", "-smp", str(spec.vcpus),
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-S", "-sandbox", _SANDBOX,
        "-chardev", f"ringbuf,id=console,size={CONSOLE_BYTES}", "-serial", "chardev:console",
        "-device", "pvpanic",
        "-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
        "-device", "virtio-serial-device,max_ports=3",
        "-chardev", "socket,id=in,fd=4,server=on,wait=off",
        "-device", "virtserialport,chardev=in,name=rekindle.in,nr=1",
        "-chardev", "socket,id=out,fd=5,server=on,wait=off",
        "-device", "virtserialport,chardev=out,name=rekindle.out,nr=2",
        *_blockdev({"driver": "file", "node-name": "root", "filename": "/image/root.erofs", "read-only": True}),
    ]  # fmt: skip


def _accel(accel: Accel) -> list[str]:
    """/dev/kvm is handed over open: the VMM's uid need not be allowed to open it, and its jail need not hold it."""
    if accel is Accel.TCG:
        return ["-accel", "tcg"]
    fd = FIRST_FD + len(SOCKETS)
    return ["-add-fd", f"fd={fd},set={KVM_FDSET}", "-accel", f"kvm,device=/dev/fdset/{KVM_FDSET}"]


def _disk_devices() -> list[str]:
    return [
        "-device", "virtio-blk-device,drive=root,serial=root",
        "-device", "virtio-blk-device,drive=disk,serial=disk",
    ]  # fmt: skip


def _layers(count: int) -> list[str]:
    line = _blockdev({"driver": "file", "node-name": "base", "filename": "/image/disk.raw", "read-only": True})
    below = "base"
    for number in range(count):
        line += _blockdev(_qcow2(f"layer{number}", f"/vm/layer{number}.qcow2", below, read_only=True))
        below = f"layer{number}"
    return line + _blockdev(_qcow2("disk", "/vm/disk.qcow2", below))


def _qcow2(name: str, path: str, backing: str, *, read_only: bool = False) -> dict[str, object]:
    """What lies below is said here and never read from the file."""
    file = {"driver": "file", "filename": path, "read-only": read_only, "discard": "unmap"}
    node = {"driver": "qcow2", "node-name": name, "file": file, "backing": backing, "read-only": read_only}
    return node if read_only else node | {"discard": "unmap"}


def _blockdev(node: dict[str, object]) -> list[str]:
    return ["-blockdev", json.dumps(node)]


def _kernel_line(accel: Accel, tsc_khz: int, extra: str) -> str:
    words = [
        "console=ttyS0", "reboot=t", "panic=-1", "quiet", "tsc=reliable", f"tsc_early_khz={tsc_khz}", "no_timer_check",
        "8250.nr_uarts=1", "cryptomgr.notests", "random.trust_cpu=on", "audit=0", "apparmor=0", "lsm=",
    ]  # fmt: skip
    if accel is Accel.TCG:
        words.append("mitigations=off")  # nothing speculates in software emulation
    return " ".join([*words, extra]).strip()
