"""Run one command to its end: bounded in time and output, its whole process group gone when it is not wanted any more.

For programs that work and finish (buildah, mmdebstrap, mkfs). Programs that live on (a VMM, the relay) have
owners of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rekindle.core.errors import MachineError

OnLine = Callable[[str], None]

STDERR_TAIL_BYTES = 64 * 1024
STDOUT_MAX_BYTES = 64 * 1024 * 1024
LINE_MAX_BYTES = 64 * 1024
_SHOWN_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. `code` is negative for a signal, as in `subprocess`."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes  #: the last STDERR_TAIL_BYTES


class CommandFailed(MachineError):
    """A command could not be started, ended with another code than 0, or broke its deadline or output bound.

    `code` is None when it never ended by itself. The message has the command and the end of its error output.
    """

    def __init__(self, argv: Sequence[str], code: int | None, why: str, stderr: bytes = b"") -> None:
        said = stderr[-_SHOWN_BYTES:].decode(errors="replace").strip()
        super().__init__(f"{_shown(argv)}: {why}" + (f": {said}" if said else ""))
        self.argv = tuple(argv)
        self.code = code
        self.stderr = stderr


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    deadline_s: float,
    on_line: OnLine | None = None,
) -> Finished:
    """Run `argv` and wait until it has ended and closed its output.

    `env` replaces the environment; `on_line` gets each line of both outputs as it comes, without its line end.
    A code other than 0 is returned, not raised. Raises CommandFailed when the program cannot be started, is not over
    after `deadline_s`, or prints too much; then, and when the caller is cancelled or `on_line` raises, the whole
    process group has been killed before this returns.
    """
    loop = asyncio.get_running_loop()
    output = _Output(loop, on_line)
    transport = await _spawn(loop, output, argv, env, cwd, wants_stdin=stdin is not None)
    try:
        if stdin is not None:
            _feed(transport, stdin)
        async with asyncio.timeout(deadline_s) as timer:
            await output.ended
    except TimeoutError as err:
        if not timer.expired():
            raise
        raise CommandFailed(argv, None, f"not done after {deadline_s:g} s", output.stderr) from err
    except _TooMuch as err:
        raise CommandFailed(argv, None, str(err), output.stderr) from err
    finally:
        await _end(transport, output)
    return Finished(tuple(argv), output.code, bytes(output.stdout), output.stderr)


async def run_ok(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    deadline_s: float,
    on_line: OnLine | None = None,
) -> bytes:
    """As `run`, but only code 0 is success: returns standard output, else raises CommandFailed."""
    done = await run(argv, env=env, cwd=cwd, stdin=stdin, deadline_s=deadline_s, on_line=on_line)
    if done.code != 0:
        raise CommandFailed(argv, done.code, _how(done.code), done.stderr or done.stdout)
    return done.stdout


class _TooMuch(Exception):
    """More standard output than anyone can want; its text says the bound."""


class _Output(asyncio.SubprocessProtocol):
    """Collects both outputs. `ended` is set when the process is over and both are closed, or by the first failure."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_line: OnLine | None) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self.gone = asyncio.Event()
        self.stdout = bytearray()
        self._stderr = bytearray()
        self._lines = {1: _Lines(on_line), 2: _Lines(on_line)}
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def stderr(self) -> bytes:
        return bytes(self._stderr[-STDERR_TAIL_BYTES:])

    @property
    def code(self) -> int:
        code = None if self._transport is None else self._transport.get_returncode()
        if code is None:
            raise RuntimeError("asked for the exit code of a process that has not ended")
        return code

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.SubprocessTransport", transport)  # uvloop's is one in all but its base class
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if self.ended.done():
            return
        try:
            self._take(fd, data)
        except Exception as err:  # noqa: BLE001 - belongs to the caller, who waits for `ended`
            self.ended.set_exception(err)

    def _take(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self.stdout += data
            if len(self.stdout) > STDOUT_MAX_BYTES:
                raise _TooMuch(f"printed more than {STDOUT_MAX_BYTES} bytes")
        else:
            self._stderr += data
            if len(self._stderr) > 2 * STDERR_TAIL_BYTES:
                del self._stderr[:-STDERR_TAIL_BYTES]
        self._lines[fd].take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        if self.ended.done():
            return
        try:
            for lines in self._lines.values():
                lines.flush()
        except Exception as err:  # noqa: BLE001 - as above
            self.ended.set_exception(err)
        else:
            self.ended.set_result(None)


class _Lines:
    """Cuts a stream of bytes into lines; a line longer than LINE_MAX_BYTES comes in pieces."""

    def __init__(self, on_line: OnLine | None) -> None:
        self._on_line = on_line
        self._rest = b""

    def take(self, data: bytes) -> None:
        if self._on_line is None:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line)
        if len(self._rest) > LINE_MAX_BYTES:
            self.flush()

    def flush(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        if self._on_line is not None:
            self._on_line(line.decode(errors="replace").rstrip("\r"))


async def _spawn(
    loop: asyncio.AbstractEventLoop,
    output: _Output,
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    *,
    wants_stdin: bool,
) -> asyncio.SubprocessTransport:
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        transport, _ = await loop.subprocess_exec(
            lambda: output,
            *argv,
            stdin=pipe if wants_stdin else null,
            stdout=pipe,
            stderr=pipe,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as err:
        raise CommandFailed(argv, None, f"cannot be started: {err.strerror}") from err
    return transport


def _feed(transport: asyncio.SubprocessTransport, stdin: bytes) -> None:
    pipe = transport.get_pipe_transport(0)
    assert isinstance(pipe, asyncio.WriteTransport)  # noqa: S101 - asyncio's own promise, for the type
    pipe.write(stdin)
    pipe.write_eof()


async def _end(transport: asyncio.SubprocessTransport, output: _Output) -> None:
    """Nothing of the command's process group is left. Free when it has ended by itself."""
    if not output.gone.is_set():
        with contextlib.suppress(ProcessLookupError):  # the group may end between the two lines
            os.killpg(transport.get_pid(), signal.SIGKILL)
        transport.close()
        await output.gone.wait()
    transport.close()


def _how(code: int) -> str:
    return f"ended with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def _shown(argv: Sequence[str]) -> str:
    """For a message: scripts as `...`, and not without end."""
    text = shlex.join("..." if "\n" in word else word for word in argv)
    return text if len(text) <= 300 else text[:297] + "..."
