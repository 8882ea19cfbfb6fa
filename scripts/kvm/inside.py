"""Inside the nested machine: check that KVM is real here, then run the parts that were asked for, one after the other.

`asked.json` beside this file says which parts, for how long each at most, and the tests' slowness factor.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rekindle.driver import probe
from rekindle.driver.base import Accel
from rekindle.image import toolbox
from scripts.kvm import say

TOOLS = Path("/library/tools")
RESULTS = Path("/results")
LAYERS = Path("/library/layers")
KERNEL_LINES = 30
PROBE_S = 12.0  #: times the slowness factor


@dataclass(frozen=True, slots=True)
class Asked:
    parts: Mapping[str, list[str]]  #: name -> command, `{results}` is the folder for what it leaves
    slowness: float
    within_s: float


def main() -> int:
    """0 when every part ended well; the number of those that did not otherwise."""
    RESULTS.mkdir()
    asked = Asked(**json.loads(Path(__file__).with_name("asked.json").read_text()))
    parts: dict[str, Callable[[], str]] = {"kvm": lambda: kvm_works(asked.slowness)}
    for name, command in asked.parts.items():
        parts[name] = _runner(name, command, asked)
    told = {}
    for name, part in parts.items():
        say(f"== {name}")
        began = time.monotonic()
        failure = part()
        told[name] = {"failure": failure, "took_s": round(time.monotonic() - began)}
        say(f"== {name}: {failure or 'ok'} ({told[name]['took_s']} s)")
        (RESULTS / "parts.json").write_text(json.dumps(told, indent=1))
        if failure:
            say(f"what the kernel of this machine said:\n{_kernel_log()}")
        if failure and name == "kvm" and "command" not in parts:
            break
    return sum(1 for one in told.values() if one["failure"])


def kvm_works(slowness: float) -> str:
    """As the product finds it: by a guest kernel that ran. Also: what this machine is."""
    say(f"kernel {os.uname().release}, {os.cpu_count()} CPUs, cgroups: {_cgroups()}")
    tools = toolbox.installed(TOOLS)[0]
    began = time.monotonic()
    accel, why = asyncio.run(probe.usable_accel(tools.root, tools.vmlinux, PROBE_S * slowness))
    say(f"{accel.value}: {why}; the probe took {time.monotonic() - began:.1f} s")
    return "" if accel is Accel.KVM else why


def _kernel_log() -> str:
    """Its warnings and worse: a VMM that was killed or crashed is named there."""
    command = ["dmesg", "--level=emerg,alert,crit,err,warn"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(lines[-KERNEL_LINES:])


def _cgroups() -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return ", ".join(f"{one[2]} on {one[1]}" for one in mounts if one[2].startswith("cgroup"))


def _runner(name: str, command: list[str], asked: Asked) -> Callable[[], str]:
    env = {
        **os.environ,
        "REKINDLE_TEST_ACCEL": "kvm",
        "REKINDLE_TEST_SLOWNESS": str(asked.slowness),
        "REKINDLE_TEST_PROGRAMS": "/library/programs",
        "REKINDLE_TEST_LAYERS": str(LAYERS),
        "PYTHONUNBUFFERED": "1",
    }

    def run() -> str:
        argv = [word.format(results=RESULTS / name) for word in command]
        try:
            code = subprocess.run(argv, env=env, timeout=asked.within_s, check=False).returncode
        except subprocess.TimeoutExpired:
            return f"not done after {asked.within_s:.0f} s"
        return "" if code == 0 else f"exit status {code}"

    return run


if __name__ == "__main__":
    sys.exit(main())
