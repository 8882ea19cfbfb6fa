"""The AWS CLI's whole flow with a profile of ours: mb, cp both ways, ls, sync, rm, rb."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from rekindle import identity
from rekindle.config import Config
from tests.artifacts.conftest import Served
from tests.artifacts.server import ALICE

MIB = 1 << 20
AWS = Path(sys.executable).parent / "aws"


class Shell:
    """A shell after `. client.env`."""

    def __init__(self, served: Served, state: Path) -> None:
        config = Config(state=state, tools_dir=state)
        ca = Path(served.ca_pem) if served.ca_pem else state / "none.pem"
        identity.write_client_files(config, ALICE, "http://127.0.0.1:9", served.url, ca)
        self._env = state / "client.env"

    def aws(self, *arguments: str | Path) -> str:
        command = ["sh", "-euc", '. "$0"; exec "$@"', str(self._env), str(AWS), "s3", *map(str, arguments)]
        env = {"PATH": os.environ["PATH"], "HOME": str(self._env.parent)}
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


@pytest.mark.slow
def test_the_clis_whole_flow(store: Served, tmp_path: Path) -> None:
    shell = Shell(store, tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "small.txt").write_text("small")
    (folder / "big").write_bytes(os.urandom(9 * MIB))  # the CLI's multipart threshold is 8 MiB
    shell.aws("mb", "s3://cli-bucket")
    assert "cli-bucket" in shell.aws("ls")
    shell.aws("cp", "--recursive", folder, "s3://cli-bucket/in/")
    listed = shell.aws("ls", "s3://cli-bucket/in/")
    assert f"{9 * MIB} big" in listed
    assert "5 small.txt" in listed
    assert "PRE in/" in shell.aws("ls", "s3://cli-bucket")
    shell.aws("cp", "s3://cli-bucket/in/big", "s3://cli-bucket/copy")
    shell.aws("cp", "s3://cli-bucket/copy", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (folder / "big").read_bytes()
    url = shell.aws("presign", "s3://cli-bucket/in/small.txt").strip()
    trust = ssl.create_default_context(cafile=store.ca_pem)
    assert httpx.get(url, trust_env=False, verify=trust).text == "small"
    shell.aws("rm", "s3://cli-bucket/copy")
    shell.aws("rb", "--force", "s3://cli-bucket")
    assert "cli-bucket" not in shell.aws("ls")
