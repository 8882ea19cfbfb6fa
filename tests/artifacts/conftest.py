"""A store per test module and transport, and clients of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from rekindle.clock import wall_ms
from rekindle.core.account import AccessKey
from rekindle.identity import ca
from tests.artifacts.server import ALICE


@dataclass(frozen=True)
class Served:
    url: str
    ca_pem: str | None
    root: Path
    process: subprocess.Popen[str]

    def client(self, key: AccessKey = ALICE, **config: Any) -> Any:
        """boto3 with its defaults, but no second attempt: a test must see the first answer."""
        settings = Config(retries={"total_max_attempts": 1}, **config)
        return _session(key).client("s3", endpoint_url=self.url, verify=self.ca_pem, config=settings)


@cache
def _session(key: AccessKey) -> boto3.Session:
    """One per key: a session parses S3's service model once, which takes longer than most tests."""
    return boto3.Session(key.key_id, key.secret, region_name="us-east-1")


@contextmanager
def serving(root: Path, certificates: Path | None = None) -> Iterator[Served]:
    """A store on `root`, over HTTPS if there is a folder for certificates; ended at the end."""
    command = [sys.executable, "-m", "tests.artifacts.server", str(root)]
    ca_pem = None
    if certificates is not None:
        files = ca.ensure(certificates, domain="", now_ms=wall_ms())
        command += [str(files.server_pem), str(files.server_key)]
        ca_pem = str(files.ca_pem)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        scheme = "https" if ca_pem else "http"
        yield Served(
            f"{scheme}://localhost:{port}" if ca_pem else f"{scheme}://127.0.0.1:{port}", ca_pem, root, process
        )
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(autouse=True)
def _no_aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")


@pytest.fixture(scope="module", params=["http", "https"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Both transports: the clients send other bodies over each."""
    certificates = tmp_path_factory.mktemp("ca") if request.param == "https" else None
    with serving(tmp_path_factory.mktemp("store"), certificates) as served:
        yield served


@pytest.fixture(scope="module")
def plain_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("store")) as served:
        yield served


@pytest.fixture
def bucket(store: Served) -> Iterator[str]:
    yield from _bucket(store)


@pytest.fixture
def plain_bucket(plain_store: Served) -> Iterator[str]:
    yield from _bucket(plain_store)


_names = iter(range(1_000_000))


def _bucket(served: Served) -> Iterator[str]:
    """A fresh bucket of Alice's, emptied and deleted afterwards."""
    name, client = f"bucket-{next(_names)}", served.client()
    client.create_bucket(Bucket=name)
    yield name
    for found in client.list_objects_v2(Bucket=name).get("Contents", []):
        client.delete_object(Bucket=name, Key=found["Key"])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def code_of() -> Callable[..., tuple[str, int]]:
    """Calls a client's method that must fail; the error's code and status."""

    def call(method: Callable[..., Any], **arguments: Any) -> tuple[str, int]:
        from botocore.exceptions import ClientError

        with pytest.raises(ClientError) as failed:
            method(**arguments)
        response = failed.value.response
        return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]

    return call
