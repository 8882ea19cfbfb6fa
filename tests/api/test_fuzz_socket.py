"""Bytes on a real socket: what breaks HTTP itself is refused by the server, and it serves on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from .test_clients import Service

LINE = b"POST /2025-09-09/microvms HTTP/1.1\r\nHost: x\r\n"
SENT = {
    "two lengths": LINE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "length and chunks": LINE
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "chunks and more": LINE + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked misspelt": LINE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": LINE + b"Content-Length : 2\r\n\r\n{}",
    "a negative length": LINE + b"Content-Length: -1\r\n\r\n",
    "a length in hex": LINE + b"Content-Length: 0x2\r\n\r\n{}",
    "a chunk of 2^64": LINE + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{}\r\n",
    "a chunk that ends early": LINE + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{}",
    "a folded header": LINE + b"X-A: b\r\n c\r\n\r\n",
    "a NUL in a header": LINE + b"X-A: b\0c\r\n\r\n",
    "a bare CR in a header": LINE + b"X-A: b\rX-B: c\r\n\r\n",
    "bare LF": LINE.replace(b"\r\n", b"\n") + b"\n",
    "no host": b"GET /2025-09-09/microvms HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /2025-09-09/microvms HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/1.0": b"GET /2025-09-09/microvms HTTP/1.0\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /2025-09-09/microvms\r\n",
    "a path in full": b"GET http://other.example/2025-09-09/microvms HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path of 100 KB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "headers of 1 MB": LINE + b"".join(b"X-%d: %s\r\n" % (n, b"v" * 1000) for n in range(1000)) + b"\r\n",
    "an upgrade": LINE + b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    "expects to go on": LINE + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
    "two at once": LINE + b"Content-Length: 2\r\n\r\n{}" + b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("socket"))
    yield service
    service.close()


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_what_is_not_quite_http(service: Service, sent: bytes) -> None:
    """Never a 5xx, and only whoever signed is ever let in; the next caller is served as before."""
    with socket.create_connection(("127.0.0.1", service.socket.getsockname()[1]), timeout=10) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            got = connection.makefile("rb").read()
        except ConnectionError:
            got = b""  # it hung up in the middle of what we sent
    for line in got.split(b"\r\n"):
        if line.startswith(b"HTTP/1.1 "):
            assert line.split()[1] in (b"100", b"400", b"403", b"404", b"413", b"431"), got
    assert b"Traceback" not in got
    assert service.client().list_microvms()["items"] == []
