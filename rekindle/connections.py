"""HTTP connections of the service's own servers: answers leave in one piece, and a stop breaks off no call.

boto3 takes an answer whose body is missing for an empty one, with status 200 (botocore reads what came, and does not
compare it with Content-Length). uvicorn writes header and body one after the other, so a service that is killed in
between would give a client such an answer. Here all that one turn of the event loop writes is one system call.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    Base = asyncio.Transport
else:
    Base = object  # the wrapped transport answers what is not here

JOINED_MOST_BYTES = 64 * 1024
#: How long a new connection may wait before its first request when the service stops.
FIRST_REQUEST_S = 1.0


class Joined(Base):
    """A transport that joins the writes of one turn of the loop."""

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(bytes(data))
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= JOINED_MOST_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def _flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if data and not self._inner.is_closing():
            self._inner.write(data)


class Connection(HttpToolsProtocol):
    """One client. After `shutdown` it answers the request that is there, or on its way in, and closes."""

    _receiving = False  #: between the first byte of a request and its last
    _leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(Joined(cast("asyncio.Transport", transport), self.loop))

    def on_message_begin(self) -> None:
        self._receiving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()

    def shutdown(self) -> None:
        """The service stops. What may still come in is answered: a client that has sent a request and finds the
        connection closed cannot know whether it was carried out."""
        self._leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
        elif self._receiving or self._has_bytes_in():
            return
        elif self.cycle is None:
            self.loop.call_later(FIRST_REQUEST_S, self._close_unused)
        else:
            self.transport.close()

    def _close_unused(self) -> None:
        if self.cycle is None and not self._receiving:
            self.transport.close()

    def _has_bytes_in(self) -> bool:
        """Whether the kernel holds bytes of the client that the loop has not read yet."""
        own = self.transport.get_extra_info("socket")
        with socket.socket(fileno=socket.dup(own.fileno())) as peeking:
            try:
                return bool(peeking.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except OSError:
                return False
