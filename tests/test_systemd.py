"""systemd: units that its own checker accepts, sockets that it gives, words that it hears. All by real processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rekindle import config, servers, systemd
from rekindle.core.errors import Invalid
from tests.cli.ground import RUN

#: Does what systemd does before it starts a program: the sockets from descriptor 3 on, and three variables.
ACTIVATE = """
import os, sys
inherited, count, names, program = sys.argv[1:]
high = [os.dup2(int(one), 100 + number) for number, one in enumerate(inherited.split(","))]
os.closerange(3, 100)
for number, one in enumerate(high, start=3):
    os.dup2(one, number)
    os.close(one)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
os.execv(sys.executable, [sys.executable, "-c", program])
"""
TAKE = """
import os, stat
from pathlib import Path
from rekindle import servers, systemd
given = systemd.given_sockets()
print(sorted((name, servers.bound_to(sock), sock.get_inheritable()) for name, sock in given.items()))
print([one for one in range(3, 50) if Path(f"/dev/fd/{one}").exists() and stat.S_ISSOCK(os.stat(one).st_mode)])
print([name for name in os.environ if name.startswith("LISTEN_")])
"""


def settings(state: Path, **changes: object) -> config.Config:
    return config.Config(state=state, tools_dir=state / "tools", **changes)  # type: ignore[arg-type]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("folder", ["plain", 'a b "c" 50% $HOME'])
def test_systemd_accepts_the_units(tmp_path: Path, folder: str) -> None:
    program = tmp_path / "a b 50% $HOME" / "rekindle"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    units = systemd.units(settings(tmp_path / folder), program, user=False)
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / name for name in units)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    said = [line for line in done.stderr.splitlines() if "rekindle" in line]
    assert not said, "\n".join(said)
    assert done.returncode == 0, done.stderr


def test_a_service_is_told_to_leave_the_vms_alone(tmp_path: Path) -> None:
    text = systemd.units(settings(tmp_path), Path("/usr/bin/rekindle"), user=True)["rekindle.service"]
    assert "KillMode=process" in text.splitlines()
    assert "WantedBy=default.target" in text.splitlines()


def test_a_program_that_systemd_cannot_name(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="holds a quote or a backslash"):
        systemd.units(settings(tmp_path), Path('/opt/"x"/rekindle'), user=False)


def test_a_socket_unit_needs_a_port(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="listen: a socket unit needs a port"):
        systemd.units(settings(tmp_path, listen="127.0.0.1:0"), Path("/usr/bin/rekindle"), user=False)


@pytest.fixture
def two() -> Iterator[list[socket.socket]]:
    with closing(servers.bind("127.0.0.1:0", "a")) as first, closing(servers.bind("127.0.0.1:0", "b")) as second:
        yield [first, second]


def activated(sockets: list[socket.socket], count: int, names: str) -> list[str]:
    numbers = [sock.fileno() for sock in sockets]
    return subprocess.run(
        [sys.executable, "-c", ACTIVATE, ",".join(map(str, numbers)), str(count), names, TAKE],
        pass_fds=numbers,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def test_given_sockets_are_taken_by_name(two: list[socket.socket]) -> None:
    taken, descriptors, variables = activated(two, 2, "artifacts:api")
    assert taken == str([("api", servers.bound_to(two[1]), False), ("artifacts", servers.bound_to(two[0]), False)])
    assert descriptors == "[3, 4]"
    assert variables == "[]"


@pytest.mark.parametrize("names", ["", "api", "web:api", "api:api"])
def test_a_socket_that_nobody_wants_is_closed(two: list[socket.socket], names: str) -> None:
    _, descriptors, _ = activated(two, 2, names)
    assert len(descriptors.split(",")) == 1 or descriptors == "[]"


def test_what_was_given_to_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.given_sockets() == {}


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.notify("READY=1")


def init(state: Path, units: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, "--state", str(state), "init", "--systemd", "--units", str(units)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_init_writes_units_also_beside_a_configuration(tmp_path: Path) -> None:
    for _ in range(2):
        done = init(tmp_path / "state", tmp_path / "units")
        assert done.returncode == 0, done.stderr
        assert "enable --now rekindle-api.socket rekindle-artifacts.socket rekindle.service" in done.stdout
    assert f'"{tmp_path / "state"}" serve' in (tmp_path / "units/rekindle.service").read_text()


def test_init_leaves_units_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    theirs = tmp_path / "units/rekindle.service"
    theirs.write_text("[Service]\n")
    done = init(tmp_path / "state", tmp_path / "units")
    assert done.returncode != 0
    assert "exists already with another text" in done.stderr
    assert [one.name for one in (tmp_path / "units").iterdir()] == ["rekindle.service"]
    assert theirs.read_text() == "[Service]\n"
