"""The way out of a guest: public addresses only, decided outside the guest (docs/decisions, "no network card").

One restart of the service with a configuration that declares a stand-in public; restored afterwards.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.cloud import HOOKS, Cloud, Vm, interpreter_files
from tests.e2e.outside import (
    BIG_BYTES,
    CLOSED,
    COUNT,
    HOLD,
    STAND_IN,
    STAND_IN_6,
    WEB,
    Outside,
    big,
    host_addresses,
    outside,
)
from tests.waiting import until

NO_EGRESS = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:NO_EGRESS"
SHELL_INGRESS = NO_EGRESS.replace("NO_EGRESS", "SHELL_INGRESS")
VPC = {
    "Configuration": {
        "VpcEgressConfiguration": {
            "SubnetIds": ["subnet-1"],
            "NetworkProtocol": "IPv4",
            "AssociatedComputeResourceTypes": ["MicroVm"],
        }
    },
    "OperatorRole": "arn:aws:iam::000000000000:role/operator",
}
FORBIDDEN = [
    *("0.0.0.1", "10.0.0.1", "10.255.255.254", "100.64.0.1", "100.100.100.200", "127.0.0.3", "169.254.169.254"),
    *("169.254.170.2", "172.16.0.1", "172.31.255.254", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
    *("198.18.0.1", "198.51.100.8", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("::2", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "2001:db8::8", "2001::1", "4000::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::1", "2002:a00:1::1"),
    *("2600::5efe:a00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:127.0.0.3", "::127.0.0.1"),
]
GUEST = """
import hashlib, os, socket, threading, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
def tries(host, port, limit=8):
    try:
        with socket.create_connection((host, port), limit) as s:
            s.settimeout(limit)
            s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
            with s.makefile('rb') as f:
                return f.read(4096).decode() or 'closed'
    except OSError as e:
        return type(e).__name__
def tries_all(hosts, port, limit=8):
    with ThreadPoolExecutor(16) as pool:
        return list(zip(hosts, pool.map(lambda host: tries(host, port, limit), hosts)))
def names(host):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)})
    except OSError as e:
        return type(e).__name__
def sends(kind, protocol, address, limit=8):
    try:
        with socket.socket(socket.AF_INET6 if ':' in address[0] else socket.AF_INET, kind, protocol) as s:
            s.settimeout(limit)
            s.sendto(b'\\x08\\x00\\xf7\\xff\\x00\\x00\\x00\\x00', address)
            s.recv(100)
            return 'answered'
    except OSError as e:
        return type(e).__name__
def timed(call, *args):
    started = time.monotonic()
    return call(*args), time.monotonic() - started
"""
BREAK_OUT = """
import struct
def netlink(protocol, *messages):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as s:
        s.bind((0, 0))
        s.send(b''.join(
            struct.pack('=IHHII', 16 + len(body), kind, flags, number + 1, 0) + body
            for number, (kind, flags, body) in enumerate(messages)))
        errors = []
        s.settimeout(1)
        try:
            while True:
                data = s.recv(65536)
                while data:
                    length, kind = struct.unpack_from('=IH', data)
                    if kind == 2:
                        errors.append(struct.unpack_from('=i', data, 16)[0])
                    data = data[(length + 3) & ~3:]
        except TimeoutError:
            return errors
def flush_rules():
    batch = struct.pack('>BBH', 0, 0, 10)  # nfgenmsg: any family, version 0, subsystem nftables
    return netlink(12, (16, 1, batch), ((10 << 8) | 2, 5, struct.pack('>BBH', 0, 0, 0)), (17, 1, batch))
def remove_card(name):
    index = socket.if_nametoindex(name)
    return netlink(0, (17, 5, struct.pack('=BxHiII', 0, 0, index, 0, 0)))
"""


@pytest.fixture(scope="module")
def world(cloud: Cloud) -> Iterator[Outside]:
    """The servers outside, and a service that knows the stand-in."""
    own = host_addresses()
    answers = {
        "public.test": [[STAND_IN, STAND_IN_6]],
        "mixed.test": [[STAND_IN, "127.0.0.3", "10.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", *own]],
        "rebinding.test": [[STAND_IN], ["127.0.0.3"]],
        "private.test": [["10.0.0.1", "192.168.0.1", "100.64.0.1", "fd00::1"]],
        "loopback.test": [["127.0.0.1", "127.0.0.3", "::1"]],
        "metadata.test": [["169.254.169.254", "fd00:ec2::254"]],
        "host.test": [own],
        "mapped.test": [["::ffff:10.0.0.1", "::ffff:127.0.0.3", "64:ff9b::a00:1", "2002:7f00:1::1"]],
        "many.test": [[f"9.9.{number // 250}.{number % 250 + 1}" for number in range(150)]],
    }
    with outside(answers) as made:
        cloud.configure(rest=made.settings())
        cloud.stop()
        cloud.start()
        try:
            yield made
        finally:
            cloud.configure()
            cloud.stop()
            cloud.start()


@pytest.fixture(scope="module")
def guest(world: Outside, cloud: Cloud, image: str) -> Iterator[Vm]:
    """One VM for the questions that change nothing."""
    vm = cloud.run(image)
    vm.snippet(GUEST)
    yield vm
    vm.terminate()


@pytest.fixture
def own_guest(world: Outside, launch: Callable[..., Vm]) -> Vm:
    vm = launch()
    vm.snippet(GUEST)
    return vm


def answer(vm: Vm, source: str) -> Any:
    """The value of a snippet's last expression."""
    return ast.literal_eval(vm.snippet(source))


def refused(words: str) -> bool:
    """An error that came from a refusal, not from the end of somebody's patience."""
    return words.endswith("Error") and words != "TimeoutError"


# -- what is allowed ---------------------------------------------------------------------------------------------------


def test_a_public_address_answers_by_address_and_by_name(guest: Vm) -> None:
    assert answer(guest, f"tries('{STAND_IN}', {WEB})").endswith("hello from outside")
    assert answer(guest, f"tries('{STAND_IN_6}', {WEB})").endswith("hello from outside")
    assert answer(guest, "names('public.test')") == sorted([STAND_IN_6, STAND_IN])
    assert answer(guest, "urllib.request.urlopen('http://public.test/').read()") == b"hello from outside"


def test_a_public_address_is_public_for_its_declared_port_only(guest: Vm) -> None:
    assert refused(answer(guest, f"tries('{STAND_IN}', 8080)"))


def test_large_transfers_are_whole(guest: Vm) -> None:
    sha256 = hashlib.sha256(big()).hexdigest()
    guest.snippet(f"data = urllib.request.urlopen('http://{STAND_IN}/big').read()")
    assert answer(guest, "len(data), hashlib.sha256(data).hexdigest()") == (BIG_BYTES, sha256)
    posted = f"urllib.request.urlopen('http://{STAND_IN}/', data).read()"
    assert answer(guest, posted) == sha256.encode()
    guest.snippet("del data")


def test_half_closed_connections_go_on_in_the_other_direction(guest: Vm) -> None:
    guest_ends_first = (
        f"s = socket.create_connection(('{STAND_IN}', {COUNT}), 8)\n"
        "s.sendall(b'c' * 100_000); s.shutdown(socket.SHUT_WR)\ns.makefile('rb').read()"
    )
    assert answer(guest, guest_ends_first) == b"100000"
    server_ends_first = (
        f"s = socket.create_connection(('{STAND_IN}', {COUNT}), 8)\n"
        "s.sendall(b'x')\nfirst = s.makefile('rb').read()\ns.sendall(b'y' * 100_000)\ns.close()\nfirst"
    )
    assert answer(guest, server_ends_first) == b"greeting"


def test_a_port_where_nobody_listens_is_an_error_at_once(guest: Vm) -> None:
    words, took_s = answer(guest, f"timed(tries, '{STAND_IN}', {CLOSED})")
    assert refused(words)
    assert took_s < 3


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["private", "loopback", "metadata", "host", "mapped", "nowhere"])
def test_names_never_lead_to_what_is_not_public(guest: Vm, name: str) -> None:
    assert answer(guest, f"names('{name}.test')") == "gaierror"


def test_of_a_mixed_answer_only_the_public_part_arrives(guest: Vm) -> None:
    assert answer(guest, "names('mixed.test')") == [STAND_IN]


def test_a_name_that_is_bound_anew_loses_its_way(guest: Vm) -> None:
    assert answer(guest, "names('rebinding.test'), names('rebinding.test')") == ([STAND_IN], "gaierror")


def test_long_answers_come_over_tcp(guest: Vm) -> None:
    assert len(answer(guest, "names('many.test')")) == 150


# -- what is not -------------------------------------------------------------------------------------------------------


def test_no_forbidden_address_answers(guest: Vm, world: Outside) -> None:
    """The port is that of a server which answers on every address of this machine."""
    found = answer(guest, f"tries_all({FORBIDDEN}, {world.web_port})")
    assert [pair for pair in found if not refused(pair[1])] == []


def test_the_hosts_own_addresses_do_not_answer(guest: Vm, world: Outside) -> None:
    forms = [form for own in host_addresses() for form in forms_of(own)]
    reachable = [form for form in host_addresses() if reaches(form, world.web_port)]
    assert len(reachable) >= 2, "the server must answer on them, or this test proves nothing"
    found = answer(guest, f"tries_all({forms}, {world.web_port})")
    assert [pair for pair in found if not refused(pair[1])] == []


def forms_of(address: str) -> list[str]:
    """An address and the IPv6 addresses that a network would turn into it."""
    if ":" in address:
        return [address]
    packed = ipaddress.IPv4Address(address).packed
    high, low = packed[:2].hex(), packed[2:].hex()
    return [address, f"::ffff:{address}", f"64:ff9b::{high}:{low}", f"2002:{high}:{low}::1", f"2600::5efe:{high}:{low}"]


def reaches(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 2):
        return True
    return False


def test_other_protocols_fail_at_once(guest: Vm) -> None:
    udp, raw, icmp = "socket.SOCK_DGRAM, 0", "socket.SOCK_RAW, 1", "socket.SOCK_DGRAM, 1"
    for socket_of, address in (
        (udp, ("198.51.100.7", 443)),
        (udp, ("8.8.8.8", 123)),
        (udp, ("2606:4700:4700::1111", 443)),
        (icmp, ("8.8.8.8", 0)),
        (raw, ("8.8.8.8", 0)),
    ):
        words, took_s = answer(guest, f"timed(sends, {socket_of}, {address})")
        assert words == "PermissionError", (socket_of, address)
        assert took_s < 1


def test_no_egress_means_none(world: Outside, launch: Callable[..., Vm]) -> None:
    vm = launch(egressNetworkConnectors=[NO_EGRESS])
    vm.snippet(GUEST)
    words, took_s = answer(vm, f"timed(tries, '{STAND_IN}', {WEB})")
    assert refused(words)
    assert took_s < 3
    assert answer(vm, "names('public.test')") == "gaierror"


def test_a_vpc_connector_reaches_nothing_unless_the_operator_says(
    world: Outside, cloud: Cloud, launch: Callable[..., Vm]
) -> None:
    core = cloud.client("lambda-core")
    made = core.create_network_connector(Name="egress-test", **VPC)["Arn"]
    until(lambda: core.get_network_connector(Identifier=made)["State"] == "ACTIVE", 10, f"{made} is ACTIVE")
    vm = launch(egressNetworkConnectors=[made])
    assert vm.row()["egressNetworkConnectors"] == [made]
    vm.snippet(GUEST)
    for _ in range(2):
        words, took_s = answer(vm, f"timed(tries, '{STAND_IN}', {WEB})")
        assert refused(words)
        assert took_s < 3
        assert answer(vm, "names('public.test')") == "gaierror"
        vm.suspend()
    told = [event["why"] for event in cloud.inspect(vm.id)["events"] if event["what"] == "VPC connector"]
    assert [made in one and "nothing outside" in one for one in told] == [True]
    with pytest.raises(ClientError, match=f"ResourceConflictException.*is used by MicroVM {vm.id}"):
        core.delete_network_connector(Identifier=made)
    vm.terminate()
    core.delete_network_connector(Identifier=made)
    until(lambda: core.list_network_connectors()["NetworkConnectors"] == [], 10, f"{made} is gone")


# -- the way in --------------------------------------------------------------------------------------------------------


def test_a_shell_connector_alone_lets_no_app_traffic_in(launch: Callable[..., Vm]) -> None:
    vm = launch(ingressNetworkConnectors=[SHELL_INGRESS])
    vm.until("RUNNING")
    with vm.http() as session:
        reply = session.get("/state")
    assert (reply.status_code, reply.content) == (502, b"")


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_outside_connections_end_with_the_sleep_and_inner_ones_live_on(own_guest: Vm, world: Outside) -> None:
    own_guest.snippet(
        f"far = socket.create_connection(('{STAND_IN}', {HOLD}), 8)\ngreeting = far.recv(4)\n"
        "door = socket.create_server(('127.0.0.1', 0))\n"
        "near = socket.create_connection(door.getsockname()); peer, _ = door.accept()\n"
        "near.sendall(b'before')"
    )
    assert own_guest.snippet("greeting") == "b'held'"
    own_guest.suspend()
    assert world.ends.get(timeout=5) in ("closed", "ConnectionResetError")
    assert own_guest.snippet("near.sendall(b' and after'); peer.recv(100)") == "b'before and after'"
    own_guest.snippet(
        "far.settimeout(5)\ntry:\n    end = far.recv(1)\nexcept OSError as e:\n    end = type(e).__name__"
    )
    assert own_guest.snippet("end") == "'ConnectionResetError'"
    assert answer(own_guest, f"tries('{STAND_IN}', {WEB})").endswith("hello from outside")


# -- a guest that breaks its own rules ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root_image(cloud: Cloud, image: str) -> str:
    """As the interpreter, but root with every capability. (Its layers are in the build cache already.)"""
    files = interpreter_files()
    files["Dockerfile"] += b"USER root\n"
    hooks = HOOKS | {"microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120}}
    arn = cloud.create_image("rebel", files, hooks=hooks, additionalOsCapabilities=["ALL"])
    assert cloud.settled(arn)["buildState"] == "SUCCESSFUL", cloud.build_log(arn)
    return arn


@pytest.mark.parametrize("deed", ["flush_rules()", "remove_card('eth0')"])
def test_a_guest_that_breaks_its_rules_has_no_network(
    world: Outside, root_image: str, launch: Callable[..., Vm], deed: str
) -> None:
    vm = launch(imageIdentifier=root_image)
    vm.snippet(GUEST + BREAK_OUT)
    assert answer(vm, f"tries('{STAND_IN}', {WEB})").endswith("hello from outside")
    assert set(answer(vm, deed)) == {0}, "the kernel must have done it"
    assert not answer(vm, f"tries('{STAND_IN}', {WEB}, 1)").endswith("hello from outside")
    forms = [form for own in host_addresses() for form in forms_of(own)]
    found = answer(vm, f"tries_all({forms}, {world.web_port}, 1)")
    assert [pair for pair in found if not pair[1].endswith("Error")] == []
    assert answer(vm, "sends(socket.SOCK_DGRAM, 0, ('8.8.8.8', 123), 1)").endswith("Error")
    with vm.http() as session:  # the endpoint does not pass through the guest's network rules
        assert session.get("/state").status_code == 200
