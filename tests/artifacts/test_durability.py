"""What was acknowledged survives kill -9; what was not leaves nothing; memory does not grow with a body."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from rekindle.artifacts import Limits
from rekindle.artifacts.service import open_service
from rekindle.clock import wall_ms
from rekindle.core.errors import Refused
from tests.artifacts.conftest import Served, serving
from tests.artifacts.server import ALICE
from tests.waiting import until

MIB = 1 << 20
DAY_MS = 86_400_000


def half_a_put(served: Served, path: str, size: int) -> socket.socket:
    """A connection over which half of a body was sent."""
    request = AWSRequest("PUT", served.url + path, data=b"x" * size)
    S3SigV4Auth(Credentials(ALICE.key_id, ALICE.secret), "s3", "us-east-1").add_auth(request)
    where = urlsplit(served.url)
    lines = [f"PUT {path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    connection = socket.create_connection((where.hostname, where.port), timeout=20)
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"x" * (size // 2))
    return connection


def blobs(root: Path) -> set[str]:
    return set(os.listdir(root / "blobs"))


@pytest.mark.slow
def test_kill_9_keeps_what_was_acknowledged_and_nothing_else(tmp_path: Path) -> None:
    data = os.urandom(2 * MIB)
    with serving(tmp_path) as served:
        client = served.client()
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="old", Body=b"kept")
        connection = half_a_put(served, "/bucket/old", 4 * MIB)
        until(lambda: len(blobs(tmp_path)) == 2, 10, "the second blob")
        client.put_object(Bucket="bucket", Key="new", Body=data)
        served.process.kill()
        served.process.wait(10)
        connection.close()
    assert len(blobs(tmp_path)) == 3
    with serving(tmp_path) as served:
        client = served.client()
        assert client.get_object(Bucket="bucket", Key="new")["Body"].read() == data
        assert client.get_object(Bucket="bucket", Key="old")["Body"].read() == b"kept"
        assert len(blobs(tmp_path)) == 2


def test_a_client_that_goes_away_leaves_nothing(plain_store: Served, plain_bucket: str) -> None:
    before = blobs(plain_store.root)
    connection = half_a_put(plain_store, f"/{plain_bucket}/k", 4 * MIB)
    until(lambda: blobs(plain_store.root) != before, 10, "a blob being written")
    connection.close()
    until(lambda: blobs(plain_store.root) == before, 10, "the blob is discarded")
    assert plain_store.client().list_objects_v2(Bucket=plain_bucket)["KeyCount"] == 0


@pytest.mark.slow
def test_memory_is_bounded(plain_store: Served, plain_bucket: str, tmp_path: Path) -> None:
    size = 200 * MIB
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)
    client = plain_store.client()
    with (tmp_path / "big").open("rb") as file:
        client.put_object(Bucket=plain_bucket, Key="big", Body=file)
    body = client.get_object(Bucket=plain_bucket, Key="big")["Body"]
    assert sum(len(piece) for piece in body.iter_chunks(MIB)) == size
    status = Path(f"/proc/{plain_store.process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    assert int(peak[1]) < 120 * 1024


def test_old_unfinished_uploads_are_swept_at_a_start(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        client = served.client()
        client.create_bucket(Bucket="bucket")
        upload = client.create_multipart_upload(Bucket="bucket", Key="k")["UploadId"]
        client.upload_part(Bucket="bucket", Key="k", UploadId=upload, PartNumber=1, Body=b"x")
        with pytest.raises(Refused, match="in use"):
            open_service(tmp_path, wall_ms, Limits())
    for days, left in ((6, 1), (8, 0)):
        open_service(tmp_path, lambda days=days: wall_ms() + days * DAY_MS, Limits()).close()  # type: ignore[misc]
        assert len(blobs(tmp_path)) == left
