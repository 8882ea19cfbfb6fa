"""Unmodified boto3 and the real AWS CLI against the service on a loopback port."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
import uvicorn
from botocore.exceptions import ClientError

from rekindle.api.app import make_app
from rekindle.clock import wall_ms
from rekindle.config import Config, Memory, Quotas
from rekindle.core.lifecycle import Fact
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, arn

from .conftest import KEYS
from .wire import AWS_BASE, BASE, RecordingEngine, create_params

AWS = Path(sys.executable).with_name("aws")
T = TypeVar("T")


class Service:
    """The API on a port of its own, in a thread with a loop of its own; `on` runs a coroutine there."""

    def __init__(self, folder: Path, quotas: Quotas = Quotas()) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        memory = Memory(extra_sizes_mib=(256,))
        self.config = Config(state=folder, tools_dir=folder, memory=memory, quotas=quotas)
        self.engine = RecordingEngine()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.store = self.on(self._open(folder))
        app = make_app(self.store, self.engine, self.config, wall_ms, host_cpus=2)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        self.served = asyncio.run_coroutine_threadsafe(self.server.serve([self.socket]), self.loop)

    def on(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    async def _open(self, folder: Path) -> Store:
        store = await Store.open(folder / "rekindle.db", wall_ms)
        for account, (key_id, secret) in KEYS.items():
            await store.add_account(account, account)
            await store.add_access_key(key_id, secret, account, "test")
        return store

    async def build(self, name: str) -> None:
        """What the node does when it has built an image."""
        version = await self.store.version(arn(name), "1.0")
        assert version is not None
        version = await self.store.building(version)
        sizes = {"memory_snapshot_bytes": 3, "disk_snapshot_bytes": 2, "code_install_bytes": 1}
        await self.store.built(version, folder=f"{ACCOUNT}/{name}", **sizes)

    async def find(self, vm_id: str, fact: Fact) -> None:
        vm = await self.store.microvm(vm_id)
        assert vm is not None
        await self.store.report(vm, fact)

    def client(self, account: str = ACCOUNT) -> Any:
        key_id, secret = KEYS[account]
        return boto3.client(
            "lambda-microvms",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
        )

    def close(self) -> None:
        self.server.should_exit = True
        self.served.result(timeout=30)
        self.on(self.store.check_invariants())
        self.on(self.store.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.socket.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.mark.slow
def test_boto3_does_the_main_job(service: Service) -> None:
    aws = service.client()
    made = aws.create_microvm_image(**create_params(resources=[{"minimumMemoryInMiB": 256}]))
    assert (made["ResponseMetadata"]["HTTPStatusCode"], made["state"]) == (201, "CREATING")
    service.on(service.build("demo"))
    assert aws.get_microvm_image(imageIdentifier=made["imageArn"])["state"] == "CREATED"
    vm = aws.run_microvm(imageIdentifier=made["imageArn"])
    service.on(service.find(vm["microvmId"], Fact.STARTED))
    token = aws.create_microvm_auth_token(
        microvmIdentifier=vm["microvmId"], expirationInMinutes=5, allowedPorts=[{"allPorts": {}}]
    )
    assert list(token["authToken"]) == ["X-aws-proxy-auth"]
    aws.suspend_microvm(microvmIdentifier=vm["microvmId"])
    service.on(service.find(vm["microvmId"], Fact.SUSPENDED))
    assert aws.get_microvm(microvmIdentifier=vm["microvmId"])["state"] == "SUSPENDED"
    aws.resume_microvm(microvmIdentifier=vm["microvmId"])
    aws.terminate_microvm(microvmIdentifier=vm["microvmId"])
    items = [item for page in aws.get_paginator("list_microvms").paginate() for item in page["items"]]
    assert [(item["microvmId"], item["state"]) for item in items] == [(vm["microvmId"], "TERMINATING")]
    assert vm["startedAt"] == items[0]["startedAt"]
    with pytest.raises(ClientError, match="MicroVM not found: microvm-x"):
        aws.get_microvm(microvmIdentifier="microvm-x")
    with pytest.raises(aws.exceptions.ResourceNotFoundException):
        service.client(OTHER).terminate_microvm(microvmIdentifier=vm["microvmId"])
    change = {name: one for name, one in create_params().items() if name != "name"}
    with pytest.raises(ClientError, match=r"ValidationException.*with running microvms"):
        aws.delete_microvm_image(imageIdentifier=made["imageArn"])
    updated = aws.update_microvm_image(imageIdentifier=made["imageArn"], **change)
    assert (updated["imageVersion"], updated["state"], updated["latestActiveImageVersion"]) == (
        "2.0",
        "UPDATING",
        "1.0",
    )
    with pytest.raises(aws.exceptions.ConflictException):
        aws.update_microvm_image_version(imageIdentifier=made["imageArn"], imageVersion="1.0", status="INACTIVE")


def cli_env(**endpoint: str) -> dict[str, str]:
    """What the AWS CLI runs in: the test account's key, an endpoint variable, and no configuration of this machine."""
    key_id, secret = KEYS[ACCOUNT]
    return {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        **endpoint,
    }


@pytest.mark.slow
def test_the_aws_cli_does_too(service: Service) -> None:
    env = cli_env(AWS_ENDPOINT_URL_LAMBDA_MICROVMS=service.url)

    def aws(*words: str) -> tuple[Any, str]:
        done = subprocess.run([AWS, "lambda-microvms", *words], env=env, capture_output=True, text=True, timeout=120)
        return json.loads(done.stdout) if done.returncode == 0 else None, done.stderr

    service.client().create_microvm_image(**create_params())
    service.on(service.build("demo"))
    vm, said = aws("run-microvm", "--image-identifier", arn("demo"))
    assert not said
    assert vm["state"] == "PENDING"
    listed, _ = aws("list-microvms", "--image-identifier", arn("demo"))
    assert [item["microvmId"] for item in listed["items"]] == [vm["microvmId"]]
    managed, _ = aws("list-managed-microvm-images")
    assert [item["imageArn"] for item in managed["items"]] == [BASE, AWS_BASE]
    nothing, said = aws("get-microvm", "--microvm-identifier", "microvm-x")
    assert nothing is None
    assert "(ResourceNotFoundException)" in said
    assert "MicroVM not found: microvm-x" in said


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /2025-09-09/microvms HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /2025-09-09/microvms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /2025-09-09/microvms HTTP/1.1\r\nHost: x\r\nAuthorization: \xff\xfe\r\n\r\n",
        b"GET /2025-09-09/microvms HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 Credential=a/b/c/d/e, "
        b"SignedHeaders=host, Signature=\r\n\r\n",
        b"BREW * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::bad/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=range(10),
)
def test_garbage_on_the_socket_is_never_our_fault(service: Service, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.socket.getsockname()[1]), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        first = connection.makefile("rb").readline()
    status = first.split()[1] if first else b"-"
    assert not status.startswith(b"5"), first
    assert service.client().list_microvms()["items"] == []
