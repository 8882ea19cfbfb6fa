"""`rekindle init`: what clients need is there before the service has ever run, and the service keeps it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from rekindle import clients, config, identity
from rekindle.cli.session import read_exports
from rekindle.clock import wall_ms
from rekindle.store.db import Store

from .ground import RUN

PORTS = ("--listen", "127.0.0.1:7070", "--artifacts", "127.0.0.1:7071")


def init(state: Path, *words: str) -> str:
    command = [sys.executable, "-c", RUN, "--state", str(state), "init", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_clients_find_all_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "a b"
    said = init(state, *PORTS)
    for name in ("rekindle.toml", "client.env", "aws/config", "aws/credentials"):
        assert f"Wrote {state / name}" in said
        assert (state / name).exists()
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(state / "aws/config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(state / "aws/credentials"))
    session = boto3.Session(profile_name="rekindle")
    assert session.client("lambda-microvms").meta.endpoint_url == "http://127.0.0.1:7070"
    assert session.client("s3").meta.endpoint_url == "http://127.0.0.1:7071"
    exports = read_exports((state / "client.env").read_text())
    assert exports["AWS_ACCESS_KEY_ID"] == session.get_credentials().access_key
    assert Path(exports["REKINDLE_CA"]).read_text().startswith("-----BEGIN CERTIFICATE-----")


async def test_the_first_start_keeps_key_and_ca(tmp_path: Path) -> None:
    settings = config.Config(state=tmp_path / "state", tools_dir=tmp_path)
    files = await clients.prepare(settings, wall_ms)
    before = [file.read_bytes() for file in files]
    store = await Store.open(settings.state / "rekindle.db", wall_ms)
    who = identity.ensure(settings, wall_ms)
    await clients.equip(settings, store, "http://127.0.0.1:7070", "http://127.0.0.1:7071", who)
    (key,) = await store.access_keys()
    await store.close()
    assert [file.read_bytes() for file in files] == before
    assert key.secret.encode() in before[0]


def test_a_port_that_is_not_known_yet_is_said(tmp_path: Path) -> None:
    said = init(tmp_path / "state", "--listen", "127.0.0.1:0")
    assert "are written by the first start" in said
    assert not (tmp_path / "state/client.env").exists()
    assert not (tmp_path / "state/rekindle.db").exists()
