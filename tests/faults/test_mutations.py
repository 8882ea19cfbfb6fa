"""The tests can fail: each mutation of the product is noticed by the test that is named for it."""

from __future__ import annotations

import pytest

from tests.faults.boundaries import ROOT
from tests.faults.mutations import MUTATIONS, Mutation, apply_to, survives

#: Noticed within seconds, without a VM.
QUICK = ("a late fact moves a row", "a process is ended by its pid alone")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_every_mutation_is_of_this_source(mutation: Mutation) -> None:
    before = (ROOT / mutation.file).read_text()
    assert apply_to(before, mutation) != before


@pytest.mark.parametrize("mutation", [one for one in MUTATIONS if one.name in QUICK], ids=lambda one: one.name)
def test_a_quick_mutation_is_noticed(mutation: Mutation) -> None:
    assert (why := survives(mutation)) is None, why


@pytest.mark.long
@pytest.mark.parametrize("mutation", [one for one in MUTATIONS if one.name not in QUICK], ids=lambda one: one.name)
def test_every_mutation_is_noticed(mutation: Mutation) -> None:
    assert (why := survives(mutation)) is None, why
