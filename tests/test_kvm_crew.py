"""The parts of `make test-kvm` are shared out, and what each machine left is in one place (docs/kvm.md)."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.kvm import crew
from scripts.kvm.__main__ import PARTS, TAKES_S
from scripts.kvm.machine import Ended, Machine

LONGEST_S = 600.0
takes_s = st.dictionaries(st.text("abcdefgh", min_size=1), st.floats(1, LONGEST_S), min_size=1, max_size=12)


class Stage(Machine):
    """A machine that is no process. `ends`: what its run comes to."""

    ends: int | None = 0

    def run(self, within_s: float) -> int:
        if self.ends is None:
            raise Ended("reset without a word")
        self.results.mkdir()
        (self.results / "parts.json").write_text(json.dumps({self.name: {"failure": "", "took_s": 1}}))
        return self.ends


def stage(folder: Path, name: str, ends: int | None = 0, kind: type[Stage] = Stage) -> Stage:
    own = folder / name
    own.mkdir()
    made = kind(name=name, toolbox=own, system=own, library=own, checkout=own, tsc_khz=1, scratch=own)
    made.ends = ends
    return made


@given(takes_s, st.integers(1, 4))
def test_each_part_is_done_once_and_no_machine_has_more_than_its_share(parts: dict[str, float], machines: int) -> None:
    shares = crew.shared_out(parts, machines)
    assert sorted(part for share in shares for part in share) == sorted(parts)
    assert all(shares)
    busy_s = [sum(parts[part] for part in share) for share in shares]
    assert max(busy_s) - min(busy_s) <= max(parts.values()) + 1e-6


def test_every_part_has_a_time_to_share_it_out_by() -> None:
    assert TAKES_S.keys() == PARTS.keys()


def test_a_machine_that_ended_early_takes_none_of_the_others_with_it(tmp_path: Path) -> None:
    machines = [stage(tmp_path, "one"), stage(tmp_path, "two", None), stage(tmp_path, "three", 2)]
    assert crew.run(machines, 1) == ["machine two: reset without a word", "machine three: 2 of its parts failed"]
    told = crew.gather(machines, tmp_path / "all")
    assert told == json.loads((tmp_path / "all/parts.json").read_text())
    assert list(told) == ["one", "three"]


def test_a_run_that_is_given_up_leaves_no_machine(tmp_path: Path) -> None:
    gone = threading.Event()

    class Endless(Stage):
        def run(self, within_s: float) -> int:
            assert gone.wait(within_s), "nobody ended it"
            raise Ended("killed")

        def kill(self) -> None:
            gone.set()

    class GivesUp(Stage):
        def run(self, within_s: float) -> int:
            raise KeyboardInterrupt

    machines = [stage(tmp_path, "one", kind=GivesUp), stage(tmp_path, "two", kind=Endless)]
    with pytest.raises(KeyboardInterrupt):
        crew.run(machines, 30)
    assert gone.is_set()


@pytest.mark.parametrize("begun", [False, True])
def test_a_machine_is_given_up_before_and_after_it_has_begun(tmp_path: Path, begun: bool) -> None:
    class Sleeps(Machine):
        def _line(self) -> list[str]:
            return ["/bin/sleep", "60"]

    machine = Sleeps(
        name="", toolbox=tmp_path, system=tmp_path, library=tmp_path, checkout=tmp_path, tsc_khz=1, scratch=tmp_path
    )
    if begun:
        threading.Timer(0.1, machine.kill).start()
    else:
        machine.kill()
    with pytest.raises(Ended, match="given up"):
        machine.run(50)
