"""Every await and every durable step of the works can be the last one: the end state is right and nothing is left."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.board import Fault
from tests.faults.boundaries import FILES, LEFT_OUT, ROOT, collect
from tests.faults.campaign import Campaign
from tests.faults.images import ImageCampaign
from tests.faults.record import Asked, Key, never_met
from tests.faults.rig import Rig
from tests.faults.unreached import UNREACHED

SAMPLE_LIVES = 2


def test_boundaries_are_found_where_they_are(tmp_path: Path) -> None:
    """One of every kind, and nothing of a function within another."""
    (tmp_path / "some.py").write_text(
        "class C:\n"
        "    async def f(self, path):\n"
        "        def inner():\n"
        "            path.unlink()\n"
        "        x = 1\n"
        "        await g(x)\n"
        "        async with x: path.rename(x)\n"
        "        return [y async for y in x]\n"
    )
    found = [(one.function, one.number, one.line, one.awaits) for one in collect(tmp_path, ("some.py",))]
    assert found == [("C.f", 1, 6, True), ("C.f", 2, 7, True), ("C.f.<locals>.inner", 1, 4, False)]


def test_no_file_of_node_and_driver_is_forgotten() -> None:
    for folder, left_out in LEFT_OUT.items():
        there = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        looked_at = {Path(file).stem for file in FILES if file.startswith(folder)}
        assert looked_at | set(left_out) == there
        assert not looked_at & set(left_out)


def test_the_table_of_the_unreached_is_of_this_source() -> None:
    there = {one.key for one in collect()}
    assert [key for key in UNREACHED if key not in there] == []
    assert len(there) > 250, f"the works at {ROOT} have no boundaries"


def test_every_unreached_boundary_is_one_of_a_test_that_is_there() -> None:
    for reason in UNREACHED.values():
        file, _, test = reason.rpartition(": ")[2].partition("::")
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), reason


def test_a_sample_of_all_faults_at_all_boundaries(rig: Rig, baked: str, seed: int) -> None:
    campaign = Campaign(rig, baked, seed)
    campaign.discover(("exit",))
    assert len(campaign.met["suspend"]) > 50, "the tracer does not see the works"
    lives = [plan for plan in campaign.first() if plan[0] in ("exit",)]
    campaign.run(lives[:SAMPLE_LIVES])
    assert not campaign.failures, "\n\n".join(campaign.failures)
    assert campaign.struck, "no fault struck"


@pytest.mark.long
@pytest.mark.campaign
def test_every_fault_at_every_boundary(rig: Rig, baked: str, seed: int) -> None:
    """All of them with FAULTS=all (`make test-faults`); else SIGKILL everywhere, and one other fault a boundary.

    In parts with FAULTS, FAULTS_OF and FAULTS_RECORD (record.py); when all are in, none may have been missed.
    """
    asked = Asked.from_environment()
    lives, bakes = Campaign(rig, baked, seed), ImageCampaign(rig, seed)
    if "microvms" in asked.halves:
        lives.discover()
        _all_lives(lives, asked)
    if "images" in asked.halves:
        bakes.discover()
        bakes.run(asked.kinds, every=asked.every)
    print(*lives.report(bakes.struck), sep="\n")
    print(*(f"missed: {told}" for told in lives.told_missed()), sep="\n")
    never = _never_met(asked, rig)
    failures = [*lives.failures, *bakes.failures]
    assert not failures, "\n\n".join(failures)
    if never is None:
        print("boundaries never met: to be judged when the other parts are in (FAULTS_RECORD)")
        return
    assert never - set(UNREACHED) == set(), "never met, and no reason in unreached.py"
    assert set(UNREACHED) - never == set(), "in unreached.py, but met"


def _all_lives(lives: Campaign, asked: Asked) -> None:
    if asked.every:
        lives.run(lives.first())
        lives.run(lives.second((Fault.KILL, Fault.FULL)))
        return
    if "kill" in asked.kinds:
        lives.run(lives.first((Fault.KILL,)))
    if "others" in asked.kinds:
        lives.run(lives.one_each())
    lives.run(lives.second((Fault.KILL,)))


def _never_met(asked: Asked, rig: Rig) -> set[Key] | None:
    counts: Counter[Key] = Counter()
    for boundary, count in zip(rig.boundaries, rig.board.counts(), strict=True):
        counts[boundary.key] += count
    return never_met(asked, counts)
