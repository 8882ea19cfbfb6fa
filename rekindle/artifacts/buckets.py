"""Operations on buckets and lists."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from urllib.parse import quote

from rekindle.artifacts import codec, listing
from rekindle.artifacts.codec import Node
from rekindle.artifacts.errors import S3Error
from rekindle.artifacts.index import Bucket, Object
from rekindle.artifacts.service import Service
from rekindle.artifacts.wire import Reply, Request

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HOME_REGION = "us-east-1"  # the one whose LocationConstraint is empty


def xml(name: str, content: codec.Content, **headers: str) -> Reply:
    return Reply(200, {"content-type": "application/xml", **headers}, codec.document(name, content))


def owner(account: str) -> list[Node]:
    return [("ID", hashlib.sha256(account.encode()).hexdigest()), ("DisplayName", account)]


async def list_buckets(service: Service, request: Request) -> Reply:
    buckets: list[Node] = [
        ("Bucket", [("Name", bucket.name), ("CreationDate", codec.iso(bucket.created_at_ms))])
        for bucket in service.index.buckets(request.account)
    ]
    return xml("ListAllMyBucketsResult", [("Owner", owner(request.account)), ("Buckets", buckets)])


async def create_bucket(service: Service, request: Request) -> Reply:
    body = await service.receive_document(request)
    name = request.bucket
    if not _valid_name(name):
        raise S3Error("InvalidBucketName", BucketName=name)
    region = _constraint(body) or request.signature.region
    service.index.add_bucket(Bucket(name, request.account, region, service.clock()))
    return Reply(200, {"location": f"/{name}"})


def _valid_name(name: str) -> bool:
    if _NAME.fullmatch(name) is None or ".." in name:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return True
    return False


def _constraint(body: bytes) -> str:
    if not body.strip():
        return ""
    return codec.parse(body, "CreateBucketConfiguration").findtext("LocationConstraint") or ""


async def head_bucket(service: Service, request: Request) -> Reply:
    bucket = service.bucket(request.bucket, request)
    return Reply(200, {"x-amz-bucket-region": bucket.region, "content-type": "application/xml"})


async def delete_bucket(service: Service, request: Request) -> Reply:
    service.bucket(request.bucket, request)
    service.blobs.delete(service.index.delete_bucket(request.bucket))
    return Reply(204)


async def get_location(service: Service, request: Request) -> Reply:
    region = service.bucket(request.bucket, request).region
    return xml("LocationConstraint", "" if region == _HOME_REGION else region)


async def list_objects(service: Service, request: Request) -> Reply:
    """ListObjects (version 1): goes on after `marker`, which may be a common prefix of the page before."""
    query = request.query
    marker = query.get("marker", "")
    first: str | None = listing.after(marker) if marker else ""
    if marker and query.get("delimiter") and marker.endswith(query["delimiter"]):
        first = listing.after_prefix(marker)
    page = _page(service, request, first)
    encode = _encoder(request)
    truncated = page.next_first is not None
    content = [
        *_common(request),
        ("Marker", encode(marker)),
        *([("NextMarker", encode(page.last))] if truncated else []),
        *_result(request, page, with_owner=True),
    ]
    return xml("ListBucketResult", content)


async def list_objects_v2(service: Service, request: Request) -> Reply:
    query = request.query
    start, token = query.get("start-after", ""), query.get("continuation-token")
    first = listing.first_of(token) if token is not None else listing.after(start) if start else ""
    page = _page(service, request, first)
    following = listing.token(page.next_first) if page.next_first is not None else None
    given = ("StartAfter", _encoder(request)(start)) if start else None
    content = [
        *_common(request),
        *([given] if given else []),
        *codec.optional([("ContinuationToken", token), ("NextContinuationToken", following)]),
        ("KeyCount", len(page.objects) + len(page.prefixes)),
        *_result(request, page, with_owner=query.get("fetch-owner") == "true"),
    ]
    return xml("ListBucketResult", content)


def _page(service: Service, request: Request, first: str | None) -> listing.Page:
    bucket = service.bucket(request.bucket, request).name
    limit = page_size(request, "max-keys", service.limits.page)
    if first is None:
        return listing.Page((), (), None, "")
    query = request.query
    return listing.page(
        lambda key, count: service.index.objects_from(bucket, key, count),
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        first=first,
        limit=limit,
    )


def page_size(request: Request, name: str, most: int) -> int:
    """The page size asked for, at most `most`. Raises S3Error."""
    text = request.query.get(name, str(most))
    if not (text.isascii() and text.isdigit()):
        raise S3Error("InvalidArgument", f"Provided {name} not an integer or within integer range")
    return min(int(text), most)


def _common(request: Request) -> list[Node]:
    encode = _encoder(request)
    query = request.query
    content: list[Node] = [("Name", request.bucket), ("Prefix", encode(query.get("prefix", "")))]
    if "delimiter" in query:
        content.append(("Delimiter", encode(query["delimiter"])))
    content.append(("MaxKeys", page_size(request, "max-keys", 1000)))
    if "encoding-type" in query:
        content.append(("EncodingType", query["encoding-type"]))
    return content


class _encoder:
    """How keys appear in this answer: percent-encoded when the client asked for it."""

    def __init__(self, request: Request) -> None:
        kind = request.query.get("encoding-type")
        if kind not in (None, "url"):
            raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
        self._quoted = kind == "url"

    def __call__(self, key: str) -> str:
        return quote(key, safe="/") if self._quoted else key


def _result(request: Request, page: listing.Page, *, with_owner: bool) -> list[Node]:
    encode = _encoder(request)
    account = request.account if with_owner else None
    return [
        ("IsTruncated", "true" if page.next_first is not None else "false"),
        *(("Contents", _entry(found, encode(found.key), account)) for found in page.objects),
        *(("CommonPrefixes", [("Prefix", encode(prefix))]) for prefix in page.prefixes),
    ]


def _entry(found: Object, shown_key: str, account: str | None) -> list[Node]:
    checksum = found.checksum
    return codec.optional(
        [
            ("Key", shown_key),
            ("LastModified", codec.iso(found.updated_at_ms)),
            ("ETag", f'"{found.etag}"'),
            ("ChecksumAlgorithm", checksum.algorithm.name if checksum else None),
            ("ChecksumType", checksum.kind.value if checksum else None),
            ("Size", found.size_bytes),
            ("Owner", owner(account) if account else None),
            ("StorageClass", "STANDARD"),
        ]
    )
