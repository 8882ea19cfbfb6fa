"""The composition root: one page that shows the whole wiring of `rekindle serve`. Nothing imports it but the CLI.

Order: lock the folder, open the store, identity, toolbox and base image, the VMM that this machine can run, the relay,
then the listeners. SIGTERM and SIGINT end it in order; VMs and relay stay and are taken up by the next start.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import IO, Any

import uvloop

from rekindle import binaries, clients, identity, operator_api, servers, systemd, takeover, threads, unixsock, vitals
from rekindle.api import app as api
from rekindle.artifacts import app as artifacts
from rekindle.clock import Clock
from rekindle.clock import of as clock_of
from rekindle.config import Config
from rekindle.core.errors import Invalid, MachineError
from rekindle.core.managed import Managed
from rekindle.driver import probe
from rekindle.driver.progress import Board
from rekindle.driver.qemu import QemuDriver
from rekindle.guest import kernel
from rekindle.identity.keys import new_access_key
from rekindle.image import base, toolbox
from rekindle.image.base import BaseImage
from rekindle.image.toolbox import Toolbox
from rekindle.node import sockets
from rekindle.node.agent import Agent
from rekindle.node.artifacts import BuildKeys, reader_for
from rekindle.node.bake import Oven
from rekindle.node.builds import Workshop
from rekindle.node.desk import Desk
from rekindle.node.layout import Layout
from rekindle.node.machine import Host
from rekindle.node.operator import Operating
from rekindle.node.perform import Hands
from rekindle.node.relay import Relay, relay_config
from rekindle.renewal import certificates
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)


def main(config: Config, *, take_over: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. With `take_over` a service that is there already has to make room, when this one
    has all that it needs. Raises RekindleError when it cannot start, and says why.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, clock_of(os.environ), take_over=take_over))


async def _serve(config: Config, clock: Clock, *, take_over: bool) -> None:
    if config.ingress.domain:
        raise Invalid("ingress.domain: host mode is not there yet; leave it empty (endpoints are localhost:<port>)")
    asyncio.get_running_loop().set_default_executor(threads.pool())
    config = _measured(config)
    layout = Layout(config.state)
    layout.make()
    async with AsyncExitStack() as stack:
        given = {name: stack.enter_context(sock) for name, sock in systemd.given_sockets().items()}
        if take_over:
            await _equipped(config)
            await asyncio.to_thread(takeover.end_other, layout)
        stack.enter_context(_only_one(layout))
        store = await stack.enter_async_context(_store(layout, clock))
        who = identity.ensure(config, clock)
        tools, managed = await _equipped(config)
        board = Board()
        host = await _host(config, layout, tools, board)
        relay = await stack.enter_async_context(Relay(layout, binaries.find("rekindle-relay")))
        wanted = {"api": (config.listen, "the API"), "artifacts": (config.artifacts.listen, "the artifact store")}
        missing = {name: where for name, where in wanted.items() if name not in given}
        own = sockets.listening(layout.run, missing, servers.bind)
        relay.listeners = given | {name: stack.enter_context(sock) for name, sock in own.items()}
        api_socket, store_socket = (relay.listeners[name] for name in wanted)
        store_url = f"http://{servers.bound_to(store_socket)}"
        renew = partial(clients.equip, config, store, f"http://{servers.bound_to(api_socket)}", store_url, who)
        await renew()

        initrd = layout.run / "initrd"
        kernel.make_initramfs(initrd, agent=binaries.find("rekindle-agent"), modules=tools.modules)
        oven = Oven(host=host, relay=relay, toolbox=tools, initrd=initrd, clock=clock)
        build_keys = BuildKeys(new_access_key)
        reader = reader_for(config, build_keys, store_url)
        shop = Workshop(oven=oven, base=managed, store=store, clock=clock, s3_of=reader)
        relay_settings = _relay_config(config, who)
        agent = Agent(
            Hands(host=host, relay=relay, clock=clock),
            store,
            shop,
            relay_settings,
        )
        desk = Desk(agent, who.token_key, Managed(managed.name, managed.version, managed.made_at_ms))
        stop = asyncio.Event()
        addresses = {"api": servers.bound_to(api_socket), "artifacts": servers.bound_to(store_socket)}
        operating = Operating(agent=agent, store=store, host=host, relay=relay, addresses=addresses, stop=stop.set)
        operator = operator_api.Desk(
            store=store,
            operator=operating,
            config=config,
            layout=layout,
            clock=clock,
            renew=renew,
            progress=board.of,
        )
        artifact_store = artifacts.make_app(config.state / "artifacts", build_keys.before(store.access_key), clock)
        stack.callback(artifact_store.close)
        listeners = [
            (servers.server(api.make_app(store, desk, config, clock)), api_socket),
            (servers.server(artifact_store), store_socket),
            (servers.server(operator_api.app(operator)), stack.enter_context(_at_operator_socket(layout))),
        ]
        await agent.start()
        await stack.enter_async_context(certificates(config, clock, partial(relay.configure, relay_settings)))
        await _run(agent, listeners, stop)


async def _equipped(config: Config) -> tuple[Toolbox, BaseImage]:
    """The toolbox and the base image; made when they are not there, which takes minutes."""
    tools = await toolbox.ensure(config.tools_dir, LOG.info)
    return tools, await base.ensure(config.tools_dir, tools, LOG.info)


def _measured(config: Config) -> Config:
    """With the numbers that 0 leaves to this machine."""
    if config.memory.host_mib:
        return config
    return replace(config, memory=replace(config.memory, host_mib=vitals.memory_mib_for_guests()))


def _relay_config(config: Config, who: identity.Identity) -> dict[str, object]:
    return relay_config(
        token_key=who.token_key,
        certificate=who.server_pem,
        private_key=who.server_key,
        ingress_host=config.ingress.host,
        domain=config.ingress.domain,
        hold_s=config.ingress.hold_s,
        public_test_addresses=config.egress.public_test_addresses,
        resolvers=config.egress.resolvers,
    )


async def _run(agent: Agent, listeners: list[tuple[servers.Server, Any]], stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as own:
        working = own.create_task(agent.run(), name="agent")
        serving = [own.create_task(server.serve([sock]), name="listener") for server, sock in listeners]
        LOG.info("ready")
        systemd.notify("READY=1")
        await stop.wait()
        systemd.notify("STOPPING=1")
        LOG.info("stopping; microVMs go on")
        for server, _ in listeners:
            server.stop()
        await asyncio.wait(serving)
        working.cancel()


async def _host(config: Config, layout: Layout, tools: Toolbox, board: Board) -> Host:
    """This machine's VMM: KVM only if a guest really ran under it (`machine.accel` decides otherwise)."""
    wanted = config.machine
    accel, why = await probe.choose(wanted.accel, tools, config.tools_dir / "accel.json", wanted.probe_s)
    LOG.info("accelerator %s: %s", accel.value, why)
    as_root = os.geteuid() == 0
    launcher = binaries.find("rekindle-jail")
    driver = QemuDriver(launcher, pagemap_kind=config.machine.pagemap, board=board)
    return Host(config=config, layout=layout, accel=accel, as_root=as_root, launcher=launcher, driver=driver)


@asynccontextmanager
async def _store(layout: Layout, clock: Clock) -> AsyncIterator[Store]:
    store = await Store.open(layout.state / "rekindle.db", clock)
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def _at_operator_socket(layout: Layout) -> Iterator[socket.socket]:
    with unixsock.listen(layout.operator_socket) as sock:
        try:
            yield sock
        finally:
            layout.operator_socket.unlink(missing_ok=True)


class _only_one:
    """Holds the state folder: two services on one folder would fight over its VMs."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state / "serve.pid"
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            self._file.close()
            raise MachineError(
                f"Another rekindle serves {self._path.parent} already; `rekindle serve --take-over` takes its place"
            ) from err
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
