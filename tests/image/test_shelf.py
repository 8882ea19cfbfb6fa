"""The shelf: what a crash leaves never looks whole, and two makers never meet."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from rekindle.image import shelf
from rekindle.process import run

A, B = "a" * 16, "b" * 16


async def _put(folder: Path, name: str, **facts: object) -> None:
    async with shelf.locked(folder, print), shelf.making(folder) as scratch:
        (scratch / "thing").mkdir()
        (scratch / "thing/file").write_text(name)
        await shelf.put(folder, name, scratch / "thing", {"n": 1, **facts})


async def test_a_thing_is_whole_once_its_facts_are_there(tmp_path: Path) -> None:
    await _put(tmp_path, A, version="1")
    assert shelf.whole(tmp_path) == {A: {"n": 1, "version": "1"}}
    assert (tmp_path / A / "file").read_text() == A
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", A, f"{A}.json"]


async def test_leftovers_go_and_everything_else_stays(tmp_path: Path) -> None:
    await _put(tmp_path, A)
    (tmp_path / B).mkdir()  # renamed in, killed before its facts
    (tmp_path / B / "locked").mkdir(mode=0o500)
    (tmp_path / ".making-x/root/etc").mkdir(parents=True)  # killed while it was made
    (tmp_path / ("c" * 16 + ".json")).write_text("{}")  # facts without a thing
    (tmp_path / "base").mkdir()
    (tmp_path / "letters.json").mkdir()
    assert list(shelf.whole(tmp_path)) == [A]
    async with shelf.locked(tmp_path, print):
        left = sorted(entry.name for entry in tmp_path.iterdir())
    assert left == [".lock", A, f"{A}.json", "base", "letters.json"]


async def test_a_failure_while_making_leaves_nothing(tmp_path: Path) -> None:
    async def fail() -> None:
        async with shelf.locked(tmp_path, print), shelf.making(tmp_path) as scratch:
            (scratch / "half").write_text("made")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


async def test_a_thing_taken_away_is_gone(tmp_path: Path) -> None:
    await _put(tmp_path, A)
    shelf.take_away(tmp_path, A)
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


async def test_the_second_maker_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = asyncio.Event()

    async def second() -> None:
        async with shelf.locked(tmp_path, lambda _: waiting.set()):
            order.append("second")

    async with asyncio.TaskGroup() as group, shelf.locked(tmp_path, print):
        group.create_task(second())
        await waiting.wait()
        order.append("first")
    assert order == ["first", "second"]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from rekindle.image import shelf
async def main(folder):
    async with shelf.locked(folder, print), shelf.making(folder) as scratch:
        (scratch / "thing").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_killed_maker_leaves_no_lock_and_nothing_whole(tmp_path: Path) -> None:
    done = await run([sys.executable, "-c", KILLED, str(tmp_path)], deadline_s=30)
    assert done.code == -signal.SIGKILL
    assert any(entry.name.startswith(".making-") for entry in tmp_path.iterdir())
    await asyncio.wait_for(_put(tmp_path, A), 10)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", A, f"{A}.json"]
