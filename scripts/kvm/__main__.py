"""`python -m scripts.kvm [PART...]`: the parts below, or all of them, with `accel=kvm` in nested machines.

`--command` runs one shell line in one of them instead. Exit status 0 only when every part ended well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rekindle import binaries, config
from rekindle.driver import host
from rekindle.image import toolbox
from scripts.kvm import crew, disks, say
from scripts.kvm.machine import Machine

PYTEST = [
    ".venv/bin/python",
    "-m",
    "pytest",
    "-p",
    "no:cacheprovider",
    "-v",
    "--durations=5",
    "--junitxml={results}.xml",
]
PARTS = {
    "driver": [*PYTEST, "tests/driver", "-m", "not long"],
    "demo": [".venv/bin/python", "-m", "scripts.kvm.demo"],
    "clones": [*PYTEST, "tests/e2e/test_clones.py", "tests/e2e/test_hazards.py"],
    "restarts": [*PYTEST, "tests/e2e/test_restarts.py"],
    "faults": [*PYTEST, "tests/e2e/test_faults.py", "-m", "not long"],
    "generations": ["env", "REKINDLE_TEST_GENERATIONS=300", *PYTEST, "-s", "tests/driver/test_generations.py"],
}
#: About how long each takes in one machine, to share them out.
TAKES_S = {"driver": 400, "demo": 250, "clones": 600, "restarts": 800, "faults": 1000, "generations": 1400}
MACHINES = 2
SLOWNESS = 10


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the scratch folder goes then too
    began = time.monotonic()
    tools_dir = config.load().tools_dir
    options.cache.mkdir(parents=True, exist_ok=True)
    system = disks.system(options.cache, _say)
    library = disks.library(options.cache, tools_dir, _say)
    scratch = Path(tempfile.mkdtemp(prefix="rekindle-kvm-", dir=options.scratch))
    try:
        made = partial(
            Machine,
            toolbox=toolbox.installed(tools_dir)[0].root,
            system=system,
            library=library,
            tsc_khz=asyncio.run(host.tsc_khz(binaries.find("rekindle-jail"))),
        )
        shares = _shares(options)
        names = [str(number) for number in range(1, len(shares) + 1)] if len(shares) > 1 else [""]
        machines = [_machine(made, scratch, options, *one) for one in zip(names, shares, strict=True)]
        _say(f"starting {len(machines)} ({time.monotonic() - began:.0f} s; at most {options.minutes} minutes)")
        failures = crew.run(machines, options.minutes * 60)
        _summary(crew.gather(machines, options.results or scratch / "all"), failures, time.monotonic() - began)
        return 1 if failures else 0
    finally:
        if not options.keep:
            shutil.rmtree(scratch)


def _shares(options: argparse.Namespace) -> list[Mapping[str, list[str]]]:
    """The commands of each machine, by part."""
    if options.command:
        return [{"command": ["/bin/sh", "-c", options.command]}]
    takes_s = {name: TAKES_S[name] for name in options.parts or PARTS}
    return [{name: PARTS[name] for name in parts} for parts in crew.shared_out(takes_s, options.machines)]


def _machine(
    made: Callable[..., Machine],
    scratch: Path,
    options: argparse.Namespace,
    name: str,
    parts: Mapping[str, list[str]],
) -> Machine:
    """With a folder of its own, and in it the checkout with what it is asked for."""
    own = scratch / f"machine{name}"
    own.mkdir()
    asked = {"parts": parts, "slowness": options.slowness, "within_s": options.minutes * 60}
    disks.checkout(own / "checkout.tar", {"scripts/kvm/asked.json": json.dumps(asked)})
    _say(f"machine {name}: {', '.join(parts)}")
    return made(name=name, checkout=own / "checkout.tar", scratch=own)


def _options() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rekindle/kvm"
    parser = argparse.ArgumentParser(prog="python -m scripts.kvm", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--command", help="a shell line to run inside instead of the parts")
    parser.add_argument("--machines", type=int, default=MACHINES, help="as many at once; each takes one CPU and 4 GiB")
    parser.add_argument("--minutes", type=int, default=90, help="end the machines after so many")
    parser.add_argument("--slowness", type=float, default=SLOWNESS, help="the tests' deadlines are multiplied by it")
    parser.add_argument("--cache", type=Path, default=cache)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, help="a folder for junit files and parts.json")
    parser.add_argument("--keep", action="store_true", help="leave overlays, console and results where they are")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    return options


def _summary(told: Mapping[str, Mapping[str, object]], failures: list[str], took_s: float) -> None:
    for name, one in told.items():
        _say(f"{name}: {one['failure'] or 'ok'} ({one['took_s']} s)")
    for failure in failures:
        _say(failure)
    _say(f"all in {took_s / 60:.1f} minutes")


def _say(line: str) -> None:
    say(f"test-kvm: {line}")


if __name__ == "__main__":
    sys.exit(main())
