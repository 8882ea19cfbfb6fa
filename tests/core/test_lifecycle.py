"""The table is whole: nothing is stuck, nothing is owed twice, everything has a name on the wire (style C1)."""

from __future__ import annotations

import pytest

from rekindle.core.errors import Invalid, Refused, Stale
from rekindle.core.lifecycle import NEXT, OWES, WIRE, Ask, Fact, Phase, Work, advance

#: The fact that says that a work is done; another way out of the phase is a failure of that work or an ask.
COMPLETES = {
    Work.START: Fact.STARTED,
    Work.SUSPEND: Fact.SUSPENDED,
    Work.RESUME: Fact.RESUMED,
    Work.STOP: Fact.STOPPED,
}
ALL = [*Ask, *Fact]


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_reaches_its_end(phase: Phase) -> None:
    reached, new = set[Phase](), {phase}
    while new:
        reached |= new
        new = {after for (before, _), after in NEXT.items() if before in new} - reached
    assert Phase.TERMINATED in reached


@pytest.mark.parametrize("phase", Phase)
def test_whoever_lives_may_be_terminated_at_once(phase: Phase) -> None:
    ends = (Phase.TERMINATING, Phase.TERMINATED)
    assert advance("vm", phase, Ask.TERMINATE) in ends


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_owes_work_exactly_when_a_fact_completes_it(phase: Phase) -> None:
    completing = {fact for fact in COMPLETES.values() if (phase, fact) in NEXT}
    owed = {COMPLETES[OWES[phase]]} if phase in OWES else set()
    assert completing == owed


def test_every_work_is_owed_by_one_phase() -> None:
    assert sorted(OWES.values(), key=str) == sorted(Work, key=str)


def test_every_phase_has_a_name_on_the_wire() -> None:
    assert set(WIRE) == set(Phase)
    assert WIRE[Phase.RESUMING] == "SUSPENDED"


def test_every_fact_is_possible_somewhere() -> None:
    assert {on for _, on in NEXT} == set(ALL)


def test_nothing_leaves_the_end() -> None:
    assert {after for (before, _), after in NEXT.items() if before is Phase.TERMINATED} == {Phase.TERMINATED}


@pytest.mark.parametrize("on", ALL)
@pytest.mark.parametrize("phase", Phase)
def test_what_the_table_does_not_list_is_refused_or_stale(phase: Phase, on: Ask | Fact) -> None:
    if (phase, on) in NEXT:
        assert advance("vm", phase, on) is NEXT[phase, on]
        return
    over = phase in (Phase.TERMINATING, Phase.TERMINATED)
    expected = Stale if isinstance(on, Fact) else Invalid if over else Refused
    with pytest.raises(expected, match="vm"):
        advance("vm", phase, on)


def test_a_refusal_shows_the_name_that_callers_know() -> None:
    with pytest.raises(Refused, match="Cannot suspend MicroVM vm while it is SUSPENDED"):
        advance("vm", Phase.RESUMING, Ask.SUSPEND)


def test_keys_of_different_enums_never_meet() -> None:
    assert len({*Ask, *Fact, *Work, *Phase}) == len(Ask) + len(Fact) + len(Work) + len(Phase)
