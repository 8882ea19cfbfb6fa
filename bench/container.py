"""The same app as an ordinary container: `runc run` of the toolbox on the unpacked root disk, until its first answer.

It shares the host's kernel and has no memory of anything: what a microVM costs more, and what it gives, shows beside
it. A child process does the work in mount and network namespaces of its own, which end with it.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from bench.cold import Image
from rekindle.driver.probe import tree_program

ANSWER_S = 60.0
END_S = 20.0
LOOK_AGAIN_S = 0.001
NAME = "rekindle-bench"
_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]  # fmt: skip
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


@contextmanager
def runner(tree: Path, image: Image, scratch: Path) -> Iterator[Runner]:
    """Containers of `image`, one after another. Needs root."""
    bundle = scratch / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    (scratch / "tree").mkdir()
    _unpack(tree, image.folder / "root.erofs", bundle / "rootfs")
    (bundle / "config.json").write_text(json.dumps(_config(image.config, bundle / "rootfs")))
    argv = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, "-m", "bench.container"]
    argv += [str(tree), str(scratch), str(image.port), image.path]
    try:
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield Runner(process)
    finally:
        shutil.rmtree(scratch)


class Runner:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._asked = cast(IO[bytes], process.stdin)
        self._answers = cast(IO[bytes], process.stdout)

    def run(self) -> float:
        """Seconds from `runc run` to the app's first answer; then the container is gone."""
        self._asked.write(b"\n")
        self._asked.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError("the container did not answer; see what its child process said")
        return float(line)


def _unpack(tree: Path, erofs: Path, into: Path) -> None:
    argv = tree_program(tree, "fsck.erofs")
    subprocess.run([*argv, f"--extract={into}", "--preserve", "--overwrite", erofs], check=True, capture_output=True)


def _config(image: Mapping[str, Any], root: Path) -> dict[str, object]:
    """An OCI runtime configuration as close to Docker's as the microVM's container is; the network is the caller's."""
    uid, gid = _user(str(image["user"]), root)
    env = {"HOME": "/", **image["env"]}
    capabilities = _CAPABILITIES if uid == 0 else []
    process = {
        "args": list(image["argv"]),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": image["workdir"] or "/",
        "user": {"uid": uid, "gid": gid},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        "noNewPrivileges": True,
    }
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
    ]
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs"},
        "hostname": "localhost",
        "mounts": mounts,
        "linux": {"namespaces": namespaces, "cgroupsPath": f"/{NAME}"},
    }


def _user(user: str, root: Path) -> tuple[int, int]:
    """A name or number as uid and gid; an image without a passwd file has numbers only."""
    name = user.partition(":")[0] or "0"
    if name.isdigit():
        return int(name), int(name)
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2]), int(fields[3])
    raise RuntimeError(f"no user {name} in the image")


# -- in the child ------------------------------------------------------------------------------------------------------


def main() -> None:
    tree, scratch, port, path = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    _loopback_up()
    root = scratch / "tree"
    _mount(tree, root, scratch / "bundle")
    for _ in sys.stdin:
        print(_round(root, port, path), flush=True)


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _mount(tree: Path, root: Path, bundle: Path) -> None:
    """The tree as runc's root, the bundle on its empty /vm. All of it ends with this process's namespace."""
    binds = [(tree, root), (Path("/sys"), root / "sys"), (Path("/dev"), root / "dev"), (bundle, root / "vm")]
    for source, target in binds:
        subprocess.run(["mount", "--rbind", source, target], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    for name in ("run", "tmp"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root / name], check=True)


def _round(root: Path, port: int, path: str) -> float:
    runc = ["chroot", str(root), "/usr/sbin/runc"]
    before = time.perf_counter()
    quiet: dict[str, int] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    container = subprocess.Popen([*runc, "run", "--bundle", "/vm", NAME], **quiet)  # type: ignore[call-overload]
    try:
        _first_answer(container, port, path)
        return time.perf_counter() - before
    finally:
        subprocess.run([*runc, "kill", NAME, "KILL"], check=True)
        container.wait(END_S)  # runc removes the container and its cgroups itself


def _first_answer(container: subprocess.Popen[bytes], port: int, path: str) -> None:
    pidfd = os.pidfd_open(container.pid)
    try:
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            try:
                return _get(port, path)
            except (ConnectionRefusedError, ConnectionResetError):  # nobody tells when it listens
                if select.select([pidfd], [], [], LOOK_AGAIN_S)[0]:
                    break
    finally:
        os.close(pidfd)
    raise RuntimeError("the container's app gave no answer")


def _get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise RuntimeError(f"the container's app answered {response.status}")
        response.read()
    finally:
        connection.close()


if __name__ == "__main__":
    main()
