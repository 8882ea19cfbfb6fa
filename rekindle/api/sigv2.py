"""AWS Signature Version 2 of a URL: what boto3 makes for a custom S3 endpoint unless told otherwise. S3 only.

Reference: "Signing and authenticating REST requests" in the Amazon S3 API reference. Everything here is HMAC-SHA1 over
the method, three headers, `x-amz-*` and the path with its subresources; the body is not covered, nor is the host.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import unquote

from rekindle.api.sigv4 import UNSIGNED, Signature, SignedRequest
from rekindle.api.sigv4_query import Expired, names
from rekindle.core.errors import Denied

_NEEDED = ("AWSAccessKeyId", "Signature", "Expires")
_SUBRESOURCES = frozenset(
    """
    accelerate acl analytics cors delete inventory lifecycle location logging metrics notification object-lock
    partNumber policy replication requestPayment restore select select-type tagging torrent uploadId uploads versionId
    versioning versions website response-cache-control response-content-disposition response-content-encoding
    response-content-language response-content-type response-expires storageClass
    """.split()  # noqa: SIM905 - forty lines otherwise
)
_NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. Check your key and signing method."
)


def is_presigned(request: SignedRequest) -> bool:
    return bool({"AWSAccessKeyId", "Signature"}.intersection(names(request.query_raw)))


def claimed_key_id(request: SignedRequest) -> str:
    """The access key that the URL names, not yet proven. Raises Denied."""
    return _parameters(request)["AWSAccessKeyId"]


def check(request: SignedRequest, secret_of: Callable[[str], str | None], *, now_ms: int) -> Signature:
    """Who signed the URL. Raises Denied with S3's code. It names no region: that of the answer is us-east-1."""
    values = _parameters(request)
    expires_text = values["Expires"]
    if not (expires_text.isascii() and expires_text.isdigit() and len(expires_text) <= 11):
        raise Denied(f"Invalid date (should be seconds since epoch): {expires_text}", code="AccessDenied")
    expires_ms = int(expires_text) * 1000
    if now_ms > expires_ms:
        raise Expired(expires_ms, now_ms)
    secret = secret_of(values["AWSAccessKeyId"])
    if secret is None:
        text = "The AWS Access Key Id you provided does not exist in our records."
        raise Denied(text, code="InvalidAccessKeyId")
    digest = hmac.new(secret.encode(), _string_to_sign(request, values), hashlib.sha1).digest()
    expected = base64.b64encode(digest)
    if not hmac.compare_digest(expected, values["Signature"].encode("latin-1")):
        raise Denied(_NO_MATCH, code="SignatureDoesNotMatch")
    return Signature(values["AWSAccessKeyId"], "us-east-1", "", "", expected.decode(), UNSIGNED, b"")


def _parameters(request: SignedRequest) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in _pairs(request):
        if name in _NEEDED and name in values:
            raise Denied(f"{name} must be given once.", code="AccessDenied")
        values.setdefault(name, value)
    if not all(values.get(name) for name in _NEEDED):
        text = "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters"
        raise Denied(text, code="AccessDenied")
    if "x-amz-security-token" in values:
        raise Denied("The provided token is malformed or otherwise invalid.", code="InvalidToken")
    return values


def _pairs(request: SignedRequest) -> list[tuple[str, str]]:
    parts = (part.partition("=") for part in request.query_raw.split("&") if part)
    return [(unquote(name, encoding="latin-1"), unquote(value, encoding="latin-1")) for name, _, value in parts]


def _string_to_sign(request: SignedRequest, values: dict[str, str]) -> bytes:
    headers: dict[str, str] = {}
    for name, value in request.headers:
        name = name.lower()
        headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
    for name, value in values.items():
        if name.startswith("x-amz-") or name in ("content-md5", "content-type"):
            headers.setdefault(name, value)  # botocore moves headers into the URL
    lines = [request.method, headers.get("content-md5", ""), headers.get("content-type", ""), values["Expires"]]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-amz-")]
    return "\n".join([*lines, _resource(request)]).encode("latin-1")


def _resource(request: SignedRequest) -> str:
    kept = []
    for part in request.query_raw.split("&"):
        name, equals, value = part.partition("=")
        if name in _SUBRESOURCES:
            kept.append(f"{name}{equals}{unquote(value, encoding='latin-1')}")
    return request.path_raw + (f"?{'&'.join(sorted(kept))}" if kept else "")
