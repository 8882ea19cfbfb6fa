"""The network of a build: a namespace whose only way out is slirp4netns, where this machine itself is not.

slirp connects from this machine, so loopback is switched off in it and every address of this machine is made *local* in
the namespace: whoever asks for it meets the namespace's own empty loopback, and a build may not change routes (it has
neither CAP_NET_ADMIN nor CAP_NET_RAW). *Doors* are the exceptions an operator names: `ADDRESS:PORT` of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from rekindle.config import host_port
from rekindle.core.errors import Invalid, MachineError
from rekindle.image.inside import program

Door = tuple[str, int]  #: an IPv4 address of this machine and a port

_CANDIDATES = ("10.0.2.0/24", "10.191.87.0/24", "172.27.213.0/24", "192.168.217.0/24")
_READY_DEADLINE_S = 20
TUN = "/dev/net/tun"
_HELPER = Path(__file__).with_name("netns.py")
_CHUNK_BYTES = 65536
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def local_networks(fib_trie: str) -> tuple[IPv4Network, ...]:
    """What the kernel delivers to this machine itself (or broadcasts): its addresses, from /proc/net/fib_trie."""
    found: dict[IPv4Network, None] = {}
    address = ""
    for line in fib_trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            address = words[1]
        elif len(words) >= 3 and words[0].startswith("/") and words[2] in ("LOCAL", "BROADCAST"):
            found[IPv4Network(address + words[0])] = None
    loopback = IPv4Network("127.0.0.0/8")
    return tuple(network for network in found if not network.subnet_of(loopback))


def routed_networks(fib_trie: str) -> tuple[IPv4Network, ...]:
    """Every network with a route of its own, the default route left out."""
    found: dict[IPv4Network, None] = {}
    address = ""
    for line in fib_trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            address = words[1]
        elif len(words) >= 3 and words[0].startswith("/") and words[0] != "/0":
            found[IPv4Network(address + words[0])] = None
    return tuple(found)


def free_network(taken: Iterable[IPv4Network]) -> IPv4Network:
    """A /24 for the namespace that hides nothing this machine has a route to."""
    used = tuple(taken)
    for text in _CANDIDATES:
        network = IPv4Network(text)
        if not any(network.overlaps(other) for other in used):
            return network
    raise MachineError(f"No free network for a build: this machine has routes into all of {', '.join(_CANDIDATES)}")


def doors(registries: Iterable[str], services: Iterable[str], env: Mapping[str, str]) -> tuple[Door, ...]:
    """The named services, and those registries and proxies of the environment that are on this machine."""
    local = local_networks(Path("/proc/net/fib_trie").read_text())
    found = [_named_door(service) for service in services]
    urls = [f"//{registry}" for registry in registries] + [env[name] for name in _PROXIES if env.get(name)]
    for url in urls:
        door = _door_of(url if "//" in url else f"//{url}")
        if door and _is_own(door[0], local):
            found.append(door)
    return tuple(dict.fromkeys(found))


def hosts_file(text: str) -> str:
    """This machine's /etc/hosts without the names it has for itself: a mirror may be known by it alone."""
    own = local_networks(Path("/proc/net/fib_trie").read_text())
    kept = [line for line in text.splitlines() if (words := line.split("#")[0].split()) and not _is_ours(words[0], own)]
    return "\n".join(["127.0.0.1 localhost", "::1 localhost", *kept]) + "\n"


def _is_ours(address: str, own: Iterable[IPv4Network]) -> bool:
    """IPv6 addresses count: a build has no IPv6."""
    try:
        return _is_own(str(IPv4Address(address)), own)
    except ValueError:
        return True


def _named_door(service: str) -> Door:
    host, port = host_port(service)
    try:
        return str(IPv4Address("127.0.0.1" if host == "localhost" else host)), port
    except ValueError as err:
        raise Invalid(f"build.host_services: '{service}' must be an IPv4 address of this machine and a port") from err


def _door_of(url: str) -> Door | None:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    try:
        return str(IPv4Address(host or "")), parts.port or {"https": 443}.get(parts.scheme, 80)
    except ValueError:
        return None  # a name, or IPv6: not one of this machine's IPv4 addresses


def _is_own(address: str, local: Iterable[IPv4Network]) -> bool:
    parsed = ip_address(address)
    return parsed.is_loopback or any(parsed in network for network in local)


def why_none() -> str:
    """Why this machine lets us make no network for a build; empty when it does."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as err:
        fix = "modprobe tun" if err.errno in (errno.ENOENT, errno.ENODEV) else f"chmod 0666 {TUN} (Debian's own mode)"
        return f"A build's network needs {TUN}: {err.strerror}; as root: {fix}"
    return ""


@asynccontextmanager
async def connected(init: int, tree: Path, open_doors: Iterable[Door]) -> AsyncIterator[str]:
    """The network namespace of the process `init` has its way out while the block runs; yields its resolver's address.

    Raises MachineError when it cannot be made. Nothing is left behind: slirp4netns ends with the block, and by itself
    when this process dies.
    """
    if missing := why_none():
        raise MachineError(missing)
    fib_trie = Path("/proc/net/fib_trie").read_text()
    network = free_network(routed_networks(fib_trie))
    wanted = tuple(open_doors)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_slirp(init, tree, network))
        for listener, door in zip(await _inside(init, local_networks(fib_trie), wanted), wanted, strict=True):
            await stack.enter_async_context(_door(listener, door))
        yield str(network.network_address + 3)


@asynccontextmanager
async def _slirp(init: int, tree: Path, network: IPv4Network) -> AsyncIterator[None]:
    ready_read, ready_write = os.pipe()
    exit_read, exit_write = os.pipe()
    argv = [*program(tree, "/usr/bin/slirp4netns"), "--configure", "--mtu=65520", f"--cidr={network}"]
    argv += ["--disable-host-loopback", f"--ready-fd={ready_write}", f"--exit-fd={exit_read}"]
    if os.geteuid() != 0:
        argv += [f"--userns-path=/proc/{init}/ns/user"]
    argv += ["--netns-type=path", f"/proc/{init}/ns/net", "tap0"]
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(ready_write, exit_read),
        )
    except OSError as err:
        _close(ready_read, exit_write, ready_write, exit_read)
        raise MachineError(f"slirp4netns cannot be started: {err.strerror}") from err
    os.close(ready_write)
    os.close(exit_read)
    try:
        await _until_ready(ready_read, process)
        yield
    finally:
        _close(ready_read, exit_write)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


async def _until_ready(fd: int, process: asyncio.subprocess.Process) -> None:
    """slirp4netns writes `1` when the interface is up, and closes the pipe when it fails."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(_READY_DEADLINE_S):
            await readable.wait()
    except TimeoutError as err:
        raise MachineError(f"slirp4netns did not bring the build's network up in {_READY_DEADLINE_S} s") from err
    finally:
        loop.remove_reader(fd)
    if os.read(fd, 1) != b"1":
        _, said = await process.communicate()
        raise MachineError(f"slirp4netns could not make the build's network: {said.decode(errors='replace')[-500:]}")


# --- inside the namespace ---------------------------------------------------------------------------------------------


async def _inside(init: int, networks: Iterable[IPv4Network], open_doors: Sequence[Door]) -> list[socket.socket]:
    """In the namespace of `init`: make `networks` local there, and listen where the doors are."""
    wanted = {"networks": [str(network) for network in networks], "doors": open_doors}
    user = () if os.geteuid() == 0 else ("--user",)
    argv = ["nsenter", f"--target={init}", *user, "--net", sys.executable, "-I", str(_HELPER), json.dumps(wanted)]
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
        _, said = await process.communicate()
        if process.returncode != 0:
            raise MachineError(f"The build's network cannot be set up: {said.decode(errors='replace').strip()[-500:]}")
        return [socket.socket(fileno=socket.recv_fds(ours, 1, 1)[1][0]) for _ in open_doors]


@asynccontextmanager
async def _door(listener: socket.socket, door: Door) -> AsyncIterator[None]:
    """Connections to `door` (at `listener`) inside the namespace reach the same address and port of this machine."""
    open_writers: set[asyncio.StreamWriter] = set()
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        handlers.add(task)
        open_writers.add(writer)
        try:
            await _forward(reader, writer, door, open_writers)
        finally:
            writer.close()
            open_writers.discard(writer)
            handlers.discard(task)

    server = await asyncio.start_server(serve, sock=listener)
    try:
        yield
    finally:
        server.close()
        for writer in list(open_writers):
            writer.transport.abort()
        if handlers:
            await asyncio.wait(handlers)


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: Door, open_writers: set[asyncio.StreamWriter]
) -> None:
    try:
        far_reader, far_writer = await asyncio.open_connection(*door)
    except OSError:
        return  # nobody listens there: the caller sees its connection closed
    open_writers.add(far_writer)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pipe(reader, far_writer))
            group.create_task(_pipe(far_reader, writer))
    finally:
        far_writer.close()
        open_writers.discard(far_writer)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError as err:
        if err.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, None):
            raise
        writer.transport.abort()
