"""Bodies that are not what they say are refused, and nothing of them is kept."""

from __future__ import annotations

import base64
import http.client
import io
import os
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from rekindle.artifacts import codec
from rekindle.artifacts.errors import S3Error
from tests.artifacts.conftest import Served
from tests.artifacts.server import ALICE

TRAILER = {"checksum": {"request_algorithm": {"in": "trailer"}}}
CRC = base64.b64encode(zlib.crc32(b"hello").to_bytes(4, "big")).decode()


def put(
    served: Served, path: str, signed: bytes, sent: bytes, context: dict[str, Any], **headers: str
) -> tuple[int, str]:
    """A PUT that was signed for one body and sends another; the answer's status and error code."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest("PUT", served.url + path, named, data=signed)
    request.context = context
    S3SigV4Auth(Credentials(ALICE.key_id, ALICE.secret), "s3", "us-east-1").add_auth(request)
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=20)
    try:
        connection.request("PUT", path, sent, dict(request.headers))
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    return answer.status, ElementTree.fromstring(text).findtext("Code") or "" if text else ""


def chunked(data: bytes, crc: str, name: str = "x-amz-checksum-crc32") -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b:%b\r\n\r\n" % (len(data), data, name.encode(), crc.encode())


def test_a_body_that_was_changed_on_the_way(plain_store: Served, plain_bucket: str) -> None:
    path = f"/{plain_bucket}/k"
    before = os.listdir(plain_store.root / "blobs")
    assert put(plain_store, path, b"hello", b"hellx", {}) == (400, "XAmzContentSHA256Mismatch")
    md5 = base64.b64encode(bytes(16)).decode()
    assert put(plain_store, path, b"hello", b"hello", {}, content_md5=md5) == (400, "BadDigest")
    assert put(plain_store, path, b"hello", b"hello", {}, content_md5="x") == (400, "InvalidDigest")
    assert put(plain_store, path, b"hello", b"hello", {}, x_amz_checksum_crc32="AAAAAA==") == (400, "BadDigest")
    assert plain_store.client().list_objects_v2(Bucket=plain_bucket)["KeyCount"] == 0
    assert os.listdir(plain_store.root / "blobs") == before
    assert put(plain_store, path, b"hello", b"hello", {}, x_amz_checksum_crc32=CRC) == (200, "")


def test_chunked_bodies_are_checked_against_their_trailer(plain_store: Served, plain_bucket: str) -> None:
    path = f"/{plain_bucket}/k"

    def send(body: bytes, length: str = "5") -> tuple[int, str]:
        headers = {"content_encoding": "aws-chunked", "x_amz_decoded_content_length": length}
        return put(plain_store, path, b"", body, TRAILER, **headers, x_amz_trailer="x-amz-checksum-crc32")

    assert send(chunked(b"hellx", CRC)) == (400, "BadDigest")
    assert send(chunked(b"hello", CRC, "x-amz-checksum-crc32c")) == (400, "MalformedTrailerError")
    assert send(chunked(b"hello", CRC), "6") == (400, "IncompleteBody")
    assert send(chunked(b"hello", CRC)[:-20]) == (400, "IncompleteBody")
    assert send(b"nonsense") == (400, "IncompleteBody")
    assert plain_store.client().list_objects_v2(Bucket=plain_bucket)["KeyCount"] == 0
    assert send(chunked(b"hello", CRC)) == (200, "")
    got = plain_store.client().get_object(Bucket=plain_bucket, Key="k")
    assert (got["Body"].read(), got["ChecksumCRC32"]) == (b"hello", CRC)


def test_a_wrong_checksum_is_refused_on_both_transports(
    store: Served, bucket: str, code_of: Callable[..., tuple[str, int]]
) -> None:
    client = store.client()
    wrong = {"Bucket": bucket, "Key": "k", "Body": io.BytesIO(b"hello"), "ChecksumCRC32": "AAAAAA=="}
    assert code_of(client.put_object, **wrong) == ("BadDigest", 400)
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("algorithm", ["crc32c", "crc64nvme"])
def test_checksums_that_botocore_has_not(plain_store: Served, plain_bucket: str, algorithm: str) -> None:
    values = {"crc32c": "mnG7TA==", "crc64nvme": "M3eFcAZSQlc="}
    header = {f"x_amz_checksum_{algorithm}": values[algorithm]}
    assert put(plain_store, f"/{plain_bucket}/k", b"hello", b"hello", {}, **header)[0] == 200
    head = plain_store.client().head_object(Bucket=plain_bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm.upper()}"] == values[algorithm]


_ENTITY = b'<!DOCTYPE x [<!ENTITY a "b">]><Delete>&a;</Delete>'


@pytest.mark.parametrize(
    "body",
    [b"", b"<Delete>", b"<Other/>", _ENTITY, b"\xff\xfe<Delete/>", _ENTITY.decode().encode("utf-16")],
)
def test_xml_that_is_not_what_was_asked_for(body: bytes) -> None:
    with pytest.raises(S3Error) as refused:
        codec.parse(body, "Delete")
    assert refused.value.code == "MalformedXML"
