"""What of this machine a snapshot is bound to."""

from __future__ import annotations

import asyncio
import subprocess
from functools import cache
from pathlib import Path

from rekindle.core.errors import MachineError

MEASURE_S = 20.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """A new one for every start of this machine; containers of it share one."""
    return _BOOT_ID.read_text().strip()


async def tsc_khz(launcher: Path) -> int:
    """The rate of the time stamp counter, measured for 0.1 s. Raises MachineError where there is none."""
    return await asyncio.to_thread(_measure, launcher)


def _measure(launcher: Path) -> int:
    try:
        done = subprocess.run([launcher, "tsc"], capture_output=True, text=True, timeout=MEASURE_S, check=True)
    except subprocess.CalledProcessError as err:
        raise MachineError(f"The time stamp counter could not be measured: {err.stderr.strip()}") from err
    except (OSError, subprocess.TimeoutExpired) as err:
        raise MachineError(f"{launcher} could not measure the time stamp counter") from err
    return int(done.stdout)


def cpu_model() -> str:
    """The processor's own name, as the kernel prints it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"
