"""Listening sockets that outlive the service: the relay keeps them while nobody serves (docs/contracts.md §7).

The kernel goes on to accept connections for a kept socket; the next service takes it and answers them. Who calls while
the service is started again waits, and is not refused. Best effort: without a relay, or with an older one, a service
listens anew.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from rekindle import unixsock
from rekindle.config import host_port

LOG = logging.getLogger(__name__)
NAME = "sockets.sock"
ANSWER_S = 5.0
MOST = 16  #: sockets in one message; the relay's limit
_ANSWER_BYTES = 4096


class Refused(Exception):
    """The relay did not do what it was asked; its sentence."""


def keep(run: Path, sockets: Mapping[str, socket.socket]) -> None:
    """Let the relay keep duplicates of these, and nothing else. Raises OSError, Refused."""
    _ask(run, {"keep": list(sockets)}, [sock.fileno() for sock in sockets.values()])


def take(run: Path) -> dict[str, socket.socket]:
    """What the relay keeps, by name; nothing without a relay. The caller closes them. Raises Refused."""
    try:
        return _ask(run, {"take": True}, [])
    except OSError as err:
        LOG.debug("no kept sockets: %s", err)
        return {}


def listening(
    run: Path, wanted: Mapping[str, tuple[str, str]], bind: Callable[[str, str], socket.socket]
) -> dict[str, socket.socket]:
    """A listening socket for each `name: (address, what it is for)`: the kept one where its address is the wanted one
    (any port for port 0), else a new one by `bind`, whose errors are raised."""
    with ExitStack() as unless_whole:
        ours = _kept(run, {name: address for name, (address, _) in wanted.items()})
        for sock in ours.values():
            unless_whole.callback(sock.close)
        for name, (address, what) in wanted.items():
            if name not in ours:
                ours[name] = bind(address, what)
                unless_whole.callback(ours[name].close)
        unless_whole.pop_all()
    return {name: ours[name] for name in wanted}


def _kept(run: Path, wanted: Mapping[str, str]) -> dict[str, socket.socket]:
    """The kept sockets that are wanted. The relay lets go of all when one that is not stands in the way."""
    try:
        kept = take(run)
    except Refused as err:
        LOG.warning("the relay gives no sockets: %s", err)
        return {}
    fitting = {name: sock for name, sock in kept.items() if name in wanted and _is_at(sock, wanted[name])}
    missing = [wanted[name] for name in wanted if name not in fitting and host_port(wanted[name])[1]]
    in_the_way = any(_is_at(sock, address) for sock in kept.values() for address in missing)
    chosen = {} if in_the_way else fitting
    for name, sock in kept.items():
        if name not in chosen:
            sock.close()
    if in_the_way:
        keep(run, {})
    return chosen


def _is_at(sock: socket.socket, address: str) -> bool:
    host, port = host_port(address)
    bound_host, bound_port = sock.getsockname()[:2]
    return bool(bound_host == host and port in (0, bound_port))


def _ask(run: Path, request: Mapping[str, object], descriptors: list[int]) -> dict[str, socket.socket]:
    """The sockets that come with the answer, by name. Raises OSError, Refused; then none stays open."""
    with unixsock.connect(run / NAME) as asking:
        asking.settimeout(ANSWER_S)
        socket.send_fds(asking, [json.dumps(request).encode() + b"\n"], descriptors)
        line, received, _, _ = socket.recv_fds(asking, _ANSWER_BYTES, MOST)
    with ExitStack() as unless_whole:
        sockets = [unless_whole.enter_context(socket.socket(fileno=one)) for one in received]
        for sock in sockets:
            sock.set_inheritable(False)
        names = _names(line)
        if "keep" in request:
            names = []  # they name what was sent
        if len(names) != len(sockets):
            raise Refused(f"{len(names)} names for {len(sockets)} sockets")
        unless_whole.pop_all()
    return dict(zip(names, sockets, strict=True))


def _names(line: bytes) -> list[str]:
    try:
        answer = json.loads(line)
    except ValueError:
        raise Refused(f"not an answer: {line[:100]!r}") from None
    if answer.get("error"):
        raise Refused(answer["error"])
    return list(answer.get("kept") or [])
