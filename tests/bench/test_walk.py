"""The soak's model: it agrees with its guests about every byte, and a lost or torn state does not pass it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bench.guests.walker.walker import Walker
from bench.speaker import ROOT, compile_go
from bench.walk import Answer, Ledger, Lost, Sums, Walk, answer_of
from tests.waiting import until

SEED = "a seed"
GROWN = 34  #: a step after both areas have their full size

# -- the guests --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fork", [False, True])
def test_the_python_guest_and_the_model_agree_about_every_byte(tmp_path: Path, fork: bool) -> None:
    guest, walk = Walker(SEED, str(tmp_path / "walk"), fork=fork), Walk(SEED)
    assert answer_of(guest.state()) == Answer(0, walk.sums(0))
    for step in range(1, GROWN + 1):
        said = answer_of(guest.step(step))
        if step in (1, 2, GROWN):
            assert said == Answer(step, walk.sums(step))
    assert answer_of(guest.step(GROWN)) == answer_of(guest.state()), "a step is made once"
    assert answer_of(guest.step(GROWN + 2)).counter == GROWN, "no step is left out"


@contextmanager
def go_guest(folder: Path) -> Iterator[int]:
    """The Go guest on a port of loopback."""
    program = folder / "app"
    compile_go(ROOT / "bench/guests/static-walker", ".", program)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = int(free.getsockname()[1])
    own = {"LISTEN": "127.0.0.1", "PORT": str(port), "WALK": str(folder / "walk")}
    with subprocess.Popen([program], env=os.environ | own) as process:
        try:
            until(lambda: listens(port), 10, "the guest listens")
            yield port
        finally:
            process.kill()


def listens(port: int) -> bool:
    with closing(socket.socket()) as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, path: str) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", path)
        return answer_of(json.loads(connection.getresponse().read()))


@pytest.mark.slow
def test_the_go_guest_and_the_model_agree_about_every_byte(tmp_path: Path) -> None:
    walk = Walk("a-seed")
    with go_guest(tmp_path) as port:
        assert ask(port, "/begin?seed=a-seed") == Answer(0, walk.sums(0))
        for step in range(1, GROWN + 1):
            said = ask(port, f"/step?to={step}")
            if step in (1, 2, GROWN):
                assert said == Answer(step, walk.sums(step))
        assert ask(port, "/begin?seed=another") == said, "a guest begins once"


# -- the ledger --------------------------------------------------------------------------------------------------------


class Guest:
    """A ledger and the answers of a guest that lives as it should, at any step one likes."""

    def __init__(self) -> None:
        self.ledger = Ledger(SEED)
        self.now_s = 0.0

    def says(self, step: int, *, asked_at_s: float | None = None) -> bool:
        at_s = self.now_s if asked_at_s is None else asked_at_s
        return self.ledger.answered(Answer(step, self.ledger.walk.sums(step)), at_s)

    def walks_to(self, step: int) -> Guest:
        while self.ledger.acked < step:
            self.says(self.ledger.stepping())
        return self

    def sleeps(self) -> Guest:
        self.ledger.slept()
        return self

    def is_struck(self) -> Guest:
        assert self.ledger.strike()
        self.ledger.dead(self.now_s)
        self.now_s += 1
        return self


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_a_lost_update_is_lost(guest: Guest) -> None:
    guest.walks_to(3)
    with pytest.raises(Lost, match="is at step 2, but step 3 was answered"):
        guest.says(2)


def test_a_step_that_nobody_asked_for_is_lost(guest: Guest) -> None:
    guest.walks_to(3)
    with pytest.raises(Lost, match="only 3 were asked for"):
        guest.says(4)


def test_a_torn_state_is_lost(guest: Guest) -> None:
    """Memory of one moment, disk of another; each was right once."""
    walk = guest.walks_to(3).ledger.walk
    with pytest.raises(Lost, match="memory is that of step 3 and its disk that of step 2"):
        guest.ledger.answered(Answer(3, Sums(walk.sums(3).memory, walk.sums(2).disk)), 0)
    with pytest.raises(Lost, match="memory is that of step 2 and its disk that of step 3"):
        guest.ledger.answered(Answer(3, Sums(walk.sums(2).memory, walk.sums(3).disk)), 0)


def test_a_torn_state_after_a_fall_is_lost(guest: Guest) -> None:
    """The disk went on after the sleep, memory fell back to it."""
    guest.walks_to(3).sleeps().walks_to(5).is_struck()
    walk = guest.ledger.walk
    with pytest.raises(Lost, match="memory is that of step 3 and its disk that of step 5"):
        guest.ledger.answered(Answer(3, Sums(walk.sums(3).memory, walk.sums(5).disk)), guest.now_s)


def test_a_byte_that_is_another_is_lost(guest: Guest) -> None:
    guest.walks_to(1)
    with pytest.raises(Lost, match="memory is that of step 1 and its disk of no step"):
        guest.ledger.answered(Answer(1, Sums(guest.ledger.walk.sums(1).memory, "0" * 64)), 0)


def test_a_request_in_flight_may_or_may_not_have_been_carried_out(guest: Guest) -> None:
    guest.walks_to(3)
    assert guest.ledger.stepping() == 4
    guest.says(3)
    guest.says(4)
    with pytest.raises(Lost):
        guest.says(3)


def test_a_killed_vmm_leads_to_the_last_sleep_and_nowhere_else(guest: Guest) -> None:
    assert guest.walks_to(2).sleeps().walks_to(4).sleeps().walks_to(6).is_struck().says(4)
    guest.walks_to(6).is_struck()
    with pytest.raises(Lost, match=r"is at step 2, but it slept at 4\.\.4"):
        guest.says(2)


def test_a_killed_vmm_cannot_have_kept_what_came_after_the_sleep(guest: Guest) -> None:
    guest.walks_to(2).sleeps().walks_to(5).is_struck()
    with pytest.raises(Lost, match="is at step 5, but it slept at"):
        guest.says(5)


def test_no_fall_without_a_strike(guest: Guest) -> None:
    guest.walks_to(2).sleeps().walks_to(5)
    with pytest.raises(Lost, match="no VMM was killed"):
        guest.says(2)


def test_one_strike_excuses_one_fall(guest: Guest) -> None:
    assert guest.walks_to(2).sleeps().walks_to(4).is_struck().says(2)
    guest.walks_to(4)
    with pytest.raises(Lost, match="no VMM was killed"):
        guest.says(2)


def test_an_answer_from_before_the_strike_is_not_one_from_after_it(guest: Guest) -> None:
    guest.walks_to(2).sleeps().walks_to(4)
    asked_at_s = guest.now_s - 1
    guest.is_struck()
    assert not guest.says(4, asked_at_s=asked_at_s)
    assert guest.says(2)


def test_a_sleep_cut_off_by_a_strike_may_count_or_not(guest: Guest) -> None:
    for step in (2, 4):
        other = Guest().walks_to(2).sleeps().walks_to(4).is_struck().sleeps()
        other.says(step)
        with pytest.raises(Lost):
            other.is_struck().says(6 - step)


def test_a_step_held_at_the_endpoint_is_made_by_the_vm_that_fell_back(guest: Guest) -> None:
    guest.walks_to(2).sleeps().is_struck()
    assert guest.ledger.stepping() == 3
    assert not guest.says(3)
    guest.walks_to(4).is_struck()
    assert guest.says(2)


def test_a_vm_that_is_killed_while_it_wakes_for_a_step_may_go_on_behind_it() -> None:
    """The step was asked for before the kill and made after it, by the VM that was woken once more; or before it."""
    for goes_on in (True, False):
        guest = Guest().walks_to(2).sleeps()
        asked_at_s = guest.now_s - 1
        assert guest.ledger.stepping() == 3
        guest.is_struck()
        assert not guest.says(3, asked_at_s=asked_at_s)
        guest.ledger.stepping()
        assert guest.says(4 if goes_on else 2) is not goes_on
        with pytest.raises(Lost):
            guest.says(1)


def test_a_vm_that_never_slept_is_not_struck(guest: Guest) -> None:
    assert not guest.walks_to(2).ledger.strike()
    assert not guest.ledger.struck
