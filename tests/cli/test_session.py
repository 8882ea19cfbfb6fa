"""`client.env` as we read it, and what a person is told when no service is there."""

from __future__ import annotations

import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from rekindle import config
from rekindle.cli.session import NotRunning, Session, read_exports
from rekindle.clock import wall_ms
from rekindle.core.account import AccessKey
from rekindle.identity import ensure, write_client_files


def session(state: Path) -> Session:
    return Session(lambda listen: config.load(state=state, listen=listen, env={}))


def test_the_reader_understands_what_a_shell_understands(tmp_path: Path) -> None:
    """A state folder with a blank and a quote in its name: our reader and `sh` agree on every variable."""
    settings = config.load(state=tmp_path / "it's a state", env={})
    key = AccessKey("AKIDEXAMPLE", "secret/+$`x", settings.account)
    who = ensure(settings, wall_ms)
    write_client_files(settings, key, "http://127.0.0.1:1", "http://127.0.0.1:2", who.ca_pem)
    path = settings.state / "client.env"
    ours = read_exports(path.read_text())
    script = f". {shlex.quote(str(path))} && env -0"
    output = subprocess.run(["sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True).stdout
    theirs = dict(line.split("=", 1) for line in output.decode().split("\0") if line)
    assert ours["AWS_SECRET_ACCESS_KEY"] == key.secret
    assert ours["REKINDLE_STATE"] == str(settings.state)
    assert ours == {name: theirs[name] for name in ours}


@pytest.mark.parametrize("stage", ["no folder", "no socket", "nobody listens"])
def test_without_a_service_the_error_says_how_to_start_one(tmp_path: Path, stage: str) -> None:
    if stage != "no folder":
        (tmp_path / "run").mkdir()
    if stage == "nobody listens":
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(str(tmp_path / "run/operator.sock"))
    with pytest.raises(NotRunning, match=f"rekindle --state {tmp_path} serve"):
        session(tmp_path).get("/v1/status")


def test_without_client_env_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="start one with"):
        session(tmp_path).environment  # noqa: B018 - the property reads the file


def test_an_api_that_does_not_answer_is_the_same_error(tmp_path: Path) -> None:
    settings = config.load(state=tmp_path, env={})
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    write_client_files(settings, AccessKey("AKID", "secret", settings.account), url, url, tmp_path / "ca.pem")
    here = session(tmp_path)
    with pytest.raises(NotRunning, match="No Rekindle service runs on"), here.aws() as aws:
        aws.list_microvms()
