"""The store as its clients see it: boto3 with its defaults, over HTTP and HTTPS."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from boto3.s3.transfer import TransferConfig

from rekindle.core.account import AccessKey
from tests.artifacts.conftest import Served
from tests.artifacts.server import ALICE, BOB
from tests.waiting import until

Code = Callable[..., tuple[str, int]]
MIB = 1 << 20


def body_of(client: Any, bucket: str, key: str, **more: Any) -> bytes:
    content: bytes = client.get_object(Bucket=bucket, Key=key, **more)["Body"].read()
    return content


def test_buckets_come_and_go(store: Served, code_of: Code) -> None:
    client = store.client()
    client.create_bucket(Bucket="first-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert client.get_bucket_location(Bucket="first-bucket")["LocationConstraint"] == "eu-west-1"
    assert client.head_bucket(Bucket="first-bucket")["BucketRegion"] == "eu-west-1"
    assert "first-bucket" in {found["Name"] for found in client.list_buckets()["Buckets"]}
    assert code_of(client.create_bucket, Bucket="first-bucket") == ("BucketAlreadyOwnedByYou", 409)
    client.put_object(Bucket="first-bucket", Key="k", Body=b"")
    assert code_of(client.delete_bucket, Bucket="first-bucket") == ("BucketNotEmpty", 409)
    client.delete_object(Bucket="first-bucket", Key="k")
    client.delete_bucket(Bucket="first-bucket")
    assert code_of(client.head_bucket, Bucket="first-bucket")[1] == 404
    assert code_of(client.list_objects_v2, Bucket="first-bucket") == ("NoSuchBucket", 404)


def test_what_is_put_is_got(store: Served, bucket: str) -> None:
    client = store.client()
    put = client.put_object(Bucket=bucket, Key="k", Body=b"hello", ContentType="text/x", Metadata={"a": "b c"})
    assert put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
    got = client.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"hello"
    assert (got["ContentType"], got["Metadata"], got["ETag"]) == ("text/x", {"a": "b c"}, put["ETag"])
    assert got["ChecksumCRC32"] == put["ChecksumCRC32"] == "NhCmhg=="
    assert "ContentEncoding" not in got
    head = client.head_object(Bucket=bucket, Key="k")
    assert (head["ContentLength"], head["Metadata"]) == (5, {"a": "b c"})
    client.put_object(Bucket=bucket, Key="k", Body=b"")
    assert body_of(client, bucket, "k") == b""


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_clients_checksums_are_kept_and_given_back(store: Served, bucket: str, algorithm: str) -> None:
    client = store.client()
    put = client.put_object(Bucket=bucket, Key="k", Body=io.BytesIO(b"x" * 100_000), ChecksumAlgorithm=algorithm)
    head = client.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert head["ChecksumType"] == "FULL_OBJECT"
    assert body_of(client, bucket, "k", ChecksumMode="ENABLED") == b"x" * 100_000


def test_ranges(store: Served, bucket: str, code_of: Code) -> None:
    client = store.client()
    client.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for header, expected in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=8-99", b"89")):
        got = client.get_object(Bucket=bucket, Key="k", Range=header)
        assert (got["Body"].read(), got["ResponseMetadata"]["HTTPStatusCode"]) == (expected, 206)
        assert "ChecksumCRC32" not in got
    assert body_of(client, bucket, "k", Range="bytes=5-2") == b"0123456789"
    assert code_of(client.get_object, Bucket=bucket, Key="k", Range="bytes=10-") == ("InvalidRange", 416)


def test_multipart_upload_and_ranged_download(store: Served, bucket: str, tmp_path: Path) -> None:
    client, data = store.client(), os.urandom(12 * MIB + 17)
    (tmp_path / "up").write_bytes(data)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    client.upload_file(str(tmp_path / "up"), bucket, "big", Config=config)
    client.download_file(bucket, "big", str(tmp_path / "down"), Config=config)
    assert (tmp_path / "down").read_bytes() == data
    head = client.head_object(Bucket=bucket, Key="big", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-3"')
    assert head["ChecksumCRC32"].endswith("-3")
    edge = 5 * MIB
    assert body_of(client, bucket, "big", Range=f"bytes={edge - 3}-{edge + 2}") == data[edge - 3 : edge + 3]
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_a_multipart_upload_step_by_step(store: Served, bucket: str, code_of: Code) -> None:
    client = store.client()
    upload = client.create_multipart_upload(
        Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT", ContentType="text/x"
    )
    names = {"Bucket": bucket, "Key": "k", "UploadId": upload["UploadId"]}
    pieces = [b"a" * (5 * MIB), b"b" * 10]
    done = [client.upload_part(**names, PartNumber=n, Body=body) for n, body in enumerate(pieces, 1)]
    listed = client.list_parts(**names)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [(1, 5 * MIB), (2, 10)]
    assert [found["Key"] for found in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["k"]
    parts = [{"PartNumber": n, "ETag": part["ETag"]} for n, part in enumerate(done, 1)]

    def complete(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        return {**names, "MultipartUpload": {"Parts": chosen}}

    finish = client.complete_multipart_upload
    assert code_of(finish, **complete(parts[::-1]))[0] == "InvalidPartOrder"
    assert code_of(finish, **complete([{"PartNumber": 3, "ETag": parts[0]["ETag"]}]))[0] == "InvalidPart"
    assert code_of(client.get_object, Bucket=bucket, Key="k")[0] == "NoSuchKey"
    first = finish(**complete(parts))
    assert finish(**complete(parts))["ETag"] == first["ETag"]  # as after a lost answer
    client.put_object(Bucket=bucket, Key="same", Body=b"".join(pieces))
    whole = client.head_object(Bucket=bucket, Key="same", ChecksumMode="ENABLED")["ChecksumCRC32"]
    assert client.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumCRC32"] == whole
    assert client.head_object(Bucket=bucket, Key="k")["ContentType"] == "text/x"


def test_small_parts_and_aborted_uploads(store: Served, bucket: str, code_of: Code) -> None:
    client = store.client()
    upload = client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    names = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    parts = [{"PartNumber": n, "ETag": client.upload_part(**names, PartNumber=n, Body=b"x")["ETag"]} for n in (1, 2)]
    finish = {**names, "MultipartUpload": {"Parts": parts}}
    assert code_of(client.complete_multipart_upload, **finish)[0] == "EntityTooSmall"
    before = blobs(store)
    client.abort_multipart_upload(**names)
    assert len(before - blobs(store)) == 2
    assert code_of(client.upload_part, **names, PartNumber=1, Body=b"x") == ("NoSuchUpload", 404)


def blobs(store: Served) -> set[str]:
    return set(os.listdir(store.root / "blobs"))


def test_copies(store: Served, bucket: str, code_of: Code) -> None:
    client = store.client()
    client.put_object(Bucket=bucket, Key="a b/ü+%", Body=b"content", Metadata={"m": "1"})
    source = {"Bucket": bucket, "Key": "a b/ü+%"}
    client.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    assert client.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"m": "1"}
    client.copy_object(Bucket=bucket, Key="copy", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "2"})
    assert client.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"n": "2"}
    client.delete_object(**source)
    assert body_of(client, bucket, "copy") == b"content"
    upload = client.create_multipart_upload(Bucket=bucket, Key="joined")["UploadId"]
    names = {"Bucket": bucket, "Key": "joined", "UploadId": upload}
    copy = {"Bucket": bucket, "Key": "copy"}
    part = client.upload_part_copy(**names, PartNumber=1, CopySource=copy, CopySourceRange="bytes=1-3")
    tag = part["CopyPartResult"]["ETag"]
    client.complete_multipart_upload(**names, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})
    assert body_of(client, bucket, "joined") == b"ont"
    assert code_of(client.copy_object, Bucket=bucket, Key="x", CopySource=source)[0] == "NoSuchKey"


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "/abs", "a//b", ".", "..", "a/../b", "sp ace+plus%25", "ünï/キー", "k\x01\n"]
)
def test_keys_are_only_names(store: Served, bucket: str, key: str) -> None:
    client, before = store.client(), blobs(store)
    client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert body_of(client, bucket, key) == key.encode()
    assert [found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert len(blobs(store) - before) == 1
    assert {path.name for path in store.root.iterdir()} <= {"blobs", "index.db", "index.db-wal", "index.db-shm"}
    client.delete_object(Bucket=bucket, Key=key)
    assert blobs(store) == before


def test_keys_that_begin_other_keys(store: Served, bucket: str) -> None:
    client = store.client()
    for key in ("k", "k/", "k/b", "k/b/c"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert [body_of(client, bucket, key) for key in ("k", "k/", "k/b", "k/b/c")] == [b"k", b"k/", b"k/b", b"k/b/c"]
    deleted = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}, {"Key": "k/b"}, {"Key": "none"}]})
    assert [found["Key"] for found in deleted["Deleted"]] == ["k", "k/b", "none"]
    assert [found["Key"] for found in client.list_objects(Bucket=bucket)["Contents"]] == ["k/", "k/b/c"]


def test_lists_in_pages(store: Served, bucket: str) -> None:
    client = store.client()
    keys = ["a", "b/1", "b/2", "b/c/3", "c d", "e/1", "ü/1"]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    for operation in ("list_objects", "list_objects_v2"):
        pages = client.get_paginator(operation).paginate
        for size in (1, 2, 1000):
            config = {"PageSize": size}
            every = [
                o["Key"] for page in pages(Bucket=bucket, PaginationConfig=config) for o in page.get("Contents", [])
            ]
            assert every == keys
            found = list(pages(Bucket=bucket, Delimiter="/", PaginationConfig=config))
            assert [o["Key"] for page in found for o in page.get("Contents", [])] == ["a", "c d"]
            assert [p["Prefix"] for page in found for p in page.get("CommonPrefixes", [])] == ["b/", "e/", "ü/"]
    below = client.list_objects_v2(Bucket=bucket, Prefix="b/", Delimiter="/")
    assert ([o["Key"] for o in below["Contents"]], below["KeyCount"]) == (["b/1", "b/2"], 3)
    assert client.list_objects_v2(Bucket=bucket, StartAfter="c d")["KeyCount"] == 2
    assert client.list_objects_v2(Bucket=bucket, MaxKeys=0)["IsTruncated"] is False


def test_conditions(store: Served, bucket: str, code_of: Code) -> None:
    client = store.client()
    tag = client.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    assert code_of(client.put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert body_of(client, bucket, "k", IfMatch=tag) == b"1"
    assert code_of(client.get_object, Bucket=bucket, Key="k", IfMatch='"other"') == ("PreconditionFailed", 412)
    assert code_of(client.get_object, Bucket=bucket, Key="k", IfNoneMatch=tag)[1] == 304
    second = client.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=tag)["ETag"]
    failed = ("PreconditionFailed", 412)
    assert code_of(client.put_object, Bucket=bucket, Key="k", Body=b"3", IfMatch=tag) == failed
    assert code_of(client.put_object, Bucket=bucket, Key="none", Body=b"3", IfMatch=tag) == ("NoSuchKey", 404)
    assert code_of(client.delete_object, Bucket=bucket, Key="k", IfMatch=tag) == failed
    names = {
        "Bucket": bucket,
        "Key": "k",
        "UploadId": client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"],
    }
    parts = [{"PartNumber": 1, "ETag": client.upload_part(**names, PartNumber=1, Body=b"3")["ETag"]}]
    finish = {**names, "MultipartUpload": {"Parts": parts}}
    assert code_of(client.complete_multipart_upload, **finish, IfMatch=tag) == failed
    assert code_of(client.complete_multipart_upload, **finish, IfNoneMatch="*") == failed
    assert body_of(client, bucket, "k") == b"2"
    third = client.complete_multipart_upload(**finish, IfMatch=second)["ETag"]
    client.delete_object(Bucket=bucket, Key="k", IfMatch=third)
    assert code_of(client.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)


def test_conditions_of_a_copy(store: Served, bucket: str, code_of: Code) -> None:
    client = store.client()
    tag = client.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    at = client.head_object(Bucket=bucket, Key="k")["LastModified"]
    copy = {"Bucket": bucket, "Key": "copy", "CopySource": {"Bucket": bucket, "Key": "k"}}
    early = at.replace(year=2001)
    for change in (
        {"CopySourceIfMatch": '"other"'},
        {"CopySourceIfNoneMatch": tag},
        {"CopySourceIfModifiedSince": at},
        {"CopySourceIfUnmodifiedSince": early},
    ):
        assert code_of(client.copy_object, **copy, **change) == ("PreconditionFailed", 412)
    client.copy_object(**copy, CopySourceIfMatch=tag, CopySourceIfUnmodifiedSince=early)
    client.copy_object(**copy, CopySourceIfNoneMatch='"other"', CopySourceIfModifiedSince=at)
    assert body_of(client, bucket, "copy") == b"1"


def test_accounts_do_not_see_each_other(store: Served, bucket: str, code_of: Code) -> None:
    store.client(ALICE).put_object(Bucket=bucket, Key="secret", Body=b"s")
    bob = store.client(BOB)
    assert bob.list_buckets()["Buckets"] == []
    assert code_of(bob.create_bucket, Bucket=bucket) == ("BucketAlreadyExists", 409)
    at = {"Bucket": bucket, "Key": "secret"}
    for method, arguments in (
        (bob.get_object, at),
        (bob.put_object, {**at, "Body": b"x"}),
        (bob.delete_object, at),
        (bob.list_objects_v2, {"Bucket": bucket}),
        (bob.delete_bucket, {"Bucket": bucket}),
        (bob.create_multipart_upload, at),
    ):
        assert code_of(method, **arguments) == ("AccessDenied", 403)
    assert code_of(bob.head_bucket, Bucket=bucket)[1] == 403
    bob.create_bucket(Bucket="bobs-bucket")
    assert code_of(bob.copy_object, Bucket="bobs-bucket", Key="x", CopySource=at) == ("AccessDenied", 403)
    bob.delete_bucket(Bucket="bobs-bucket")
    assert body_of(store.client(), bucket, "secret") == b"s"


def test_wrong_keys_are_refused(store: Served, bucket: str, code_of: Code) -> None:
    forged = store.client(AccessKey(ALICE.key_id, "x" * 40, ALICE.account))
    stranger = store.client(AccessKey("AKIANOBODY", "x" * 40, ALICE.account))
    put = {"Bucket": bucket, "Key": "k", "Body": b"x" * 100_000}
    assert code_of(forged.put_object, **put) == ("SignatureDoesNotMatch", 403)
    assert code_of(stranger.put_object, **put) == ("InvalidAccessKeyId", 403)
    assert store.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_the_rest_is_not_implemented(store: Served, bucket: str, code_of: Code) -> None:
    client = store.client()
    assert code_of(client.get_bucket_versioning, Bucket=bucket) == ("NotImplemented", 501)
    assert (
        code_of(client.put_object, Bucket=bucket, Key="k", Body=b"", ServerSideEncryption="AES256")[0]
        == "NotImplemented"
    )
    assert code_of(client.put_object, Bucket=bucket, Key="k", Body=b"", ACL="public-read")[0] == "NotImplemented"
    assert code_of(client.create_bucket, Bucket="192.168.1.1") == ("InvalidBucketName", 400)
    assert code_of(client.get_object, Bucket=bucket, Key="k" * 1025)[0] == "KeyTooLongError"


def test_an_error_before_the_body_leaves_the_connection_usable(store: Served, bucket: str, code_of: Code) -> None:
    """Expect: 100-continue: the body of a refused PUT must not be read as the next request."""
    client = store.client()
    for size in (10, 3 * MIB):
        for _ in range(3):
            missing = {"Bucket": "no-such-bucket", "Key": "k", "Body": io.BytesIO(b"x" * size)}
            assert code_of(client.put_object, **missing) == ("NoSuchBucket", 404)
            assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_an_object_that_is_being_read_is_read_to_its_end(store: Served, bucket: str) -> None:
    client, before, data = store.client(), blobs(store), os.urandom(16 * MIB)
    client.put_object(Bucket=bucket, Key="k", Body=data)
    body = client.get_object(Bucket=bucket, Key="k")["Body"]
    start = body.read(10)
    client.delete_object(Bucket=bucket, Key="k")
    assert blobs(store) != before
    assert start + body.read() == data
    until(lambda: blobs(store) == before, 10, "the blob goes with its last reader")


def test_an_unsigned_request_is_refused(plain_store: Served, plain_bucket: str) -> None:
    answer = httpx.get(f"{plain_store.url}/{plain_bucket}/k", trust_env=False)
    assert (answer.status_code, "<Code>AccessDenied</Code>" in answer.text) == (403, True)
    assert f"<RequestId>{answer.headers['x-amz-request-id']}</RequestId>" in answer.text
