"""Presigned URLs, as boto3 makes them: SigV2 by default, SigV4 when told so."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rekindle.core.account import AccessKey
from tests.artifacts.conftest import Served
from tests.artifacts.server import ALICE


def url(served: Served, version: str | None, operation: str, **params: Any) -> str:
    life_s, key = params.pop("life_s", 60), params.pop("signer", ALICE)
    more = {"signature_version": version} if version else {}
    made: str = served.client(key, **more).generate_presigned_url(operation, Params=params, ExpiresIn=life_s)
    assert ("X-Amz-Signature" in made) == (version == "s3v4")
    return made


def ask(method: str, address: str, **more: Any) -> httpx.Response:
    return httpx.request(method, address, trust_env=False, **more)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.text.partition("<Code>")[2].partition("</Code>")[0]


@pytest.mark.parametrize("version", [None, "s3v4"])
def test_an_object_lives_by_urls_alone(plain_store: Served, plain_bucket: str, version: str | None) -> None:
    at = {"Bucket": plain_bucket, "Key": "a b/ü+%"}
    assert ask("PUT", url(plain_store, version, "put_object", **at), content=b"hello").status_code == 200
    assert ask("GET", url(plain_store, version, "get_object", **at)).content == b"hello"
    assert ask("HEAD", url(plain_store, version, "head_object", **at)).headers["content-length"] == "5"
    typed = url(plain_store, version, "get_object", **at, ResponseContentType="text/x")
    assert ask("GET", typed).headers["content-type"] == "text/x"
    assert code(ask("GET", typed.replace("text%2Fx", "text%2Fy"))) == (403, "SignatureDoesNotMatch")
    assert ask("DELETE", url(plain_store, version, "delete_object", **at)).status_code == 204
    assert code(ask("GET", typed)) == (404, "NoSuchKey")


@pytest.mark.parametrize("version", [None, "s3v4"])
def test_a_part_is_put_by_url(plain_store: Served, plain_bucket: str, version: str | None) -> None:
    client = plain_store.client()
    names = {"Bucket": plain_bucket, "Key": "k"}
    names["UploadId"] = client.create_multipart_upload(**names)["UploadId"]
    answer = ask("PUT", url(plain_store, version, "upload_part", **names, PartNumber=1), content=b"part")
    parts = {"Parts": [{"PartNumber": 1, "ETag": answer.headers["etag"]}]}
    client.complete_multipart_upload(**names, MultipartUpload=parts)
    assert client.get_object(Bucket=plain_bucket, Key="k")["Body"].read() == b"part"


@pytest.mark.parametrize("version", [None, "s3v4"])
def test_a_url_is_for_one_method_path_key_and_time(plain_store: Served, plain_bucket: str, version: str | None) -> None:
    at = {"Bucket": plain_bucket, "Key": "k"}
    plain_store.client().put_object(**at, Body=b"x")
    plain_store.client().put_object(Bucket=plain_bucket, Key="other", Body=b"x")
    good = url(plain_store, version, "get_object", **at)
    assert code(ask("DELETE", good)) == (403, "SignatureDoesNotMatch")
    assert code(ask("GET", good.replace("/k?", "/other?"))) == (403, "SignatureDoesNotMatch")
    assert code(ask("GET", good, headers={"Authorization": "AWS4-HMAC-SHA256 x"}))[0] == 400
    stranger = AccessKey("AKIANOBODY", "x" * 40, ALICE.account)
    assert code(ask("GET", url(plain_store, version, "get_object", signer=stranger, **at))) == (
        403,
        "InvalidAccessKeyId",
    )
    forged = AccessKey(ALICE.key_id, "x" * 40, ALICE.account)
    assert code(ask("GET", url(plain_store, version, "get_object", signer=forged, **at))) == (
        403,
        "SignatureDoesNotMatch",
    )
    late = ask("GET", url(plain_store, version, "get_object", **at, life_s=-1))
    if version is None:
        assert code(late) == (403, "AccessDenied")
        assert "Request has expired" in late.text
        assert "<ServerTime>" in late.text
    else:
        assert code(late) == (400, "AuthorizationQueryParametersError")
    assert ask("GET", good).content == b"x"


@pytest.mark.parametrize("change", ["X-Amz-Expires=604801", "X-Amz-Expires=0", "X-Amz-Expires=x", "X-Amz-Date=x"])
def test_parameters_that_are_no_good(plain_store: Served, plain_bucket: str, change: str) -> None:
    good = url(plain_store, "s3v4", "get_object", Bucket=plain_bucket, Key="k")
    name = change.partition("=")[0]
    pieces = [part for part in good.split("&") if not part.startswith(name)]
    for bad in ("&".join([*pieces, change]), "&".join(pieces), f"{good}&{change}"):
        assert code(ask("GET", bad)) == (400, "AuthorizationQueryParametersError")
    assert code(ask("GET", f"{good}&X-Amz-Security-Token=t")) == (400, "InvalidToken")


def test_a_range_only_if_the_object_is_still_the_same(plain_store: Served, plain_bucket: str) -> None:
    at = {"Bucket": plain_bucket, "Key": "k"}
    tag = plain_store.client().put_object(**at, Body=b"0123")["ETag"]
    good = url(plain_store, "s3v4", "get_object", **at)
    date = ask("HEAD", url(plain_store, "s3v4", "head_object", **at)).headers["last-modified"]
    for condition, content in ((tag, b"12"), (date, b"12"), ('"other"', b"0123"), (f"W/{tag}", b"0123")):
        answer = ask("GET", good, headers={"Range": "bytes=1-2", "If-Range": condition})
        assert (answer.content, answer.status_code) == (content, 206 if len(content) == 2 else 200)
