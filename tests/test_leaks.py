"""The leak checker finds each kind of leak: every test plants one, sees it named, takes it away and sees it gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from rekindle import unixsock
from rekindle.driver import cgroup
from tests import procfs
from tests.leaks import compare, settled, snapshot
from tests.waiting import until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, namespaces and cgroups")
Plant = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def _running(*argv: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, **options) as child:  # type: ignore[call-overload]
        try:
            yield child
        finally:
            child.kill()


def _is_program(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == name


@contextmanager
def a_child(_: Path) -> Iterator[str]:
    with _running("sleep", "60") as child:
        yield f"pid {child.pid}: sleep"


@contextmanager
def _orphan(command: str, name: str, folder: Path) -> Iterator[int]:
    """A process whose parent is gone and whose session is its own."""
    script = f"setsid {command} >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", script], cwd=folder, check=True, capture_output=True, text=True).stdout)
    until(lambda: _is_program(pid, name), 5, "the orphan runs")
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        until(lambda: not procfs.link(Path(f"/proc/{pid}/exe")), 5, "the orphan is gone")


@contextmanager
def an_orphan_in_the_folder(folder: Path) -> Iterator[str]:
    """Only the folder that it works in tells whose it is."""
    with _orphan("sleep 60", "sleep", folder) as pid:
        yield f"pid {pid}: sleep"


@contextmanager
def an_orphaned_vmm(_: Path) -> Iterator[str]:
    """Only its name tells whose it is."""
    named = "import ctypes, signal; ctypes.CDLL(None).prctl(15, b'qemu-system-x86'); signal.pause()"
    with _orphan(f'python3 -c "{named}"', "qemu-system-x86", Path("/")) as pid:
        yield f"pid {pid}: "


@contextmanager
def a_child_nobody_reaped(_: Path) -> Iterator[str]:
    script = "import signal, subprocess; p = subprocess.Popen(['true']); print(p.pid, flush=True); signal.pause()"
    with _running("python3", "-c", script, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until(lambda: ") Z" in Path(f"/proc/{pid}/stat").read_text(), 5, "the grandchild is a zombie")
        yield f"pid {pid} (zombie)"


@contextmanager
def a_unix_socket(folder: Path) -> Iterator[str]:
    with unixsock.listen(folder / "x.sock"):
        yield "x.sock"
    (folder / "x.sock").unlink()


@contextmanager
def a_port(_: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"listening tcp port {server.getsockname()[1]}"


@contextmanager
def a_mount(folder: Path) -> Iterator[str]:
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    try:
        yield str(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def a_network_namespace(_: Path) -> Iterator[str]:
    with _running("unshare", "--net", "--mount", "sleep", "60") as child:
        until(lambda: _is_program(child.pid, "sleep"), 5, "the namespaces are made")
        yield f"{os.readlink(f'/proc/{child.pid}/ns/net')} of pid {child.pid}"


@contextmanager
def a_pinned_namespace(folder: Path) -> Iterator[str]:
    pin = folder / "net"
    pin.touch()
    subprocess.run(["unshare", f"--net={pin}", "true"], check=True)
    try:
        yield str(pin)
    finally:
        subprocess.run(["umount", pin], check=True)
        pin.unlink()


@contextmanager
def a_cgroup(_: Path) -> Iterator[str]:
    group = cgroup.make(f"planted-{os.getpid()}", memory_bytes=64 << 20, pids=8)
    try:
        yield str(group.folders[0])
    finally:
        cgroup.remove(group.folders)


@contextmanager
def a_file(folder: Path) -> Iterator[str]:
    path = folder / "vms/microvm-1/disk.qcow2"
    path.parent.mkdir(parents=True)
    path.touch()
    try:
        yield "vms/microvm-1/disk.qcow2"
    finally:
        path.unlink()
        path.parent.rmdir()
        path.parent.parent.rmdir()


@contextmanager
def a_temp_folder(_: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rekindle-planted-") as folder:
        yield folder


@contextmanager
def a_descriptor(_: Path) -> Iterator[str]:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        yield "/dev/null"
    finally:
        os.close(descriptor)


PLANTS = [
    ("process", a_child),
    ("process", an_orphan_in_the_folder),
    ("process", an_orphaned_vmm),
    ("process", a_child_nobody_reaped),
    ("socket", a_unix_socket),
    ("socket", a_port),
    pytest.param("mount", a_mount, marks=needs_root),
    pytest.param("namespace", a_network_namespace, marks=needs_root),
    pytest.param("namespace", a_pinned_namespace, marks=needs_root),
    pytest.param("cgroup", a_cgroup, marks=needs_root),
    ("file", a_file),
    ("temp", a_temp_folder),
    ("descriptor", a_descriptor),
]


@pytest.mark.parametrize(("kind", "plant"), PLANTS)
def test_a_planted_leak_is_found_and_its_removal_is_seen(kind: str, plant: Plant, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    with plant(tmp_path) as words:
        found = compare(before, snapshot(tmp_path))
        assert any(leak.kind == kind and words in leak.what for leak in found), found
    assert settled(before, within_s=5) == []


def test_a_leak_that_stays_is_reported_after_the_patience_is_over(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    (tmp_path / "left-over").touch()
    assert [str(leak) for leak in settled(before, within_s=0.05)] == ["file: left-over"]


def test_what_belongs_in_a_state_folder_is_no_leak(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    expected = ("rekindle.db", "rekindle.db-wal", "logs/relay.log", "accounts/1/graph/layer", "keys/token.json")
    for name in (*expected, "images/1/2/root.erofs", "vms/microvm-1/disk.qcow2", "run/left.sock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {leak.what for leak in compare(before, snapshot(tmp_path))}
    images, vms = {"images/1/2", "images/1/2/root.erofs"}, {"vms/microvm-1", "vms/microvm-1/disk.qcow2"}
    assert found == images | vms | {"run/left.sock"}


def test_a_private_temp_folder_is_counted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = snapshot(None)
    (tmp_path / "anything").touch()
    assert [str(leak) for leak in compare(before, snapshot(None))] == [f"temp: {tmp_path}/anything"]


def test_a_census_is_quick(tmp_path: Path) -> None:
    started = time.perf_counter()
    snapshot(tmp_path)
    assert time.perf_counter() - started < 0.3
