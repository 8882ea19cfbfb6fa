"""Commands: what they print, how they fail, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from pathlib import Path

import pytest

from rekindle import process
from rekindle.core.errors import MachineError
from rekindle.process import CommandFailed, run, run_ok


async def test_both_outputs_and_the_code_come_back() -> None:
    done = await run(["sh", "-c", "echo out; echo err >&2; exit 7"], deadline_s=10)
    assert (done.stdout, done.stderr, done.code) == (b"out\n", b"err\n", 7)


async def test_standard_input_environment_and_folder_are_given(tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", 'cat; echo "$A$HOME"; pwd']
    out = await run_ok(argv, stdin=b"in ", env={"A": "1"}, cwd=tmp_path, deadline_s=10)
    assert out == f"in 1\n{tmp_path}\n".encode()


async def test_input_that_nobody_reads_is_no_failure() -> None:
    assert (await run(["true"], stdin=b"x" * 1_000_000, deadline_s=10)).code == 0


async def test_lines_of_both_outputs_are_streamed() -> None:
    lines: list[str] = []
    await run(["sh", "-c", "printf 'a\\r\\nb'; echo c >&2"], deadline_s=10, on_line=lines.append)
    assert sorted(lines) == ["a", "b", "c"]


async def test_a_line_comes_while_the_command_still_runs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    argv = ["sh", "-c", "echo first; cat go"]

    def answer(line: str) -> None:
        if line == "first":  # the command goes on only if this is called before its end
            fd = os.open(tmp_path / "go", os.O_RDWR)
            os.write(fd, b"second\n")
            fds.append(fd)
        elif line == "second":
            os.close(fds.pop())

    fds: list[int] = []
    assert await run_ok(argv, cwd=tmp_path, deadline_s=10, on_line=answer) == b"first\nsecond\n"


async def test_run_ok_says_command_code_and_the_end_of_the_error_output() -> None:
    with pytest.raises(CommandFailed, match=r"sh -c .*ended with code 3: no such thing") as caught:
        await run_ok(["sh", "-c", "echo no such thing >&2; exit 3"], deadline_s=10)
    assert caught.value.code == 3
    assert isinstance(caught.value, MachineError)


async def test_a_message_does_not_show_whole_scripts() -> None:
    with pytest.raises(CommandFailed, match=r"^sh -c \.\.\.: ended with code 3$"):
        await run_ok(["sh", "-c", "true\nexit 3"], deadline_s=10)


async def test_a_signal_is_named() -> None:
    with pytest.raises(CommandFailed, match="killed by SIGTERM"):
        await run_ok(["sh", "-c", "kill -TERM $$"], deadline_s=10)


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(CommandFailed, match="no-such-program: cannot be started: No such file"):
        await run(["no-such-program"], deadline_s=10)


async def test_only_the_end_of_a_long_error_output_is_kept() -> None:
    code = "import sys; sys.stderr.write('x' * 1000000 + 'end')"
    done = await run([sys.executable, "-c", code], deadline_s=30)
    assert len(done.stderr) == process.STDERR_TAIL_BYTES
    assert done.stderr.endswith(b"xend")


async def test_endless_output_is_cut_off() -> None:
    with pytest.raises(CommandFailed, match="printed more than"):
        await run(["cat", "/dev/zero"], deadline_s=60)


async def test_a_line_without_end_comes_in_pieces() -> None:
    lines: list[str] = []
    await run(["head", "-c", "300000", "/dev/zero"], deadline_s=10, on_line=lines.append)
    assert sum(map(len, lines)) == 300_000
    assert len(lines) > 1


async def test_the_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    argv = ["sh", "-c", "sleep 600 & echo $! >pid; wait"]
    with pytest.raises(CommandFailed, match=r"not done after 0\.5 s") as caught:
        await run(argv, cwd=tmp_path, deadline_s=0.5)
    assert caught.value.code is None
    await _is_over(int((tmp_path / "pid").read_text()))


async def test_a_child_that_outlives_its_parent_is_killed_too(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="not done"):
        await run(["sh", "-c", "sleep 600 & echo $! >pid"], cwd=tmp_path, deadline_s=0.5)
    await _is_over(int((tmp_path / "pid").read_text()))


async def test_cancelling_kills_the_whole_group() -> None:
    pids: list[int] = []
    async with asyncio.TaskGroup() as group:
        started = asyncio.Event()

        def note(line: str) -> None:
            pids.append(int(line))
            started.set()

        task = group.create_task(run(["sh", "-c", "sleep 600 & echo $!; wait"], deadline_s=60, on_line=note))
        await started.wait()
        task.cancel()
    assert task.cancelled()
    await _is_over(pids[0])


async def test_what_the_callback_raises_reaches_the_caller() -> None:
    def refuse(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="hello"):
        await run(["sh", "-c", "echo hello; sleep 600"], deadline_s=60, on_line=refuse)


async def _is_over(pid: int) -> None:
    """Waits until the process has ended; it may be gone already."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 10)[0], f"process {pid} still runs"
    finally:
        os.close(fd)
