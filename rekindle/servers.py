"""HTTP servers inside our own event loop: sockets are ours, signals are ours, shutdown is in order."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from rekindle.config import host_port
from rekindle.connections import Connection
from rekindle.core.errors import MachineError

GRACE_S = 5


class Server(uvicorn.Server):
    """uvicorn without its signal handlers; `stop` lets calls in flight end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True


def server(app: Any) -> Server:
    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            interface="asgi3",
            proxy_headers=False,  # who calls is known by signature or socket, never by what a header says
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            timeout_graceful_shutdown=GRACE_S,
        )
    )


def bind(listen: str, what: str) -> socket.socket:
    """A listening TCP socket. Raises MachineError that says what to change when the address is taken."""
    host, port = host_port(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(512)
    except OSError as err:
        sock.close()
        raise MachineError(f"Cannot listen on {listen} for {what} ({err.strerror}); choose another address") from err
    return sock


def bound_to(sock: socket.socket) -> str:
    """`address:port` of a bound socket (port 0 in the configuration: the one that the kernel chose)."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
