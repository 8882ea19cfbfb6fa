"""A key's policy holds in the artifact store too, operation by operation and object by object."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from rekindle.artifacts import app
from rekindle.artifacts.authorize import ACTIONS, PER_KEY

from .conftest import Served
from .server import CAROL

Code = Callable[..., tuple[str, int]]
DENIED = ("AccessDenied", 403)


def test_every_operation_has_its_action() -> None:
    assert {operation.__name__ for operation in app._OPERATIONS.values()} == {*ACTIONS, PER_KEY}


def test_only_what_the_policy_allows(plain_store: Served, plain_bucket: str, code_of: Code) -> None:
    alice, carol = plain_store.client(), plain_store.client(CAROL)
    at = {"Bucket": plain_bucket}
    alice.put_object(**at, Key="closed", Body=b"1")
    alice.put_object(**at, Key="open/not/this", Body=b"2")
    carol.put_object(**at, Key="open/a", Body=b"3")
    assert carol.get_object(**at, Key="open/a")["Body"].read() == b"3"
    for key in ("closed", "open/not/this"):
        assert code_of(carol.get_object, **at, Key=key) == DENIED
        assert code_of(carol.put_object, **at, Key=key, Body=b"x") == DENIED
        assert code_of(carol.delete_object, **at, Key=key) == DENIED
        assert code_of(carol.copy_object, **at, Key="open/b", CopySource={**at, "Key": key}) == DENIED
        doomed = {"Objects": [{"Key": "open/a"}, {"Key": key}]}
        assert code_of(carol.delete_objects, **at, Delete=doomed) == DENIED
    assert code_of(carol.list_objects_v2, **at) == DENIED
    assert code_of(carol.list_objects_v2, **at, Prefix="closed") == DENIED
    assert [found["Key"] for found in carol.list_objects_v2(**at, Prefix="open/a")["Contents"]] == ["open/a"]
    assert code_of(carol.list_buckets) == DENIED
    assert code_of(carol.create_bucket, Bucket="carols-own") == DENIED
    assert alice.get_object(**at, Key="closed")["Body"].read() == b"1"
    assert {found["Key"] for found in alice.list_objects_v2(**at)["Contents"]} == {"closed", "open/a", "open/not/this"}


def test_a_refusal_is_said_in_iams_words(plain_store: Served, plain_bucket: str) -> None:
    user = f"User: {CAROL.principal} is not authorized to perform: s3:PutObject on resource: "
    for key, why in (
        ("closed", "because no identity-based policy allows the s3:PutObject action"),
        ("open/not/a", "with an explicit deny in an identity-based policy"),
    ):
        with pytest.raises(ClientError) as refused:
            plain_store.client(CAROL).put_object(Bucket=plain_bucket, Key=key, Body=b"x")
        assert refused.value.response["Error"]["Message"] == f'{user}"arn:aws:s3:::{plain_bucket}/{key}" {why}'


def test_uploads_in_parts_are_puts(plain_store: Served, plain_bucket: str, code_of: Code) -> None:
    carol = plain_store.client(CAROL)
    assert code_of(carol.create_multipart_upload, Bucket=plain_bucket, Key="closed") == DENIED
    upload = carol.create_multipart_upload(Bucket=plain_bucket, Key="open/big")["UploadId"]
    part = carol.upload_part(Bucket=plain_bucket, Key="open/big", UploadId=upload, PartNumber=1, Body=b"x" * 10)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    carol.complete_multipart_upload(Bucket=plain_bucket, Key="open/big", UploadId=upload, MultipartUpload=parts)
    assert carol.get_object(Bucket=plain_bucket, Key="open/big")["ContentLength"] == 10
