"""A service for the CLI to talk to: real store, real AWS API, real artifact store, real operator API; no machines.

What the node would do, a test does by moving rows. Commands run as processes of their own, as people run them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rekindle import operator_api, servers, unixsock
from rekindle.api import app as api
from rekindle.artifacts import app as artifacts
from rekindle.clock import wall_ms
from rekindle.config import Config
from rekindle.core.account import AccessKey
from rekindle.core.errors import MachineError
from rekindle.core.microvm import MicroVM
from rekindle.driver.progress import Board
from rekindle.identity import Identity, ensure, write_client_files
from rekindle.node.layout import Layout
from rekindle.store.db import Store
from tests.api.wire import RecordingEngine

KEY = AccessKey("AKIAAAAAAAAAAAAAAAAA", "secret-of-the-first", "000000000000")
RUN = "import sys; from rekindle.cli import main; sys.argv[0] = 'rekindle'; main()"


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Operating:
    """The operator's view of a machine without machines."""

    store: Store
    pid: int = field(default_factory=os.getpid)
    counters: Mapping[str, Mapping[str, object]] | None = field(default_factory=dict)
    output: bytes = b""
    node: str = "local"

    def facts(self) -> Mapping[str, object]:
        return {"pid": self.pid, "accel": "tcg"}

    def endpoint(self, vm: MicroVM) -> str:
        return f"localhost:{vm.endpoint_port}"

    async def relay_counters(self) -> Mapping[str, Mapping[str, object]]:
        if self.counters is None:
            raise MachineError("The relay gave no answer")
        return self.counters

    async def app_output(self, vm: MicroVM, offset: int) -> tuple[bytes, int]:
        return self.output[offset:], len(self.output)

    async def remove_image(self, arn: str, version: str | None = None) -> None:
        await (self.store.delete_image(arn) if version is None else self.store.delete_version(arn, version))
        for going in await self.store.versions_deleting():
            await self.store.version_removed(going)

    async def down(self) -> int:
        vms = await self.store.all_microvms(self.node)
        os.kill(self.pid, 15)
        return len(vms)


@dataclass(frozen=True, slots=True)
class Ground:
    config: Config
    layout: Layout
    store: Store
    who: Identity
    operating: Operating
    board: Board

    async def cli(self, *words: str, stdin: bytes = b"") -> Done:
        """Run `rekindle WORDS` on this state folder to its end."""
        process = await self.open_cli(*words, out=asyncio.subprocess.PIPE)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin)
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def open_cli(self, *words: str, out: int | IO[bytes]) -> asyncio.subprocess.Process:
        """Begin `rekindle WORDS` on this state folder; whoever opens it ends it."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RUN, "--state", str(self.config.state), *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=out,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "REKINDLE_TOOLS_DIR": str(self.config.tools_dir)},
        )


@asynccontextmanager
async def ground(config: Config) -> AsyncIterator[Ground]:
    layout = Layout(config.state)
    layout.make()
    store = await Store.open(config.state / "rekindle.db", wall_ms)
    await store.add_account(KEY.account, "first")
    await store.add_access_key(KEY.key_id, KEY.secret, KEY.account, "test")
    who = ensure(config, wall_ms)
    operating = Operating(store)
    sockets = [servers.bind("127.0.0.1:0", "a test"), servers.bind("127.0.0.1:0", "a test")]
    urls = [f"http://{servers.bound_to(sock)}" for sock in sockets]

    async def renew() -> None:
        first = next(key for key in await store.access_keys() if key.policy is None)
        write_client_files(config, first, urls[0], urls[1], who.ca_pem)

    await renew()
    board = Board()
    desk = operator_api.Desk(
        store=store,
        operator=operating,
        config=config,
        layout=layout,
        clock=wall_ms,
        renew=renew,
        progress=board.of,
    )
    apps = [
        api.make_app(store, RecordingEngine(), config, wall_ms),
        artifacts.make_app(config.state / "artifacts", store.access_key, wall_ms),
        operator_api.app(desk),
    ]
    sockets.append(unixsock.listen(layout.operator_socket))
    running = [servers.server(app) for app in apps]
    async with asyncio.TaskGroup() as own:
        for server, sock in zip(running, sockets, strict=True):
            own.create_task(server.serve([sock]))
        yield Ground(config, layout, store, who, operating, board)
        for server in running:
            server.stop()
    await store.close()


def long_state_folder(tmp_path: Path) -> Path:
    """Deeper than a unix socket's name may be long."""
    return tmp_path / ("deep" * 25) / "state"
