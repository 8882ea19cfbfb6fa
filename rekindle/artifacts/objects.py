"""Operations on objects: put, get, head, copy, delete."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from rekindle.artifacts import authorize, checksums, codec, conditions, wire
from rekindle.artifacts.blobs import Segment, Writer
from rekindle.artifacts.body import Hashes, Received
from rekindle.artifacts.buckets import xml
from rekindle.artifacts.checksums import Algorithm, Checksum
from rekindle.artifacts.codec import Node
from rekindle.artifacts.errors import S3Error
from rekindle.artifacts.index import Object, new_id
from rekindle.artifacts.service import Service
from rekindle.artifacts.wire import Reply, Request, Stream, Target

_KEPT = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires")
_META = "x-amz-meta-"
_SOURCE = "x-amz-copy-source-"
_COPY_TO_ITSELF = (
    "This copy request is illegal because it is trying to copy an object to itself without changing the object's "
    "metadata, storage class, website redirect location or encryption attributes."
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def kept_headers(request: Request, metadata_bytes: int) -> dict[str, str]:
    """The headers that a later GET gives back. Raises S3Error when there is too much of them."""
    kept = {name: value for name, value in request.headers.items() if name in _KEPT or name.startswith(_META)}
    size_bytes = sum(len(name) - len(_META) + len(value) for name, value in kept.items() if name.startswith(_META))
    if size_bytes > metadata_bytes:
        raise S3Error("MetadataTooLarge", MaxSizeAllowed=str(metadata_bytes))
    encodings = [part.strip() for part in kept.pop("content-encoding", "").split(",")]
    encodings = [part for part in encodings if part not in ("", "aws-chunked")]  # a transfer form, not the object's
    if encodings:
        kept["content-encoding"] = ",".join(encodings)
    kept.setdefault("content-type", "binary/octet-stream")
    return kept


def checksum_headers(checksum: Checksum | None) -> dict[str, str]:
    if checksum is None:
        return {}
    return {checksum.algorithm.header: checksum.value, "x-amz-checksum-type": checksum.kind.value}


def checksum_elements(checksum: Checksum | None) -> list[Node]:
    if checksum is None:
        return []
    return [(checksum.algorithm.element, checksum.value), ("ChecksumType", checksum.kind.value)]


async def put_object(service: Service, request: Request) -> Reply:
    service.bucket(request.bucket, request)
    condition = conditions.of_write(request.headers)
    condition(service.index.object(request.bucket, request.key))  # before the body; again in the commit
    headers = kept_headers(request, service.limits.metadata_bytes)
    segment, received = await service.receive_blob(request)
    new = _new_object(service, request, received, headers)
    service.publish(segment, lambda: service.index.put_object(new, [segment], condition))
    return Reply(200, {"etag": f'"{new.etag}"', **checksum_headers(new.checksum)})


def _new_object(service: Service, request: Request, received: Received, headers: Mapping[str, str]) -> Object:
    return Object(
        bucket=request.bucket,
        key=request.key,
        id=new_id(),
        size_bytes=received.size_bytes,
        etag=received.md5.hex(),
        updated_at_ms=service.clock(),
        headers=headers,
        checksum=received.checksum,
    )


# --- reading


async def head_object(service: Service, request: Request) -> Reply:
    return await get_object(service, request)  # the edge leaves the body of a HEAD out


async def get_object(service: Service, request: Request) -> Reply:
    found = service.object(request)
    _check_conditions(request.headers, found)
    headers = _object_headers(found) | _overrides(request.query)
    segments = service.index.segments(found)
    unchanged = request.headers.get("if-range", headers["etag"]) in (headers["etag"], headers["last-modified"])
    span = _span(request.headers.get("range"), found.size_bytes) if unchanged else None
    if span is not None:
        first, size_bytes = span
        headers["content-range"] = f"bytes {first}-{first + size_bytes - 1}/{found.size_bytes}"
        return Reply(206, headers, Stream(segments, first, size_bytes))
    if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
        headers |= checksum_headers(found.checksum)  # never with 206: it is the whole object's
    return Reply(200, headers, Stream(segments, 0, found.size_bytes))


def _object_headers(found: Object) -> dict[str, str]:
    return {
        **found.headers,
        "etag": f'"{found.etag}"',
        "last-modified": codec.http_date(found.updated_at_ms),
        "accept-ranges": "bytes",
    }


def _overrides(query: Mapping[str, str]) -> dict[str, str]:
    names = {f"response-{name}": name for name in _KEPT}
    overrides = {names[name]: value for name, value in query.items() if name in names}
    if any(ord(character) < 32 for value in overrides.values() for character in value):
        raise S3Error("InvalidArgument", "A response header cannot hold control characters.")
    return overrides


def _span(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """(first, length) of a single range; None for no range or one that HTTP says to ignore. Raises S3Error (416)."""
    match = _RANGE.fullmatch(header or "")
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), size_bytes - 1) if match[2] else size_bytes - 1
        if match[2] and int(match[2]) < first:
            return None
    else:
        first, last = max(size_bytes - int(match[2]), 0), size_bytes - 1
    if first > last:
        raise S3Error("InvalidRange", RangeRequested=header or "", ActualObjectSize=str(size_bytes))
    return first, last - first + 1


def _check_conditions(headers: Mapping[str, str], found: Object) -> None:
    """RFC 9110 §13.2.2. Raises S3Error with 412 or 304."""
    if "if-match" in headers:
        if not conditions.matches(headers["if-match"], found.etag):
            raise S3Error("PreconditionFailed", Condition="If-Match")
    elif _changed_since(headers.get("if-unmodified-since"), found, absent=False):
        raise S3Error("PreconditionFailed", Condition="If-Unmodified-Since")
    if "if-none-match" in headers:
        if conditions.matches(headers["if-none-match"], found.etag):
            raise S3Error("NotModified")
    elif not _changed_since(headers.get("if-modified-since"), found, absent=True):
        raise S3Error("NotModified")


def _changed_since(header: str | None, found: Object, *, absent: bool) -> bool:
    """Whether the object is newer than the date in `header`; `absent` when there is none that can be read."""
    if header is None:
        return absent
    try:
        at_s = parsedate_to_datetime(header).timestamp()
    except ValueError:
        return absent
    return found.updated_at_ms // 1000 > at_s


# --- copying and deleting


def copy_source(service: Service, request: Request) -> Object:
    """The object that `x-amz-copy-source` names. Raises S3Error."""
    path, _, version = request.headers["x-amz-copy-source"].partition("?versionId=")
    if version not in ("", "null"):
        raise S3Error("NotImplemented", "Object versions are not implemented.")
    source: Target = wire.target(path)
    if not (source.bucket and source.key):
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    authorize.check_object(request, "s3:GetObject", source.bucket, source.key)
    bucket = service.index.bucket(source.bucket)
    if bucket is not None and bucket.account != request.account:
        raise S3Error("AccessDenied")
    if bucket is None:
        raise S3Error("NoSuchBucket", BucketName=source.bucket)
    found = service.index.object(source.bucket, source.key)
    if found is None:
        raise S3Error("NoSuchKey", Key=source.key)
    asked = {name.removeprefix(_SOURCE): value for name, value in request.headers.items() if name.startswith(_SOURCE)}
    try:
        _check_conditions(asked, found)
    except S3Error as err:  # a copy has no 304
        raise S3Error("PreconditionFailed", Condition="x-amz-copy-source-if") from err
    return found


async def copy_bytes(
    service: Service, source: Object, span: tuple[int, int], algorithm: Algorithm | None
) -> tuple[Segment, Received]:
    """A new blob with the stretch (first, length) of `source`, which stays readable meanwhile."""
    segments = service.index.segments(source)
    hashes = Hashes([algorithm] if algorithm else [])

    async def fill(writer: Writer) -> Received:
        async for data in service.blobs.read(segments, *span):
            hashes.update(data)
            await asyncio.to_thread(writer.write, data)
        return hashes.received(algorithm)

    with service.blobs.pinned(segments):
        return await service.write_blob(fill)


async def copy_object(service: Service, request: Request) -> Reply:
    service.bucket(request.bucket, request)
    await service.receive_document(request)  # empty, and proven so
    source = copy_source(service, request)
    replace = request.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
    if not replace and (source.bucket, source.key) == (request.bucket, request.key):
        raise S3Error("InvalidRequest", _COPY_TO_ITSELF)
    headers = kept_headers(request, service.limits.metadata_bytes) if replace else source.headers
    asked = request.headers.get("x-amz-checksum-algorithm")
    algorithm = checksums.named(asked) if asked else source.checksum.algorithm if source.checksum else None
    segment, received = await copy_bytes(service, source, (0, source.size_bytes), algorithm)
    new = _new_object(service, request, received, headers)
    condition = conditions.of_write(request.headers)
    service.publish(segment, lambda: service.index.put_object(new, [segment], condition))
    return xml("CopyObjectResult", copied(new.updated_at_ms, new.etag, new.checksum))


def copied(at_ms: int, etag: str, checksum: Checksum | None) -> list[Node]:
    return [("LastModified", codec.iso(at_ms)), ("ETag", f'"{etag}"'), *checksum_elements(checksum)]


async def delete_object(service: Service, request: Request) -> Reply:
    service.bucket(request.bucket, request)
    service.blobs.delete(service.index.delete_object(request.bucket, request.key, conditions.of_write(request.headers)))
    return Reply(204)


async def delete_objects(service: Service, request: Request) -> Reply:
    service.bucket(request.bucket, request)
    root = codec.parse(await service.receive_document(request), "Delete")
    entries = root.findall("Object")
    if not 1 <= len(entries) <= service.limits.page:
        raise S3Error("MalformedXML")
    if any(entry.find("VersionId") is not None or entry.find("ETag") is not None for entry in entries):
        raise S3Error("NotImplemented", "Deleting by version or ETag is not implemented.")
    keys = [codec.text(entry, "Key") for entry in entries]
    for key in keys:
        authorize.check_object(request, "s3:DeleteObject", request.bucket, key)
    service.blobs.delete(service.index.delete_objects(request.bucket, keys))
    quiet = (root.findtext("Quiet") or "").strip().lower() == "true"
    return xml("DeleteResult", [] if quiet else [("Deleted", [("Key", key)]) for key in keys])
