"""Which accelerator this machine really has. /dev/kvm alone says little: nested or broken, guests hang or die under it.

So a kernel is booted under it, with nothing to run: it must come as far as to say so. The answer holds until the
machine is started again.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Protocol

from rekindle.core.errors import Invalid, MachineError
from rekindle.driver import files, host
from rekindle.driver.base import Accel

KVM = Path("/dev/kvm")
DEADLINE_S = 10.0
_OUTPUT_MAX_BYTES = 256 * 1024
_REACHED = b"Kernel panic - not syncing"  # no root disk: as far as this guest can come


class Tools(Protocol):
    """What a probe needs of a toolbox."""

    @property
    def digest(self) -> str: ...
    @property
    def root(self) -> Path: ...
    @property
    def vmlinux(self) -> Path: ...


async def choose(
    setting: str, tools: Tools, remember: Path | None, deadline_s: float = DEADLINE_S
) -> tuple[Accel, str]:
    """The accelerator for `machine.accel` and why. Raises MachineError when KVM is demanded and unusable."""
    if setting == "tcg":
        return Accel.TCG, "machine.accel says so"
    if setting not in ("auto", "kvm"):
        raise Invalid(f"machine.accel must be auto, kvm or tcg, not '{setting}'")
    accel, why = _remembered(tools, remember) or await _tried(tools, remember, deadline_s)
    if setting == "kvm" and accel is not Accel.KVM:
        raise MachineError(f"machine.accel demands KVM, which this machine cannot use: {why}")
    return accel, why


async def usable_accel(root: Path, vmlinux: Path, deadline_s: float = DEADLINE_S) -> tuple[Accel, str]:
    """Try KVM with a real guest; (TCG, why not) when that does not work. Raises nothing but cancellation."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as err:
        return Accel.TCG, f"{KVM}: {os.strerror(err.errno or 0)}"
    problem = await try_guest(Accel.KVM, root, vmlinux, deadline_s)
    return (Accel.TCG, problem) if problem else (Accel.KVM, f"a guest kernel ran under {KVM}")


async def try_guest(accel: Accel, root: Path, vmlinux: Path, deadline_s: float) -> str:
    """Boot the kernel, which finds no root disk and ends; returns what went wrong before that, or nothing."""
    try:
        vmm = await asyncio.create_subprocess_exec(
            *_line(accel, root, vmlinux),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as err:
        return f"QEMU of {root} could not be started: {os.strerror(err.errno or 0)}"
    try:
        async with asyncio.timeout(deadline_s):
            output = await _output(vmm)
            await vmm.wait()
    except TimeoutError:
        return f"a guest kernel hung under {accel.value} (no end within {deadline_s:g} s)"
    finally:
        if vmm.returncode is None:
            vmm.kill()
            await vmm.wait()
    if _REACHED in output:
        return ""
    said = output.decode(errors="replace").strip().splitlines()
    return f"a guest kernel died under {accel.value}: {said[-1][:200] if said else f'QEMU ended with {vmm.returncode}'}"


async def _output(vmm: asyncio.subprocess.Process) -> bytes:
    """What it writes to its console until it ends; a flood counts as an end."""
    output = b""
    while vmm.stdout is not None and len(output) < _OUTPUT_MAX_BYTES:
        chunk = await vmm.stdout.read(65536)
        if not chunk:
            break
        output += chunk
    return output


def _line(accel: Accel, root: Path, vmlinux: Path) -> list[str]:
    return [
        *tree_program(root, "qemu-system-x86_64"),
        "-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios"),
        "-M", f"microvm,accel={accel.value},pit=off,pic=off,rtc=on,isa-serial=on", "-cpu", "max", "-m", "128M",
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(vmlinux), "-append", "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=2000000",
    ]  # fmt: skip


def tree_program(root: Path, name: str) -> list[str]:
    """How to run a program of the tree without a chroot: through the tree's own loader and libraries."""
    libraries = ":".join(str(root / "usr/lib" / part) for part in ("x86_64-linux-gnu", "x86_64-linux-gnu/systemd"))
    return [str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", libraries, str(root / "usr/bin" / name)]


def _facts(tools: Tools) -> dict[str, str]:
    return {"boot_id": host.boot_id(), "tools": tools.digest}


def _remembered(tools: Tools, remember: Path | None) -> tuple[Accel, str] | None:
    if remember is None:
        return None
    try:
        found = json.loads(remember.read_bytes())
        if {name: found[name] for name in ("boot_id", "tools")} != _facts(tools):
            return None
        return Accel(found["accel"]), str(found["why"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # never tried, or not in a form that we know: try


async def _tried(tools: Tools, remember: Path | None, deadline_s: float) -> tuple[Accel, str]:
    accel, why = await usable_accel(tools.root, tools.vmlinux, deadline_s)
    if remember is not None:
        answer = {**_facts(tools), "accel": accel.value, "why": why}
        await asyncio.to_thread(files.replace_durably, remember, json.dumps(answer).encode())
    return accel, why
