"""What botocore signs is accepted; the same with one thing changed is not."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from typing import Any
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from rekindle.api import sigv4
from rekindle.api.sigv4 import Identity, SignedRequest
from rekindle.clock import wall_ms
from rekindle.core.errors import Denied

KEY_ID, SECRET = "AKIAEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
ARN = "arn:aws:lambda:us-east-1:000000000000:microvm-image:demo"

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_segments = st.lists(st.one_of(_text, st.sampled_from(["", ".", "..", ARN, "a b", "%41", "~"])), max_size=5)
_query = st.lists(st.tuples(st.text(min_size=1, max_size=4), _text), max_size=4)
_value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=16)
_headers = st.dictionaries(st.sampled_from(["X-Amz-Meta-A", "X-Custom", "Content-Type", "x-amz-target"]), _value)


def secret_of(key_id: str) -> str | None:
    return SECRET if key_id == KEY_ID else None


def signed(
    service: str = "lambda",
    *,
    method: str = "GET",
    path: str = "/2025-09-09/microvms",
    query: list[tuple[str, str]] | None = None,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    region: str = "us-east-1",
) -> SignedRequest:
    """The request as the wire carries it, signed by botocore."""
    request = AWSRequest(method, f"http://127.0.0.1:7070{path}", params=query or [], data=body, headers=headers or {})
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signer(Credentials(KEY_ID, SECRET), service, region).add_auth(request)
    query_raw = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in query or [])
    kept = tuple(request.headers.items())
    return SignedRequest(method, path, query_raw, (("Host", "127.0.0.1:7070"), *kept), hashlib.sha256(body).hexdigest())


def verify(request: SignedRequest, service: str = "lambda", *, later_s: int = 0) -> Identity:
    return sigv4.verify(request, secret_of, service=service, now_ms=wall_ms() + later_s * 1000)


def code_of(request: SignedRequest, service: str = "lambda", **more: Any) -> str:
    with pytest.raises(Denied) as refused:
        verify(request, service, **more)
    return refused.value.code


def with_header(request: SignedRequest, name: str, value: str | None) -> SignedRequest:
    kept = tuple(pair for pair in request.headers if pair[0].lower() != name)
    return dataclasses.replace(request, headers=kept if value is None else (*kept, (name, value)))


def authorization(request: SignedRequest) -> str:
    return dict(request.headers)["Authorization"]


@pytest.mark.parametrize("service", ["lambda", "s3"])
@given(segments=_segments, query=_query, headers=_headers, body=st.binary(max_size=8))
def test_what_botocore_signs_is_accepted(
    service: str, segments: list[str], query: list[tuple[str, str]], headers: dict[str, str], body: bytes
) -> None:
    path = "/" + "/".join(quote(part, safe="~") for part in segments)
    request = signed(service, method="POST", path=path, query=query, headers=headers, body=body)
    assert verify(request, service) == Identity(KEY_ID, "us-east-1")


@pytest.mark.parametrize(
    "path", [f"/2025-09-09/microvm-images/{quote(ARN, safe='')}", f"/tags/{ARN}", "/a/./b/../c//", "/"]
)
def test_arns_and_dots_in_paths(path: str) -> None:
    assert verify(signed(path=path, region="eu-west-1")).region == "eu-west-1"


@given(byte=st.integers(0, 63), to=st.sampled_from("0123456789abcdef"))
def test_no_changed_signature_passes(byte: int, to: str) -> None:
    request = signed()
    text = authorization(request)
    at = len(text) - 64 + byte
    changed = text[:at] + to + text[at + 1 :]
    if changed != text:
        assert code_of(with_header(request, "authorization", changed)) == "InvalidSignatureException"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "DELETE"},
        {"path_raw": "/2025-09-09/microvms/other"},
        {"query_raw": "maxResults=1"},
        {"body_sha256": "0" * 64},
    ],
)
def test_every_part_of_the_request_is_covered(change: dict[str, Any]) -> None:
    assert code_of(dataclasses.replace(signed(body=b"{}"), **change)) == "InvalidSignatureException"


def test_repeated_headers_are_joined_in_order() -> None:
    request = AWSRequest("GET", "http://127.0.0.1:7070/")
    request.headers["x-a"] = "1  2"
    request.headers["x-a"] = " 3"
    SigV4Auth(Credentials(KEY_ID, SECRET), "lambda", "us-east-1").add_auth(request)
    headers = (("host", "127.0.0.1:7070"), *request.headers.items())
    whole = SignedRequest("GET", "/", "", headers, hashlib.sha256(b"").hexdigest())
    assert verify(whole).key_id == KEY_ID
    swapped = dataclasses.replace(whole, headers=tuple(reversed(headers)))
    assert code_of(swapped) == "InvalidSignatureException"


def test_who_is_not_known_is_told_so() -> None:
    request = signed()
    stranger = authorization(request).replace(KEY_ID, "AKIASTRANGER")
    assert code_of(with_header(request, "authorization", stranger)) == "UnrecognizedClientException"
    assert code_of(with_header(request, "authorization", None)) == "MissingAuthenticationTokenException"
    assert code_of(with_header(request, "authorization", "Bearer x")) == "IncompleteSignatureException"
    assert code_of(with_header(request, "x-amz-date", None)) == "IncompleteSignatureException"


@pytest.mark.parametrize("cut", ["Credential", "SignedHeaders", "Signature"])
def test_an_incomplete_authorization_names_what_is_missing(cut: str) -> None:
    request = signed()
    parts = [part for part in authorization(request).split(" ", 1)[1].split(", ") if not part.startswith(cut + "=")]
    short = with_header(request, "authorization", "AWS4-HMAC-SHA256 " + ", ".join(parts))
    with pytest.raises(Denied, match=f"requires '{cut}' parameter"):
        verify(short)


def test_the_scope_must_be_this_service_and_day() -> None:
    assert code_of(signed("ec2")) == "InvalidSignatureException"
    with pytest.raises(Denied, match="scoped to correct service: 'lambda'"):
        verify(signed("ec2"))
    request = signed()
    with pytest.raises(Denied, match="valid terminator"):
        verify(with_header(request, "authorization", authorization(request).replace("aws4_request", "aws5_request")))
    with pytest.raises(Denied, match="Date in Credential scope"):
        verify(with_header(request, "x-amz-date", "20200101T000000Z"))


def test_host_must_be_signed() -> None:
    request = signed()
    text = authorization(request).replace("SignedHeaders=host;", "SignedHeaders=")
    with pytest.raises(Denied, match="'Host' must be a 'SignedHeader'"):
        verify(with_header(request, "authorization", text))


@pytest.mark.parametrize(
    ("service", "minutes", "code"), [("lambda", 5, "InvalidSignatureException"), ("s3", 15, "RequestTimeTooSkewed")]
)
def test_the_clock_may_differ_by_so_much(service: str, minutes: int, code: str) -> None:
    request = signed(service)
    for sign in (1, -1):
        assert verify(request, service, later_s=sign * (minutes * 60 - 20)).key_id == KEY_ID
        assert code_of(request, service, later_s=sign * (minutes * 60 + 20)) == code


def test_a_signed_content_hash_is_honoured_and_must_be_true() -> None:
    digest = hashlib.sha256(b"{}").hexdigest()
    request = signed(method="POST", body=b"{}", headers={"X-Amz-Content-SHA256": digest})
    assert verify(request).key_id == KEY_ID
    assert code_of(dataclasses.replace(request, body_sha256="0" * 64)) == "InvalidSignatureException"
    for value in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        unsigned = signed(method="POST", body=b"{}", headers={"X-Amz-Content-SHA256": value})
        assert code_of(unsigned) == "InvalidSignatureException"


def test_s3_has_its_own_codes() -> None:
    request = signed("s3")
    text = authorization(request)
    assert code_of(with_header(request, "authorization", None), "s3") == "AccessDenied"
    assert code_of(with_header(request, "authorization", text.replace(KEY_ID, "AKIAX")), "s3") == "InvalidAccessKeyId"
    assert code_of(with_header(request, "authorization", text[:-64] + "0" * 64), "s3") == "SignatureDoesNotMatch"
    assert code_of(with_header(request, "x-amz-copy-source", "/b/k"), "s3") == "AccessDenied"
    assert code_of(with_header(request, "x-amz-content-sha256", "nonsense"), "s3") == "InvalidArgument"
    assert code_of(signed("ec2"), "s3") == "AuthorizationHeaderMalformed"


@pytest.mark.parametrize(
    ("context", "payload"),
    [
        ({}, hashlib.sha256(b"x").hexdigest()),
        ({"has_streaming_input": True}, "UNSIGNED-PAYLOAD"),
        ({"checksum": {"request_algorithm": {"in": "trailer"}}}, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
    ],
)
def test_the_s3_payload_is_what_was_signed(context: dict[str, Any], payload: str) -> None:
    request = AWSRequest("PUT", "https://localhost/b/k", {"Content-MD5": "nN1EEYvkjFcTNlAPdJSBeQ=="}, data=b"x")
    request.context = context
    S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", "us-east-1").add_auth(request)
    headers = (("host", "localhost"), *request.headers.items())
    got = sigv4.check(SignedRequest("PUT", "/b/k", "", headers, ""), secret_of, service="s3", now_ms=wall_ms())
    assert (got.payload, got.scope[9:]) == (payload, "us-east-1/s3/aws4_request")


def presigned(service: str, life_s: int = 3600, scoped: str | None = None) -> SignedRequest:
    request = AWSRequest("GET", "http://127.0.0.1:7070/2025-09-09/microvms?maxResults=2")
    signer = S3SigV4QueryAuth if service == "s3" else SigV4QueryAuth
    signer(Credentials(KEY_ID, SECRET), scoped or service, "us-east-1", expires=life_s).add_auth(request)
    path, _, query = request.url.removeprefix("http://127.0.0.1:7070").partition("?")
    return SignedRequest("GET", path, query, (("Host", "127.0.0.1:7070"),), hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize(
    ("service", "expired", "early"),
    [
        ("lambda", "InvalidSignatureException", "InvalidSignatureException"),
        ("s3", "AccessDenied", "AccessDenied"),
    ],
)
def test_a_presigned_request_lives_as_long_as_it_says(service: str, expired: str, early: str) -> None:
    request = presigned(service)
    for later_s in (-60, 0, 3580):
        assert verify(request, service, later_s=later_s) == Identity(KEY_ID, "us-east-1")
    assert code_of(request, service, later_s=3620) == expired
    assert code_of(request, service, later_s=-3600) == early


@pytest.mark.parametrize("service", ["lambda", "s3"])
def test_a_presigned_request_is_for_this_service_host_path_and_query(service: str) -> None:
    request, mismatch = presigned(service), "SignatureDoesNotMatch" if service == "s3" else "InvalidSignatureException"
    elsewhere = (("Host", "127.0.0.1:7071"),)
    more = request.query_raw + "&nextToken=x"
    for change in ({"headers": elsewhere}, {"path_raw": "/x"}, {"query_raw": more}, {"method": "PUT"}):
        assert code_of(dataclasses.replace(request, **change), service) == mismatch
    other = {"lambda": "s3", "s3": "lambda"}[service]
    scope = "AuthorizationHeaderMalformed" if service == "s3" else "InvalidSignatureException"
    assert code_of(presigned(service, scoped=other), service) == scope
    if service == "lambda":
        assert code_of(dataclasses.replace(request, body_sha256="0" * 64), service) == mismatch


def test_one_mechanism_only() -> None:
    for service, code in (("lambda", "IncompleteSignatureException"), ("s3", "InvalidArgument")):
        both = with_header(presigned(service), "authorization", authorization(signed(service)))
        assert code_of(both, service) == code


@given(st.text(st.characters(codec="latin-1"), max_size=80))
def test_any_authorization_is_an_identity_or_a_refusal(text: str) -> None:
    for value in (text, "AWS4-HMAC-SHA256 " + text):
        with pytest.raises(Denied):
            verify(with_header(signed(), "authorization", value))
