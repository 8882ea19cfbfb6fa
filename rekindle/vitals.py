"""What one process and one folder cost, and what walls stand around a process: read from the kernel, never assumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rekindle.core.errors import MachineError
from rekindle.driver import jail
from rekindle.driver.process import Identity

_PROC = Path("/proc")


def process(pid: int, started_ticks: int) -> dict[str, object] | None:
    """Memory, CPU time and jail of a process; None when that very process is gone (a pid alone is reused)."""
    if not Identity(pid, started_ticks).alive():
        return None
    try:
        walls = [*jail.observe(pid), jail.seccomp(pid)]
        return {"pid": pid, "memory": _memory_kib(pid), "cpu_s": _cpu_s(pid), "jail": [asdict(wall) for wall in walls]}
    except (FileNotFoundError, ProcessLookupError, MachineError):
        return None


def memory_mib_for_guests() -> int:
    """What this machine has, less an eighth for everything else on it."""
    lines = dict(line.split(":", 1) for line in (_PROC / "meminfo").read_text().splitlines())
    return int(lines["MemTotal"].split()[0]) // 1024 * 7 // 8


def allocated_bytes(folder: Path) -> int:
    """What a folder takes on disk, as `du` counts it: sparse files by their blocks. 0 when it is not there."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(path) / name).lstat().st_blocks * 512
            except FileNotFoundError:  # removed while we looked
                continue
    return total


def _memory_kib(pid: int) -> dict[str, int]:
    """`private` is the VM's own memory, `shared` what it maps of files: the image's, in the page cache once for all."""
    rss = _fields(pid, "status")
    return {
        "private_kib": int(rss["RssAnon"].split()[0]),
        "shared_kib": int(rss["RssFile"].split()[0]) + int(rss["RssShmem"].split()[0]),
    }


def _cpu_s(pid: int) -> float:
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields behind the name, which may itself hold blanks and parentheses."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _fields(pid: int, name: str) -> Mapping[str, str]:
    lines = (_PROC / str(pid) / name).read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
