"""A service that takes the place of a running one: the same state folder, a new program.

The old one is asked to stop as SIGTERM asks it: it ends its calls, leaves microVMs and relay, and goes. Who calls in
between waits at the listening sockets, which the relay keeps (`node/sockets.py`).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import struct

from rekindle import unixsock
from rekindle.core.errors import MachineError
from rekindle.node.layout import Layout

LOG = logging.getLogger(__name__)
STOP_S = 60.0
_UCRED = struct.Struct("3i")  #: struct ucred: pid, uid, gid


def end_other(layout: Layout) -> bool:
    """Have the service of this folder stop, and return when it is gone; False when there is none.

    Raises MachineError when it does not stop within `STOP_S`.
    """
    try:
        connection = unixsock.connect(layout.operator_socket)
    except OSError as err:
        LOG.info("nobody serves %s: %s", layout.state, err.strerror)
        return False
    with connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, _, _ = _UCRED.unpack(credentials)
        process = os.pidfd_open(pid)  # the socket is served still: the pid is its own
    try:
        LOG.info("taking over from the service with pid %d", pid)
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], STOP_S)[0]:  # a pidfd is readable when its process has ended
            raise MachineError(f"The service with pid {pid} did not stop within {STOP_S:.0f} s; its log says why")
    finally:
        os.close(process)
    return True
