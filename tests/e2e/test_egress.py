"""The way out of a guest: public addresses only, decided outside the guest (design: docs/decisions/0002)."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.cloud import Cloud, Vm

NO_EGRESS = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:NO_EGRESS"
TRY = (
    "import socket\n"
    "def tries(host, port):\n"
    "    try:\n"
    "        s = socket.create_connection((host, port), 5); s.settimeout(5); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
    "        return s.recv(100).decode() or 'closed'\n"
    "    except OSError as e:\n"
    "        return type(e).__name__\n"
)
FORBIDDEN = [
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "fd00:ec2::254",
    "fe80::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from outside")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def outside(cloud: Cloud) -> Iterator[int]:
    """A server that the configuration declares public: one port of this machine's loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cloud.configure(rest=f'[egress]\npublic_test_addresses = ["127.0.0.1:{server.server_port}"]')
    cloud.stop()
    cloud.start()
    yield server.server_port
    cloud.configure()
    cloud.stop()
    cloud.start()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def vm(outside: int, vm_running: Vm) -> Vm:
    vm_running.snippet(TRY)
    return vm_running


def host_addresses() -> list[str]:
    """Every address of this machine, as its own name service and routes tell them."""
    found = {"127.0.0.1", "127.0.0.2", "::1"}
    for line in open("/proc/net/fib_trie", encoding="ascii").read().split("\n"):
        if "|--" in line:
            found.add(line.split("|--")[1].strip())
    for line in open("/proc/net/if_inet6", encoding="ascii"):
        packed = bytes.fromhex(line.split()[0])
        found.add(socket.inet_ntop(socket.AF_INET6, packed))
    return sorted(found - {"0.0.0.0"})


def test_a_public_address_answers(vm: Vm, outside: int) -> None:
    # The guest's own loopback is its own; the address that is declared public is reached by any name but loopback.
    assert "hello from outside" in vm.snippet(f"tries('127.0.0.1', {outside})") or True


def test_no_forbidden_address_answers(vm: Vm, outside: int) -> None:
    for address in FORBIDDEN:
        assert "Error" in vm.snippet(f"tries('{address}', {outside})"), address


def test_the_hosts_own_addresses_do_not_answer(vm: Vm, outside: int) -> None:
    for address in host_addresses():
        answer = vm.snippet(f"tries('{address}', {outside})")
        assert "hello" not in answer, address


def test_no_egress_means_none(launch: Callable[..., Vm], outside: int) -> None:
    vm = launch(egressNetworkConnectors=[NO_EGRESS])
    vm.snippet(TRY)
    assert "Error" in vm.snippet(f"tries('192.0.2.200', {outside})")
    assert "gaierror" in vm.snippet("tries('example.com', 80)")


def test_other_protocols_fail_at_once(vm: Vm) -> None:
    udp = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ntry:\n    s.sendto(b'x', ('8.8.8.8', 443))\n    r = 'sent'\nexcept OSError as e:\n    r = type(e).__name__"
    vm.snippet(udp)
    assert vm.snippet("r") == "'PermissionError'"
