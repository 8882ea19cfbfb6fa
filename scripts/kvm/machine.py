"""The outer machine: QEMU in software emulation with AMD's SVM and nested paging, four disks, one CPU, no network.

One CPU: with two, each in a thread of its own, guests of its KVM and then the machine itself were reset without a word.
A microvm without PIT, as the product's own: on a busy host a q35's kernel hangs when it measures its timers.

What runs inside speaks through a port of its own, shown as it comes; the kernel's console goes to a file.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from rekindle.driver.probe import tree_program
from scripts.kvm import say

MEMORY_MIB = 4096
RESULTS_MIB = 256
END = "nested: end "  #: the last line from inside, with the exit status


class Ended(Exception):
    """A machine ended before what it was asked for was done."""


@dataclass(kw_only=True, slots=True)
class Machine:
    name: str  #: before each of its lines; empty when it is the only one
    toolbox: Path  #: whose QEMU runs it
    system: Path  #: the folder of `disks.system`
    library: Path
    checkout: Path
    tsc_khz: int  #: of this host: on a busy one the kernel inside fails to measure it and hangs
    scratch: Path  #: a folder of its own for overlays, console, results; the caller's to make and remove
    _vmm: subprocess.Popen[bytes] | None = None
    _given_up: bool = False

    @property
    def results(self) -> Path:
        return self.scratch / "results"

    def run(self, within_s: float) -> int:
        """Run to its end and unpack the results into `scratch/results`; the exit status from inside.

        Raises Ended when the machine ended without saying one, or did not end in time.
        """
        packed = self.scratch / "results.tar"
        with packed.open("wb") as file:
            file.truncate(RESULTS_MIB << 20)
        status = self._watched(within_s)
        with tarfile.open(packed) as tar:
            tar.extractall(self.results, filter="data")
        return status

    def kill(self) -> None:
        """From another thread: `run` raises Ended then, also when it has not begun yet."""
        self._given_up = True
        if self._vmm is not None:
            self._vmm.kill()

    def _watched(self, within_s: float) -> int:
        """Show what it says until it ends; the status that it said. Raises Ended."""
        vmm = self._vmm = subprocess.Popen(
            self._line(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            env={"TMPDIR": str(self.scratch), "PATH": "/usr/bin:/bin"},
        )
        if self._given_up:  # before there was anything to kill
            vmm.kill()
        late = threading.Timer(within_s, vmm.send_signal, [signal.SIGKILL])
        late.start()
        status = None
        try:
            with cast(IO[bytes], vmm.stdout) as said:
                for raw in said:
                    line = raw.decode(errors="replace").rstrip("\r\n")
                    if line.startswith(END):
                        status = int(line.removeprefix(END))
                    else:
                        say(f"{self.name}| {line}" if self.name else line)
            vmm.wait()
        finally:
            late.cancel()
            vmm.kill()
            vmm.wait()
        if status is not None:
            return status
        if vmm.returncode == -signal.SIGKILL:
            raise Ended(f"it was not done after {within_s:.0f} s, or its run was given up")
        raise Ended(
            f"it ended without a result, its QEMU with status {vmm.returncode}; its last words (--keep keeps all):\n"
            f"{self._console()[-2000:]}"
        )

    def _console(self) -> str:
        return (self.scratch / "console").read_text(errors="replace")

    def _line(self) -> list[str]:
        share = self.toolbox / "usr/share"
        words = (
            "console=ttyS0 root=/dev/vda rw init=/sbin/nested-init quiet panic=-1 reboot=t mitigations=off audit=0 "
            "cryptomgr.notests random.trust_cpu=on 8250.nr_uarts=1 no_timer_check tsc=reliable "
            f"tsc_early_khz={self.tsc_khz} lpj={self.tsc_khz * 2}"
        )
        return [
            *tree_program(self.toolbox, "qemu-system-x86_64"),
            "-L", str(share / "qemu"), "-L", str(share / "seabios"),
            "-M", "microvm,accel=tcg,pit=off,pic=off,rtc=on,isa-serial=on",
            "-cpu", "EPYC,+svm,+npt", "-smp", "1", "-m", f"{MEMORY_MIB}M",
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-serial", f"file:{self.scratch / 'console'}",
            "-device", "virtio-serial-device", "-chardev", "file,id=said,path=/proc/self/fd/1",
            "-device", "virtserialport,chardev=said,nr=1,name=said",
            *_drive("system", self.system / "disk", "raw", throwaway=True),
            *_drive("library", self.library, "raw", throwaway=True),
            *_drive("checkout", self.checkout, "raw"),
            *_drive("results", self.scratch / "results.tar", "raw"),
            "-kernel", str(self.system / "vmlinuz"), "-initrd", str(self.system / "initrd.img"), "-append", words,
        ]  # fmt: skip


def _drive(name: str, file: Path, kind: str, *, throwaway: bool = False) -> list[str]:
    """`throwaway`: what is written goes to a file that vanishes with the machine."""
    options = f"id={name},file={file},format={kind},if=none,cache=unsafe,discard=unmap"
    return [
        "-drive",
        options + (",snapshot=on" if throwaway else ""),
        "-device",
        f"virtio-blk-device,drive={name},serial={name}",
    ]
