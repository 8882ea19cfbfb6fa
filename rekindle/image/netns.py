"""Works inside a build's network namespace (`nsenter … python netns.py`, see buildnet.py); nothing but Python's own.

Makes networks of the machine *local* there, then listens where doors are and hands the sockets back over standard
input, which is a Unix socket. Argument: JSON with `networks` (`ADDRESS/LENGTH`) and `doors` (`[ADDRESS, PORT]`). On
failure it prints one line and ends with 1.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Iterable
from ipaddress import IPv4Network


def main() -> int:
    wanted = json.loads(sys.argv[1])
    try:
        claim(IPv4Network(network) for network in wanted["networks"])
        listeners = [socket.create_server((address, port)) for address, port in wanted["doors"]]
    except OSError as err:
        print(err.strerror, file=sys.stderr)  # noqa: T201 - this is what the command prints
        return 1
    with socket.socket(fileno=0) as back:
        for listener in listeners:
            socket.send_fds(back, [b"."], [listener.fileno()])
    return 0


def claim(networks: Iterable[IPv4Network]) -> None:
    """`ip route replace local NETWORK dev lo table local` for each, over rtnetlink."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        for sequence, network in enumerate(networks, 1):
            netlink.send(_route_message(network, sequence))
            code = -struct.unpack_from("=i", netlink.recv(4096), 16)[0]
            if code:
                raise OSError(code, f"route to {network}: {os.strerror(code)}")


def _route_message(network: IPv4Network, sequence: int) -> bytes:
    new_route, request_ack_replace_create = 24, 0x1 | 0x4 | 0x100 | 0x400
    table_local, protocol_static, scope_host, type_local = 255, 4, 254, 2
    loopback_index = 1
    body = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, network.prefixlen, 0, 0, table_local, protocol_static, scope_host, type_local, 0
    )
    body += struct.pack("=HH", 8, 1) + network.network_address.packed
    body += struct.pack("=HHI", 8, 4, loopback_index)
    return struct.pack("=IHHII", 16 + len(body), new_route, request_ack_replace_create, sequence, 0) + body


if __name__ == "__main__":
    sys.exit(main())
