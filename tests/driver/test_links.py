"""Control connections of the driver: one VMM that does not answer keeps no other from being asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from rekindle.driver import machine
from rekindle.driver.base import Accel, Handle
from rekindle.driver.process import started_ticks
from rekindle.driver.qemu import QemuDriver
from tests.driver.test_qmp import GREETING


@contextmanager
def sleeper(home: Path) -> Iterator[Handle]:
    """A process that stands for a VMM."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            ticks = started_ticks(process.pid)
            assert ticks is not None
            extra = {"cgroups": [], "accel": Accel.TCG.value}
            yield Handle(vm_id=home.name, pid=process.pid, started_ticks=ticks, home=home, extra=extra)
        finally:
            process.kill()


@asynccontextmanager
async def vmm(home: Path, *, mute: bool) -> AsyncIterator[asyncio.Event]:
    """A control socket as QEMU has it; the event: somebody has connected."""
    (home / "run").mkdir(parents=True)
    connected = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        if not mute:
            writer.write(json.dumps(GREETING).encode() + b"\n")
        while line := await reader.readline():
            if not mute:
                writer.write(json.dumps({"return": {}, "id": json.loads(line).get("id")}).encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, home / "run" / machine.SOCKETS[0])
    try:
        yield connected
    finally:
        server.close()
        await server.wait_closed()


async def test_a_vmm_that_does_not_answer_delays_no_other(tmp_path: Path) -> None:
    driver = QemuDriver(Path("/nonexistent"))
    with sleeper(tmp_path / "mute") as mute, sleeper(tmp_path / "other") as other:
        try:
            async with (
                vmm(mute.home, mute=True) as connected,
                vmm(other.home, mute=False),
                asyncio.TaskGroup() as own,
            ):
                hanging = own.create_task(driver.pause(mute))
                await asyncio.wait_for(connected.wait(), 5)
                await asyncio.wait_for(driver.pause(other), 5)
                assert not hanging.done()
                hanging.cancel()
                await driver.kill(other)
        finally:
            await driver.kill(mute)
            await driver.kill(other)
