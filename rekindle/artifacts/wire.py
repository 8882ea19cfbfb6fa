"""From an ASGI scope to a request that is who it says it is, and from a reply back to ASGI messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from rekindle.api import sigv2, sigv4
from rekindle.api.sigv4 import Signature, SignedRequest
from rekindle.api.sigv4_query import Expired
from rekindle.artifacts import codec
from rekindle.artifacts.blobs import Segment
from rekindle.artifacts.body import Incoming
from rekindle.artifacts.errors import S3Error
from rekindle.clock import Clock
from rekindle.core.account import AccessKey, KeyLookup
from rekindle.core.arrival import Arrival, arrival
from rekindle.core.errors import Denied

_KEY_MAX_BYTES = 1024
#: Headers whose meaning we would lose by ignoring them.
_REFUSED = (
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-object-lock-",
    "x-amz-bucket-object-lock-",
    "x-amz-website-redirect-location",
    "x-amz-grant-",
    "x-amz-write-offset-bytes",
    "x-amz-if-match-",
)
_ONLY = {
    "x-amz-acl": ("private", "bucket-owner-full-control"),
    "x-amz-storage-class": ("STANDARD",),
    "x-amz-tagging": ("",),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names; empty strings for the service itself or a bucket itself."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose signature is right. Its body is not read yet."""

    method: str
    target: Target
    query: Mapping[str, str]
    headers: Mapping[str, str]  #: names in lower case, repeated ones joined by a comma
    signature: Signature
    caller: AccessKey
    body: Incoming
    came: Arrival
    at_ms: int

    @property
    def account(self) -> str:
        return self.caller.account

    @property
    def bucket(self) -> str:
        return self.target.bucket

    @property
    def key(self) -> str:
        return self.target.key


@dataclass(frozen=True, slots=True)
class Stream:
    """A stretch of blobs as a reply's body."""

    segments: Sequence[Segment]
    first: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Stream = b""

    @property
    def segments(self) -> Sequence[Segment]:
        return self.body.segments if isinstance(self.body, Stream) else ()

    @property
    def size_bytes(self) -> int:
        return self.body.size_bytes if isinstance(self.body, Stream) else len(self.body)


async def authenticated(scope: Mapping[str, Any], body: Incoming, keys: KeyLookup, clock: Clock) -> Request:
    """The request in `scope`. Raises S3Error for a bad signature, an unknown key, a bad path or a refused header."""
    pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    path_raw, query_raw = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    signed = SignedRequest(scope["method"], path_raw, query_raw, pairs, "")
    signature, key = await _signer(signed, keys, clock)
    query = _query(query_raw)
    headers = _hoisted(query) | _joined(pairs) if "authorization" not in _joined(pairs) else _joined(pairs)
    _refuse(scope["method"], headers)
    return Request(scope["method"], target(path_raw), query, headers, signature, key, body, arrival(scope), clock())


async def _signer(signed: SignedRequest, keys: KeyLookup, clock: Clock) -> tuple[Signature, AccessKey]:
    try:
        second = sigv2.is_presigned(signed) and not any(name.lower() == "authorization" for name, _ in signed.headers)
        key_id = sigv2.claimed_key_id(signed) if second else sigv4.claimed_key_id(signed, service="s3")
        key = await keys(key_id)
        secret = key.secret if key else None
        if second:
            signature = sigv2.check(signed, lambda _: secret, now_ms=clock())
        else:
            signature = sigv4.check(signed, lambda _: secret, service="s3", now_ms=clock())
    except Expired as err:
        times = {"Expires": codec.iso(err.expires_ms), "ServerTime": codec.iso(err.now_ms)}
        raise S3Error(err.code, err.message, **times) from err
    except Denied as err:
        raise S3Error(err.code, err.message) from err
    if key is None:
        raise S3Error("InvalidAccessKeyId")
    return signature, key


def target(path_raw: str) -> Target:
    """`/bucket/key` taken apart; dots and slashes in a key mean nothing. Raises S3Error."""
    bucket, _, key_raw = path_raw.removeprefix("/").partition("/")
    try:
        key = unquote_to_bytes(key_raw.encode("latin-1")).decode()
        name = unquote_to_bytes(bucket.encode("latin-1")).decode()
    except UnicodeDecodeError as err:
        raise S3Error("InvalidURI") from err
    if len(key.encode()) > _KEY_MAX_BYTES:
        raise S3Error("KeyTooLongError", MaxSizeAllowed=str(_KEY_MAX_BYTES))
    return Target(name, key)


def _hoisted(query: Mapping[str, str]) -> dict[str, str]:
    """Headers that a signer moved into the URL, where its signature covers them."""
    moved = {name.lower(): value for name, value in query.items()}
    return {
        name: value
        for name, value in moved.items()
        if name.startswith("x-amz-") or name in ("content-type", "content-md5")
    }


def _joined(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        name = name.lower()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _query(query_raw: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in query_raw.split("&") if part)
    try:
        return {unquote(name, errors="strict"): unquote(value, errors="strict") for name, _, value in pairs}
    except UnicodeDecodeError as err:
        raise S3Error("InvalidURI") from err


def _refuse(method: str, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if name.startswith(_REFUSED) or (name in _ONLY and value not in _ONLY[name]):
            raise S3Error("NotImplemented", f"The header {name} is not implemented.", Header=name)
    if method in ("PUT", "POST") and headers.get("if-none-match", "*") != "*":
        raise S3Error("NotImplemented", "If-None-Match of a write can only be '*'.", Header="If-None-Match")
