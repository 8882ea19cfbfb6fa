"""A service that systemd starts: it serves at the sockets that it is given, and says when it does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rekindle import servers
from tests.e2e.cloud import Cloud
from tests.test_systemd import ACTIVATE

SERVE = "import sys; from rekindle.cli import main; sys.argv = ['rekindle', '--state', {state!r}, 'serve']; main()"


def test_it_serves_at_given_sockets_and_says_so(tmp_path: Path, tools_dir: Path) -> None:
    cloud = Cloud(tmp_path / "state", tools_dir, first_port=23000)
    cloud.configure()
    with (
        closing(servers.bind("127.0.0.1:0", "the API")) as api,
        closing(servers.bind("127.0.0.1:0", "the artifact store")) as store,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        given = [api.fileno(), store.fileno()]
        words = [sys.executable, "-c", ACTIVATE, ",".join(map(str, given)), "2", "api:artifacts"]
        env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "REKINDLE_TOOLS_DIR": str(tools_dir)}
        with (cloud.state / "serve.log").open("wb") as log:
            cloud.process = subprocess.Popen(
                [*words, SERVE.format(state=str(cloud.state))], pass_fds=given, env=env, stdout=log, stderr=log
            )
        try:
            assert manager.recv(100) == b"READY=1", cloud.log()
        except TimeoutError:
            pytest.fail(cloud.log())
        addresses = [servers.bound_to(api), servers.bound_to(store)]
    try:
        assert where_clients_go(cloud) == addresses
        assert cloud.client().list_microvms()["items"] == []
        cloud.stop()
        cloud.start()  # without systemd: the relay has kept them
        assert where_clients_go(cloud) == addresses
    finally:
        cloud.down()
        cloud.close_clients()


def where_clients_go(cloud: Cloud) -> list[str]:
    names = ("AWS_ENDPOINT_URL_LAMBDA_MICROVMS", "AWS_ENDPOINT_URL_S3")
    return [cloud.env()[name].removeprefix("http://") for name in names]
