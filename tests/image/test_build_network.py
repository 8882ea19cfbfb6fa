"""What a build can reach: packages and registries yes, this machine no."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from rekindle.core.errors import BuildFailed, Invalid, MachineError
from rekindle.image import buildnet
from tests.image.building import Room
from tests.waiting import until

pytestmark = pytest.mark.slow

#: Not addresses of this machine, but names that lead back to it, in slirp or in the kernel.
DETOURS = ("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.2.2", "10.0.2.3", "10.0.2.100", "255.255.255.255", "localhost")
DETOURS_6 = ("::1", "::", "::ffff:127.0.0.1")


class Counter:
    """A TCP server on every address of this machine that counts who comes."""

    def __init__(self) -> None:
        self.met = 0
        self.listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._accept)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.met += 1
            peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nmet\n")
            peer.close()


@pytest.fixture
def counter() -> Iterator[Counter]:
    made = Counter()
    made.thread.start()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    made.listener.close()
    made.thread.join()


def own_addresses() -> list[str]:
    """Every address of every interface, of both families, as the kernel lists them."""
    shown = subprocess.run(["ip", "-json", "address"], capture_output=True, check=True, timeout=10).stdout
    return [address["local"] for interface in json.loads(shown) for address in interface["addr_info"]]


def knock(addresses: list[str], port: int, options: str = "") -> str:
    """A RUN step that says for each address whether something answered there."""
    words = " ".join(addresses)
    script = f'for a in {words}; do if timeout 5 bash -c "echo >/dev/tcp/$a/{port}" 2>/dev/null; '
    return f'RUN {options} {script}then echo "OPEN $a"; else echo "shut $a"; fi; done'


async def test_a_step_cannot_reach_this_machine(room: Room, counter: Counter) -> None:
    addresses = list(dict.fromkeys([*own_addresses(), *DETOURS, *DETOURS_6]))
    assert {"127.0.0.1", "::1"} < set(addresses)
    steps = [knock(addresses, counter.port), knock(addresses, counter.port, "--network=host")]
    await room.build("\n".join(["FROM rekindle/debian:13", *steps]) + "\n")
    assert sorted(room.lines.count(f"shut {address}") for address in addresses) == [2] * len(addresses)
    assert not any(line.startswith("OPEN") for line in room.lines)
    assert counter.met == 0


async def test_an_instruction_cannot_fetch_from_this_machine(room: Room, counter: Counter) -> None:
    other = next(address for address in own_addresses() if ":" not in address and not address.startswith("127."))
    for address in ("127.0.0.1", other):
        failed = await room.fails(f"FROM scratch\nADD http://{address}:{counter.port}/x /x\n")
        assert failed.code == "CONTAINER_BUILD_FAILED"
    assert counter.met == 0


async def test_the_operator_may_open_a_door(room: Room, counter: Counter) -> None:
    door = f"127.0.0.1:{counter.port}"
    await room.build(f"FROM rekindle/debian:13\n{knock(['127.0.0.1'], counter.port)}\n", host_services=(door,))
    assert "OPEN 127.0.0.1" in room.lines
    assert counter.met == 1


@pytest.mark.parametrize("service", ["7070", "example.org:80", "[::1]:80"])
async def test_a_door_is_an_address_of_this_machine(room: Room, service: str) -> None:
    with pytest.raises(Invalid):
        await room.build("FROM scratch\n", host_services=(service,))


async def test_no_network_means_none(room: Room) -> None:
    await room.build("FROM rekindle/debian:13\nRUN --network=none ls /sys/class/net; cat /proc/net/route\n")
    assert not any("tap0" in line for line in room.lines)


FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 10.0.0.0
        /8 universe UNICAST
Local:
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 10.1.2.3
        /32 host LOCAL
     |-- 10.1.2.255
        /32 link BROADCAST
"""


def test_networks_that_the_machine_uses_are_left_to_it() -> None:
    assert set(buildnet.local_networks(FIB_TRIE)) == {IPv4Network("10.1.2.3/32"), IPv4Network("10.1.2.255/32")}
    assert not buildnet.free_network(buildnet.routed_networks(FIB_TRIE)).overlaps(IPv4Network("10.0.0.0/8"))
    with pytest.raises(MachineError, match="No free network"):
        buildnet.free_network([IPv4Network("0.0.0.0/0")])


# --- a registry of our own --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def registry_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's docker-registry, unpacked and not installed."""
    folder = tmp_path_factory.mktemp("docker-registry")
    command = ["apt-get", "download", "--quiet", "-o", "APT::Sandbox::User=root", "docker-registry"]
    fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    if fetched.returncode != 0:
        pytest.skip(f"apt cannot fetch docker-registry here: {fetched.stderr.strip()[-200:]}")
    package = next(folder.glob("*.deb"))
    subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True, timeout=60)
    return folder / "usr/bin/docker-registry"


CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem:
    rootdirectory: {folder}
http:
  addr: 127.0.0.1:{port}
"""


@contextmanager
def serving(program: Path, folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "config.yml").write_text(CONFIG.format(folder=folder / "blobs", port=port))
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        process = stack.enter_context(
            subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log)
        )
        stack.callback(process.kill)
        until(lambda: _answers(port), 15, "the registry answers")
        yield f"127.0.0.1:{port}"


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def registry(registry_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(registry_program, tmp_path_factory.mktemp("registry")) as address:
        yield address


def push(registry: str, name: str, tag: str, text: str) -> str:
    """Put an image with one file `/from` into the registry; returns its digest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo("from")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    connection = HTTPConnection(registry, timeout=10)
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["FROM=1"]}}
    config["rootfs"] = {"type": "layers", "diff_ids": [_digest(layer.getvalue())]}
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": _blob(
            connection, name, json.dumps(config).encode(), "application/vnd.docker.container.image.v1+json"
        ),
        "layers": [_blob(connection, name, layer.getvalue(), "application/vnd.docker.image.rootfs.diff.tar")],
    }
    body = json.dumps(manifest).encode()
    assert _put(connection, f"/v2/{name}/manifests/{tag}", body, kind) == 201
    connection.close()
    return _digest(body)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _blob(connection: HTTPConnection, name: str, data: bytes, kind: str) -> dict[str, object]:
    connection.request("POST", f"/v2/{name}/blobs/uploads/")
    with connection.getresponse() as answer:
        answer.read()
        place = answer.headers["location"].split("/v2/", 1)[1]
    assert _put(connection, f"/v2/{place}&digest={_digest(data)}", data, "application/octet-stream") == 201
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}


def _put(connection: HTTPConnection, path: str, body: bytes, kind: str) -> int:
    connection.request("PUT", path, body, {"content-type": kind})
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


async def test_from_a_registry_by_name_and_by_digest(room: Room, registry: str) -> None:
    first = push(registry, "team/app", "1", "first")
    second = push(registry, "team/app", "1", "second")
    for reference, text in (
        (f"team/app:1@{first}", "first"),
        ("team/app:1", "second"),
        (f"team/app@{second}", "second"),
    ):
        built = await room.build(f"FROM {registry}/{reference}\n", insecure_registries=(registry,))
        assert (room.unpacked(built) / "from").read_text() == text
        assert built.config.env["FROM"] == "1"


async def test_a_tag_that_moved_is_noticed(room: Room, registry: str) -> None:
    for text in ("old", "new"):
        push(registry, "team/moving", "latest", text)
        built = await room.build(f"FROM {registry}/team/moving\n", insecure_registries=(registry,))
        assert (room.unpacked(built) / "from").read_text() == text


async def test_an_image_that_is_not_there(room: Room, registry: str) -> None:
    failed = await room.fails(f"FROM {registry}/team/none:1\n", insecure_registries=(registry,))
    assert f"STEP 1/1: FROM {registry}/team/none:1: " in failed.message
    assert "manifest unknown" in failed.message


async def test_the_managed_base_is_nobody_elses_debian(room: Room) -> None:
    """Short names mean docker.io; here nothing resolves it, or a real Debian comes: never our own base."""
    await room.build("FROM rekindle/debian:13\n")
    for name in ("debian:13", "other/debian:13"):
        try:
            await room.build(f"FROM {name}\nRUN test ! -e /etc/apt/apt.conf.d/99rekindle-build\n")
        except BuildFailed as err:
            assert "docker.io" in err.message, err  # noqa: PT017 - both ends are right
