"""Sockets that a real relay keeps: who connects while nobody serves is answered by the next."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rekindle import binaries, servers
from rekindle.core.errors import MachineError
from rekindle.node import sockets

WANTED = {"api": ("127.0.0.1:0", "the API"), "artifacts": ("127.0.0.1:0", "the artifact store")}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    relay = subprocess.Popen(
        [binaries.find("rekindle-relay"), "--socket", folder / "relay.sock"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert relay.stdout is not None
    try:
        assert relay.stdout.readline() == b"listening\n"  # said when both sockets are there
        yield folder
    finally:
        relay.stdout.close()
        relay.terminate()
        assert relay.wait(timeout=10) == 0
    assert not (folder / sockets.NAME).exists()


def ended(serving: dict[str, socket.socket]) -> dict[str, str]:
    """A service that is gone: its own descriptors are closed. Where it was."""
    addresses = {name: servers.bound_to(sock) for name, sock in serving.items()}
    for sock in serving.values():
        sock.close()
    return addresses


def connected(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=5)


def test_who_connects_while_nobody_serves_is_answered_by_the_next(run: Path) -> None:
    first = sockets.listening(run, WANTED, servers.bind)
    sockets.keep(run, first)
    addresses = ended(first)
    with closing(connected(addresses["api"])) as client:
        client.sendall(b"anybody?")
        second = sockets.listening(run, WANTED, servers.bind)
        assert {name: servers.bound_to(sock) for name, sock in second.items()} == addresses
        second["api"].setblocking(True)
        accepted, _ = second["api"].accept()
        assert accepted.recv(8) == b"anybody?"
        accepted.close()
    ended(second)


def test_another_address_is_listened_on_anew_and_the_old_one_let_go(run: Path) -> None:
    first = sockets.listening(run, WANTED, servers.bind)
    sockets.keep(run, first)
    addresses = ended(first)
    swapped = {"api": (addresses["artifacts"], "the API"), "artifacts": ("127.0.0.1:0", "the artifact store")}
    second = sockets.listening(run, swapped, servers.bind)
    assert servers.bound_to(second["api"]) == addresses["artifacts"]
    sockets.keep(run, second)
    ended(second)
    with pytest.raises(ConnectionRefusedError):
        connected(addresses["api"])


def test_nothing_is_kept_when_so_asked(run: Path) -> None:
    first = sockets.listening(run, WANTED, servers.bind)
    sockets.keep(run, first)
    address = ended(first)["api"]
    connected(address).close()
    sockets.keep(run, {})
    with pytest.raises(ConnectionRefusedError):
        connected(address)
    assert sockets.take(run) == {}


def test_a_socket_that_does_not_listen_is_refused(run: Path) -> None:
    with socket.socket() as idle, pytest.raises(sockets.Refused, match="not a listening socket"):
        sockets.keep(run, {"api": idle})


def test_without_a_relay_a_service_listens_anew(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sockets.keep(tmp_path, {})
    ended(sockets.listening(tmp_path, WANTED, servers.bind))


def test_an_address_of_somebody_else_leaves_no_socket(run: Path) -> None:
    with closing(servers.bind("127.0.0.1:0", "somebody")) as other:
        wanted = {"api": ("127.0.0.1:0", "the API"), "artifacts": (servers.bound_to(other), "the artifact store")}
        with pytest.raises(MachineError, match="the artifact store"):
            sockets.listening(run, wanted, servers.bind)
