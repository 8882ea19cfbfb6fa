"""The doctor on this machine as it is, and on machines that lack something."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rekindle import doctor
from rekindle.check import Check, Verdict
from rekindle.config import Config, Machine
from rekindle.doctor import examine
from rekindle.image import buildnet, toolbox
from tests.leaks import settled, snapshot


def of(checks: list[Check], name: str) -> Check:
    found = [check for check in checks if check.name == name]
    assert found, f"no check {name!r} among {checks}"
    return found[0]


async def test_without_a_toolbox_it_says_what_it_cannot_know_and_how_to_get_it(tmp_path: Path) -> None:
    checks = await examine(Config(state=tmp_path / "not/there/yet", tools_dir=tmp_path / "tools"))
    for name in ("toolbox", "base image", "kvm", "jail"):
        assert of(checks, name).verdict in (Verdict.WARN, Verdict.FAIL)
        assert of(checks, name).fix
    assert of(checks, "python").verdict is Verdict.OK
    assert str(tmp_path) in of(checks, "disk").detail
    assert not (tmp_path / "not").exists()


async def test_it_says_what_of_aws_is_without_effect(tmp_path: Path) -> None:
    told = of(await examine(Config(state=tmp_path, tools_dir=tmp_path / "tools")), "aws").detail
    assert all(word in told for word in ("executionRoleArn", "kmsKeyIdentifier", "logging.cloudWatch", "al2023-1"))


async def test_every_check_that_fails_says_what_to_do(tmp_path: Path) -> None:
    checks = await examine(Config(state=tmp_path, tools_dir=tmp_path / "tools"))
    assert [check.name for check in checks if check.verdict is Verdict.FAIL and not check.fix] == []
    assert len({check.name for check in checks}) == len(checks)


async def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    await examine(Config(state=tmp_path, tools_dir=tmp_path / "tools"))
    assert settled(before, within_s=5) == []


@pytest.mark.slow
async def test_with_a_toolbox_kvm_and_jail_are_tried(tools_dir: Path, tmp_path: Path) -> None:
    if not toolbox.installed(tools_dir):
        pytest.skip("no toolbox on this machine; `make install` makes it")
    before = snapshot(tmp_path)
    checks = await examine(Config(state=tmp_path, tools_dir=tools_dir, machine=Machine(accel="tcg")))
    assert of(checks, "toolbox").verdict is Verdict.OK
    assert doctor.EMULATION in of(checks, "kvm").detail
    assert of(checks, "jail: no new privileges").detail == "active"
    assert settled(before, within_s=5) == []


async def test_an_ordinary_user_without_id_ranges_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setenv("PATH", "/nowhere")
    check = await doctor._user()
    assert check.verdict is Verdict.FAIL
    assert "newuidmap is not installed" in check.detail
    assert "apt install uidmap" in check.fix


def test_builds_of_an_ordinary_user_are_watched_and_need_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(buildnet, "TUN", "/dev/null")
    check = doctor._builds()
    assert check.verdict is Verdict.WARN
    assert "watched" in check.detail
    monkeypatch.setattr(buildnet, "TUN", "/not/there/tun")
    check = doctor._builds()
    assert check.verdict is Verdict.FAIL
    assert "images cannot be built" in check.detail
    assert check.fix == "modprobe tun"


def test_little_disk_is_a_warning_and_none_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(state=tmp_path, tools_dir=tmp_path)
    for least, verdict in (("LITTLE_DISK_BYTES", Verdict.WARN), ("NO_DISK_BYTES", Verdict.FAIL)):
        monkeypatch.setattr(doctor, least, 1 << 60)
        assert doctor._storage(config)[0].verdict is verdict
