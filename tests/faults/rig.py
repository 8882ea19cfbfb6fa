"""A traced service for fault tests: the cloud of the system tests, its boundaries, and faults that strike at them."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.exceptions

from rekindle import unixsock
from rekindle.driver.process import Identity
from tests import leaks
from tests.e2e.cloud import Cloud, Vm
from tests.e2e.conftest import _is_the_service
from tests.faults.board import Board, Strike
from tests.faults.boundaries import Boundary, collect
from tests.waiting import a_moment, until

SETTLES_S = 120.0
QUIET_S = 0.4
OVER = ("RUNNING", "SUSPENDED", "TERMINATED")
_LOG_CHARS = 6000


@dataclass
class Rig(Cloud):
    """Every boundary of it is counted on `board`; `boundaries` says which is which."""

    boundaries: list[Boundary] = field(default_factory=collect)
    folder: Path = Path("/nonexistent")  #: where the board lies
    board: Board = field(init=False)
    known: set[str] = field(default_factory=set)  #: names of machines and builds: what groups of ours are called
    deaths: int = 0  #: of the service, since a strike was armed

    def __post_init__(self) -> None:
        path = self.folder / "board"
        self.board = Board(path, len(self.boundaries))
        self.program = (sys.executable, "-m", "tests.faults.launcher", path)

    def _up(self) -> bool:
        if not self.lives:
            raise AssertionError(f"serve ended:\n{self.log()[-_LOG_CHARS:]}")
        return bool(self.operator("/v1/status"))

    def operator(self, path: str, method: str = "GET") -> dict[str, Any] | None:
        """What the operator's socket answers; None while there is no service, or one that is ending."""
        door = http.client.HTTPConnection("operator", timeout=60)
        try:
            door.sock = unixsock.connect(self.state / "run/operator.sock")
            door.sock.settimeout(60)
            door.request(method, path)
            found: dict[str, Any] = json.loads(door.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            door.close()
        return found

    def start_if_dead(self) -> None:
        while not self.lives:
            before = self.board.struck
            self.process = None
            self.deaths += 1
            try:
                self.start()
            except AssertionError:
                if self.board.struck == before:
                    raise  # else it was struck while it started

    def afresh(self) -> None:
        """After a failure: end all that runs, so that the next life begins on clean ground."""
        self.board.disarm()
        self.start_if_dead()
        self.down()
        self.start()

    # -- rows, read from the file: there is not always a service to ask

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/rekindle.db?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return db.execute(query, values).fetchall()

    def vm_row(self, vm_id: str) -> sqlite3.Row:
        (row,) = self.rows("SELECT phase, state_reason, handle, snapshot FROM microvm WHERE id = ?", vm_id)
        return row

    def vm_ids(self) -> set[str]:
        return {row["id"] for row in self.rows("SELECT id FROM microvm")}

    def remember(self) -> None:
        """Note the names of what is there now; rows of images go with them."""
        self.known |= self.vm_ids() | {row["id"] for row in self.rows("SELECT id FROM build")}
        self.known |= {home.name for home in self.state.glob("builds/*")}

    # -- strikes

    def struck(
        self,
        strikes: Sequence[Strike],
        act: Callable[[], object],
        settled: Callable[[], bool],
        within_s: float = SETTLES_S,
    ) -> Sequence[Strike]:
        """Do `act` with `strikes` armed, let all settle, starting the service again when it dies; those that struck.

        An answer that got lost is no failure: the caller looks what became of the call.
        """
        self.deaths = 0
        self.board.arm(*strikes)
        self._beside(act, lambda: self._over(strikes, settled), within_s, "all is settled")
        did = self.board.struck
        self.board.disarm()
        return strikes[:did]

    def ask(self, call: Callable[[], object]) -> None:
        """`call`, whose answer does not matter; a service that dies in it is started again."""

        def served() -> bool:
            self.start_if_dead()
            return True

        self._beside(call, served, SETTLES_S, "an answer")

    def _beside(self, call: Callable[[], object], done: Callable[[], bool], within_s: float, what: str) -> None:
        """`call` in a thread: it may wait at a socket that nobody serves until `done`, asked here, starts a service."""
        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(call)
            until(lambda: done() and acting.done(), within_s, what)
            with contextlib.suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                acting.result()

    def _over(self, strikes: Sequence[Strike], settled: Callable[[], bool]) -> bool:
        """Nothing is owed and nothing of the works moves any more: what follows behind the row has happened too."""
        self.start_if_dead()
        if not settled():
            return False
        if self.board.struck == len(strikes) > 0:
            return self.deaths >= sum(one.fault.ends_service for one in strikes)
        before = self.board.counts()
        a_moment(QUIET_S)
        return settled() and self.board.counts() == before and self.lives

    def rests(self, vm_id: str) -> bool:
        """No work is owed, and a VM that is said to run does."""
        row = self.vm_row(vm_id)
        if row["phase"] != "RUNNING":
            return row["phase"] in OVER
        handle = json.loads(row["handle"])
        return Identity(handle["pid"], handle["started_ticks"]).alive()

    def why(self, vm: Vm) -> str:
        """What is known of a VM, for a failure."""
        told = self.operator(f"/v1/microvms/{vm.id}") or {}
        events = [(one["what"], one["why"]) for one in told.get("events", [])]
        return f"{dict(self.vm_row(vm.id))}\nevents (newest first): {events}\n{self.log()[-_LOG_CHARS:]}"

    # -- leaks

    @contextlib.contextmanager
    def nothing_left(self, *more: str) -> Iterator[None]:
        """After the block no process, file, mount, cgroup or socket is there that was not before it."""
        allowed = [*leaks.ALLOWED, "serve.log", *more]
        self.close_clients()
        before = leaks.snapshot(self.state, allowed=allowed)
        yield
        self.close_clients()
        last: list[leaks.Leak] = []

        def clean() -> bool:
            found = leaks.compare(before, leaks.snapshot(self.state, allowed=allowed))
            try:
                last[:] = [leak for leak in found if not _is_the_service(leak, self) and self._ours(leak)]
            except OSError:  # a relay that was struck is being started again
                return False
            return not last

        try:
            until(clean, 15, "nothing is left behind")
        except AssertionError as err:
            raise AssertionError("left behind:\n" + "\n".join(map(str, last))) from err

    def _ours(self, leak: leaks.Leak) -> bool:
        """Groups of other services on this machine come and go."""
        if leak.kind != "cgroup":
            return True
        self.remember()
        return any(one in leak.what for one in self.known)


def named(boundaries: Sequence[Boundary], strikes: Sequence[Strike]) -> str:
    return ", then ".join(f"{one.fault.name} at {boundaries[one.boundary]}" for one in strikes) or "no fault"
