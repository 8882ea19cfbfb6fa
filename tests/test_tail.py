"""A file is followed to the end of its writer: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rekindle import tail

CHUNK = b"x" * (3 * tail.CHUNK_BYTES + 1)


async def collect(path: Path, over: asyncio.Event) -> bytes:
    async def is_over() -> bool:
        return over.is_set()

    return b"".join([chunk async for chunk in tail.follow(path, is_over)])


async def test_a_finished_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(CHUNK)
    over = asyncio.Event()
    over.set()
    assert await collect(tmp_path / "log", over) == CHUNK


async def test_a_file_that_does_not_exist_and_never_will_is_empty(tmp_path: Path) -> None:
    over = asyncio.Event()
    over.set()
    assert await collect(tmp_path / "log", over) == b""


async def test_lines_come_as_they_are_written_and_the_last_one_is_not_lost(tmp_path: Path) -> None:
    """The file is made after the follower began; what is written just before the end still comes."""
    over, seen = asyncio.Event(), asyncio.Queue[bytes]()

    async def is_over() -> bool:
        return over.is_set()

    async def read() -> None:
        async for chunk in tail.follow(tmp_path / "log", is_over):
            seen.put_nowait(chunk)

    async with asyncio.timeout(10), asyncio.TaskGroup() as own:
        own.create_task(read())
        for line in (b"one\n", b"two\n"):
            with (tmp_path / "log").open("ab") as log:
                log.write(line)
            assert await seen.get() == line
        with (tmp_path / "log").open("ab") as log:
            log.write(b"last\n")
        over.set()
    assert seen.get_nowait() == b"last\n"
    assert seen.empty()


async def test_growth_wakes_the_follower_long_before_it_would_look_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "LOOK_AGAIN_S", 60)
    path = tmp_path / "log"

    async def never() -> bool:
        return False

    async with asyncio.timeout(10):
        chunks = tail.follow(path, never)
        path.write_bytes(b"one")
        assert await anext(chunks) == b"one"
        waiting = anext(chunks)
        asyncio.get_running_loop().call_soon(path.write_bytes, b"one two")
        assert await waiting == b" two"
        await chunks.aclose()


async def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await collect(tmp_path / "nowhere/log", asyncio.Event())
