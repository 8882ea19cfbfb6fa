"""Our Go programs: found where they are, said how to get when they are not, the same bytes for the same sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle import binaries
from rekindle.core.errors import MachineError

ROOT = Path(__file__).resolve().parent.parent


def test_the_first_place_that_has_it_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
        (place / "rekindle-relay").write_text("#!/bin/sh\n")
    (second / "rekindle-relay").chmod(0o755)
    assert binaries.find("rekindle-relay", (first, second)) == second / "rekindle-relay"  # first: not executable
    (first / "rekindle-relay").chmod(0o755)
    assert binaries.find("rekindle-relay", (first, second)) == first / "rekindle-relay"


def test_a_program_that_is_not_built_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"rekindle-agent is not built .*make go"):
        binaries.find("rekindle-agent", (tmp_path,))


@pytest.mark.slow
def test_a_build_makes_every_program_static_and_does_not_write_the_same_again(tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "scripts/build_go.py"), str(tmp_path)]
    subprocess.run(argv, check=True, timeout=300)
    for name in binaries.NAMES:
        data = binaries.find(name, (tmp_path,)).read_bytes()
        assert data[:4] == b"\x7fELF"
        assert b"/lib64/ld-linux" not in data[:4096]
        assert str(ROOT).encode() not in data
        os.utime(tmp_path / name, (1, 1))
    subprocess.run(argv, check=True, timeout=300)
    assert {(tmp_path / name).stat().st_mtime for name in binaries.NAMES} == {1.0}
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(binaries.NAMES)
