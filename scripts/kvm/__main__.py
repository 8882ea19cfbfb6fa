"""`python -m scripts.kvm [PART...]`: the parts below, or all of them, with `accel=kvm` in the nested machine.

`--command` runs one shell line there instead. Exit status 0 only when every part ended well.
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
from pathlib import Path

from rekindle import binaries, config
from rekindle.driver import host
from rekindle.image import toolbox
from scripts.kvm import disks, say
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
        tar = scratch / "checkout.tar"
        disks.checkout(tar, {"scripts/kvm/asked.json": json.dumps(_asked(options))})
        machine = Machine(
            toolbox=toolbox.installed(tools_dir)[0].root,
            system=system,
            library=library,
            checkout=tar,
            tsc_khz=asyncio.run(host.tsc_khz(binaries.find("rekindle-jail"))),
            scratch=scratch,
        )
        _say(f"starting the nested machine ({time.monotonic() - began:.0f} s; at most {options.minutes} minutes)")
        failed = machine.run(options.minutes * 60)
        _summary(scratch / "results", time.monotonic() - began)
        if options.results:
            shutil.copytree(scratch / "results", options.results, dirs_exist_ok=True)
        return 1 if failed else 0
    finally:
        if not options.keep:
            shutil.rmtree(scratch)


def _options() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rekindle/kvm"
    parser = argparse.ArgumentParser(prog="python -m scripts.kvm", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--command", help="a shell line to run inside instead of the parts")
    parser.add_argument("--minutes", type=int, default=90, help="end the machine after so many")
    parser.add_argument("--slowness", type=float, default=SLOWNESS, help="the tests' deadlines are multiplied by it")
    parser.add_argument("--cache", type=Path, default=cache)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, help="a folder for junit files and parts.json")
    parser.add_argument("--keep", action="store_true", help="leave overlays, console and results where they are")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    return options


def _asked(options: argparse.Namespace) -> dict[str, object]:
    parts = {name: PARTS[name] for name in options.parts or PARTS}
    if options.command:
        parts = {"command": ["/bin/sh", "-c", options.command]}
    return {"parts": parts, "slowness": options.slowness, "within_s": options.minutes * 60}


def _summary(results: Path, took_s: float) -> None:
    for name, told in json.loads((results / "parts.json").read_text()).items():
        _say(f"{name}: {told['failure'] or 'ok'} ({told['took_s']} s)")
    _say(f"all in {took_s / 60:.1f} minutes")


def _say(line: str) -> None:
    say(f"test-kvm: {line}")


if __name__ == "__main__":
    sys.exit(main())
