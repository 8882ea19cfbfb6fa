"""What a method returned is there after the process is killed at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.clock import wall_ms
from rekindle.core.lifecycle import Phase
from rekindle.store.db import Store

WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from rekindle.core.lifecycle import Ask
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, HandClock, built_image, started

async def main() -> None:
    clock = HandClock()
    store = await Store.open(Path(sys.argv[1]), clock)
    await store.add_account(ACCOUNT, "default")
    await built_image(store)
    vm = await store.ask((await started(store, clock)).id, Ask.TERMINATE, why="because")
    print(vm.id, flush=True)
    try:
        with store._db.transaction():
            store._db.run("add_account", id="222222222222", name="half", now_ms=1)
            os.kill(os.getpid(), signal.SIGKILL)
    finally:
        print("not reached")

asyncio.run(main())
"""


def written_and_killed(path: Path) -> str:
    """The id that the writer printed before it killed itself inside a transaction."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", WRITER, path], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
async def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "rekindle.db"
    vm_id = written_and_killed(path)
    store = await Store.open(path, wall_ms)
    vm = await store.microvm(vm_id)
    assert vm is not None
    assert (vm.phase, vm.state_reason) == (Phase.TERMINATING, "because")
    assert [event.why for event in await store.events(vm.id, 9)] == ["asked to run", "because"]
    assert await store.accounts() == ["000000000000"]  # the half transaction is gone
    await store.check_invariants()
    await store.close()
