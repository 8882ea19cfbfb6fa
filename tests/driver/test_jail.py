"""The walls, tried from inside: what a jailed program can see, write, open and become."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.core.errors import MachineError
from rekindle.driver import cgroup, jail, process
from rekindle.driver.jail import Bind, Program, Walls
from rekindle.driver.process import Identity
from rekindle.image.toolbox import Toolbox
from tests import procfs

MIB = 1024**2
MODES = [
    pytest.param(765_001, id="own uid", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")),
    pytest.param(None, id="user namespace"),
]


def _program(toolbox: Toolbox, uid: int | None, *argv: str, binds: tuple[Bind, ...] = (), **walls: int) -> Program:
    return Program(tree=toolbox.root, argv=argv, binds=binds, walls=Walls(uid=uid, **walls))


async def _says(launcher: Path, program: Program) -> str:
    """Run a shell command that must fail, and return what it said: `run` reports only the words of a failure."""
    with pytest.raises(MachineError) as caught:
        await jail.run(launcher, program, within_s=20)
    return caught.value.message


def _shell(toolbox: Toolbox, uid: int | None, command: str, binds: tuple[Bind, ...] = (), **walls: int) -> Program:
    return _program(toolbox, uid, "/usr/bin/sh", "-c", f"{command}; exit 9", binds=binds, **walls)


@pytest.mark.parametrize("uid", MODES)
async def test_a_tool_runs_to_its_end(launcher: Path, toolbox: Toolbox, uid: int | None) -> None:
    await jail.run(launcher, _program(toolbox, uid, "/usr/bin/true"), within_s=20)
    assert "exit status 1" in await _says(launcher, _program(toolbox, uid, "/usr/bin/false"))


@pytest.mark.parametrize("uid", MODES)
async def test_it_sees_no_host(launcher: Path, toolbox: Toolbox, uid: int | None) -> None:
    said = await _says(launcher, _shell(toolbox, uid, "echo /* /etc/* /dev/*; cat /proc/1/status"))
    assert "/bin /dev /etc /lib /lib64 /sbin /usr /etc/ld.so.cache /dev/null /dev/urandom" in said
    assert "No such file" in said


@pytest.mark.parametrize("uid", MODES)
async def test_it_writes_only_what_it_was_given(
    launcher: Path, toolbox: Toolbox, uid: int | None, tmp_path: Path
) -> None:
    mine, read_only = tmp_path / "mine", tmp_path / "read-only"
    for path in (mine, read_only):
        path.write_text("")
        path.chmod(0o666)
    binds = (Bind(mine, "/vm/mine", writable=True), Bind(read_only, "/vm/read-only"))
    command = "echo y > /vm/mine; echo n > /vm/read-only; echo n > /vm/new; echo n > /usr/new; echo n > /new"
    said = await _says(launcher, _shell(toolbox, uid, command, binds))
    assert said.count("Read-only file system") == 4
    assert (mine.read_text(), read_only.read_text()) == ("y\n", "")


@pytest.mark.parametrize("uid", MODES)
async def test_it_cannot_become_more(launcher: Path, toolbox: Toolbox, uid: int | None) -> None:
    said = await _says(launcher, _shell(toolbox, uid, "unshare -m true; unshare -U true; chroot / true; id -u"))
    assert said.count("Operation not permitted") == 3
    assert said.endswith(str(uid if uid is not None else 0))


@pytest.mark.parametrize("uid", MODES)
async def test_limits_hold(launcher: Path, toolbox: Toolbox, uid: int | None, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_text("")
    big.chmod(0o666)
    binds = (Bind(big, "/big", writable=True),)
    command = "ulimit -c; ulimit -n; dd if=/dev/urandom of=/big bs=64k count=64 status=none"
    said = await _says(launcher, _shell(toolbox, uid, command, binds, file_bytes=MIB, open_files=77))
    assert "0\n77" in said
    assert big.stat().st_size == MIB


async def test_a_link_is_never_followed(launcher: Path, toolbox: Toolbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "link").symlink_to(secret)
    said = await _says(launcher, _shell(toolbox, None, "cat /vm/file", (Bind(tmp_path / "link", "/vm/file"),)))
    assert "No such file" in said


async def test_what_cannot_be_built_is_an_error_and_leaves_nothing(
    launcher: Path, toolbox: Toolbox, tmp_path: Path
) -> None:
    before = _children()
    covering = Bind(Path("/etc/passwd"), "/usr/bin/true")
    for program, reason in (
        (_program(toolbox, None, "/usr/bin/no-such-program"), "no-such-program"),
        (_program(toolbox, None, "true"), "absolute path"),
        (replace(_program(toolbox, None, "/usr/bin/true"), pid_file=tmp_path / "no-folder/vmm"), "pid file"),
        (replace(_program(toolbox, None, "/usr/bin/true"), cgroups=[tmp_path / "no-group"]), "cgroup"),
        (_program(toolbox, None, "/usr/bin/true", binds=(Bind(tmp_path / "absent", "/x"),)), "absent"),
        (
            _program(toolbox, None, "/usr/bin/true", binds=(covering,)),
            "covers the tree",
        ),
    ):
        with pytest.raises(MachineError, match=reason):
            await jail.launch(launcher, program)
    assert _children() == before


async def test_a_launcher_that_is_not_there_is_named(toolbox: Toolbox, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="nowhere"):
        await jail.launch(tmp_path / "nowhere", _program(toolbox, None, "/usr/bin/true"))


async def test_a_tool_that_hangs_is_ended(launcher: Path, toolbox: Toolbox) -> None:
    with pytest.raises(MachineError, match="did not end"):
        await jail.run(launcher, _program(toolbox, None, "/usr/bin/sleep", "600"), within_s=0.1)


async def test_the_pid_file_names_the_program_before_it_runs(launcher: Path, toolbox: Toolbox, tmp_path: Path) -> None:
    record = tmp_path / "vmm"
    theirs, ours = socket.socketpair()
    with theirs, ours:
        program = Program(
            tree=toolbox.root,
            argv=["/usr/bin/sh", "-c", "echo here >&3; exec sleep 600"],
            binds=(),
            walls=Walls(uid=None),
            descriptors=[theirs.fileno()],
            pid_file=record,
        )
        who = await jail.launch(launcher, program)
        theirs.close()
        ours.settimeout(10)
        assert ours.recv(16) == b"here\n"
    assert Identity(*map(int, record.read_text().split())) == who
    assert who.alive()
    assert not Identity(who.pid, who.started_ticks + 1).alive()
    await process.kill(Identity(who.pid, who.started_ticks + 1), within_s=5)  # somebody else's: not touched
    assert who.alive()
    await process.kill(who, within_s=5)
    assert not who.alive()
    assert await process.wait(who) == ""


async def test_every_measure_is_reported(launcher: Path, toolbox: Toolbox) -> None:
    measures = await jail.report(launcher, toolbox.root, 765_002 if os.geteuid() == 0 else None)
    assert {"own user", "no new privileges", "no capabilities", "own net namespace"} <= {one.name for one in measures}
    missing = [one for one in measures if not one.active and not one.name.startswith("cgroup")]
    assert not missing
    assert all(one.why_not for one in measures if not one.active)
    assert not cgroup.find(f"doctor-{os.getpid()}")


async def test_a_process_without_walls_is_seen_as_such() -> None:
    measures = jail.observe(os.getpid())
    assert not any(one.active for one in measures if "namespace" in one.name)
    assert all(one.why_not for one in measures if not one.active)


@pytest.mark.skipif(os.geteuid() != 0, reason="cgroups are root's")
async def test_a_memory_limit_ends_only_that_program(launcher: Path, toolbox: Toolbox) -> None:
    group = cgroup.make(f"test-memory-{os.getpid()}", memory_bytes=32 * MIB, pids=8)
    try:
        if group.measures["cgroup memory limit"]:
            pytest.skip(group.measures["cgroup memory limit"])
        hungry = Program(
            tree=toolbox.root,
            argv=["/usr/bin/sh", "-c", 'x=$(head -c 64M /dev/urandom | base64); echo "${#x}"'],
            binds=(),
            walls=Walls(uid=765_003),
            cgroups=group.folders,
        )
        with pytest.raises(MachineError, match="failed"):
            await jail.run(launcher, hungry, within_s=60)
    finally:
        cgroup.remove(group.folders)
    assert not cgroup.find(f"test-memory-{os.getpid()}")


@pytest.mark.parametrize("uid", MODES)
async def test_a_launch_given_up_at_any_moment_leaves_no_child(
    launcher: Path, toolbox: Toolbox, uid: int | None
) -> None:
    """Not even a dead one: the second stage is our child from before its pid is known."""
    before = _children()
    for step in range(80):
        with suppress(TimeoutError):  # or it was faster: then it runs, and ends below
            async with asyncio.timeout(step / 4000):
                await jail.launch(launcher, _program(toolbox, uid, "/usr/bin/sleep", "60"))
        for pid, ticks in _children("sleep"):
            await process.kill(Identity(pid, ticks), within_s=20)
    assert _children() == before


def _children(name: str = "") -> set[tuple[int, int]]:
    """Our children, dead ones too, whose name has `name` in it."""
    ours = [one for one in procfs.processes() if one.parent == os.getpid() and name in one.name]
    return {(one.pid, one.started_ticks) for one in ours}
