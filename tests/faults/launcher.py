"""The real `rekindle`, traced: `python -m tests.faults.launcher BOARD WORDS...` does what `rekindle WORDS...` does.

A trace function counts arrivals at the boundaries and does what the board is armed with. The product is not changed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextlib
import dis
import errno
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from rekindle import cli
from rekindle.driver import process, start
from tests.faults.board import Board, Fault
from tests.faults.boundaries import collect

DEAD_S = 5.0
_YIELD = dis.opmap["YIELD_VALUE"]
Trace = Callable[[FrameType, str, Any], Any]


class Tracer:
    """One for all threads."""

    def __init__(self, board: Board, state: Path, root: Path) -> None:
        self._board = board
        self._state = state
        self._wanted: dict[tuple[str, str], dict[int, int]] = {}
        for index, one in enumerate(collect(root)):
            self._wanted.setdefault((str(root / one.file), one.function), {})[one.line] = index
        self._known: dict[CodeType, Trace | None] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Trace | None:
        code = frame.f_code
        try:
            return self._known[code]
        except KeyError:
            lines = self._wanted.get((code.co_filename, code.co_qualname))
            self._known[code] = None if lines is None else self._tracer_of(lines)
            return self._known[code]

    def _tracer_of(self, lines: dict[int, int]) -> Trace:
        def trace(frame: FrameType, event: str, _: object) -> Trace:
            boundary = lines.get(frame.f_lineno) if event in ("line", "return") else None
            if boundary is not None:
                if event == "line":
                    fault = self._board.arrive(boundary)
                    if fault is not None:
                        self._do(fault)
                elif self._board.during(boundary) and _is_suspended(frame):
                    self._board.strike()
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        return trace

    def _do(self, fault: Fault) -> None:
        if fault is Fault.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault is Fault.VMM:
            self._kill_vmms()
        elif fault is Fault.RELAY:
            self._kill_relay()
        elif fault in (Fault.FULL, Fault.BROKEN):
            self._trace_again()
            number = errno.ENOSPC if fault is Fault.FULL else errno.EIO
            raise OSError(number, os.strerror(number))

    def _trace_again(self) -> None:
        """An error out of a trace function ends the tracing of its thread. (A pool thread begins anew by itself.)"""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_soon(sys.settrace, self)

    def _kill_vmms(self) -> None:
        for home in [*self._state.glob("vms/*"), *self._state.glob("builds/*")]:
            who = start.recorded(home)
            if who is not None and who.alive():
                _kill(who)

    def _kill_relay(self) -> None:
        with socket.socket(socket.AF_UNIX) as door, contextlib.suppress(OSError):
            door.connect(str(self._state / "run/relay.sock"))
            pid, _, _ = struct.unpack("3i", door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            ticks = process.started_ticks(pid)
            if ticks is not None:
                _kill(process.Identity(pid, ticks))


def _kill(who: process.Identity) -> None:
    """End it and wait until it is dead: the next line of the service shall meet that."""
    pidfd = who.open()
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not select.select([pidfd], [], [], DEAD_S)[0]:
            raise RuntimeError("a process outlived its SIGKILL")
    finally:
        os.close(pidfd)


def _is_suspended(frame: FrameType) -> bool:
    """A `return` event is also told when a coroutine only awaits."""
    return frame.f_code.co_code[frame.f_lasti] == _YIELD


def _trace_pool(tracer: Tracer) -> None:
    """A pool's thread is traced anew for every piece of work: an injected error has ended its tracing."""
    item: Any = concurrent.futures.thread._WorkItem
    run = item.run

    def traced(self: Any) -> None:
        sys.settrace(tracer)
        run(self)

    item.run = traced


def main() -> None:
    board, words = Path(sys.argv[1]), sys.argv[2:]
    state = Path(words[words.index("--state") + 1])
    tracer = Tracer(Board(board), state, Path(cli.__file__).resolve().parents[2])
    _trace_pool(tracer)
    threading.settrace(tracer)
    sys.settrace(tracer)
    sys.argv = ["rekindle", *words]
    cli.main()


if __name__ == "__main__":
    main()
