"""What a bench says of its series."""

from __future__ import annotations

import pytest

from bench.figures import Guest, median, p95, summary, table


@pytest.fixture
def guest() -> Guest:
    made = Guest("example")
    for ms in range(1, 21):
        made.add("launch", ms / 1000)
        made.add("bare", ms / 4000)
    made.add("cold", 0.21)
    return made


def test_p95_is_a_value_that_was_measured_and_only_one_in_twenty_is_above() -> None:
    assert p95(range(1, 21)) == 19
    assert p95(range(1, 101)) == 95
    assert p95([7]) == 7


def test_ratios_are_of_medians(guest: Guest) -> None:
    assert median(guest.ms["launch"]) == pytest.approx(10.5)
    assert guest.ratio("launch", "bare") == pytest.approx(4)
    assert guest.ratio("launch", "never measured") is None


def test_the_summary_keeps_every_value(guest: Guest) -> None:
    launch = summary(guest, {"launch": "bare"}, "cold")["launch"]
    assert isinstance(launch, dict)
    assert launch["ms"] == [float(ms) for ms in range(1, 21)]
    assert (launch["rounds"], launch["p95_ms"], launch["to_floor"], launch["of_cold_boot"]) == (20, 19, 4, 0.05)


def test_the_table_has_a_row_a_series(guest: Guest) -> None:
    rows = table(guest, {"launch": "bare"}, "cold").splitlines()
    assert rows[2] == "| launch | 20 | 10.5 | 19.0 | x 4.00 | 1/20 |"
    assert rows[4] == "| cold | 1 | 210.0 | 210.0 |  |  |"
