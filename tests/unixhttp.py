"""One HTTP question over a Unix socket, for questions that may find nobody there.

httpcore forgets the socket of a connect that failed, and a test in which a socket is forgotten fails.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from pathlib import Path
from typing import Any

from rekindle import unixsock
from tests.waiting import SLOWNESS


def asked(socket: Path, path: str) -> Any:
    """The JSON that GET `path` answers at `socket`. Raises OSError while nobody listens there, or hangs up."""
    with contextlib.closing(http.client.HTTPConnection("local")) as connection:
        connection.sock = unixsock.connect(socket)
        connection.sock.settimeout(30 * SLOWNESS)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == http.client.OK, answer.status
        return json.load(answer)
