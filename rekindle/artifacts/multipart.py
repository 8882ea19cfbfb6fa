"""Multipart uploads: the object is its parts' blobs in a row, so completing one copies nothing."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from rekindle.artifacts import checksums, codec, conditions
from rekindle.artifacts.blobs import Segment
from rekindle.artifacts.body import Received
from rekindle.artifacts.buckets import owner, page_size, xml
from rekindle.artifacts.checksums import Checksum
from rekindle.artifacts.codec import Node
from rekindle.artifacts.errors import S3Error
from rekindle.artifacts.index import Object, Part, Upload, new_id
from rekindle.artifacts.objects import (
    checksum_elements,
    checksum_headers,
    copied,
    copy_bytes,
    copy_source,
    kept_headers,
)
from rekindle.artifacts.service import Service
from rekindle.artifacts.wire import Reply, Request

_COPY_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


async def create(service: Service, request: Request) -> Reply:
    service.bucket(request.bucket, request)
    headers = kept_headers(request, service.limits.metadata_bytes)
    await service.receive_document(request)  # empty, and proven so
    asked = request.headers.get("x-amz-checksum-algorithm")
    algorithm = checksums.named(asked) if asked else None
    kind = checksums.kind_of_upload(algorithm, request.headers.get("x-amz-checksum-type")) if algorithm else None
    upload = Upload(
        id=new_id(),
        bucket=request.bucket,
        key=request.key,
        created_at_ms=service.clock(),
        headers=headers,
        algorithm=algorithm,
        kind=kind,
    )
    service.index.add_upload(upload)
    content = [("Bucket", upload.bucket), ("Key", upload.key), ("UploadId", upload.id)]
    more = {}
    if algorithm and kind:
        more = {"x-amz-checksum-algorithm": algorithm.name, "x-amz-checksum-type": kind.value}
    return xml("InitiateMultipartUploadResult", content, **more)


def _upload(service: Service, request: Request) -> Upload:
    service.bucket(request.bucket, request)
    upload_id = request.query.get("uploadId", "")
    found = service.index.upload(upload_id, request.bucket, request.key)
    if found is None:
        raise S3Error("NoSuchUpload", UploadId=upload_id)
    return found


def _part_number(service: Service, request: Request) -> int:
    text = request.query["partNumber"]
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= service.limits.parts):
        most = service.limits.parts
        raise S3Error("InvalidArgument", f"Part number must be an integer between 1 and {most}, inclusive")
    return int(text)


async def upload_part(service: Service, request: Request) -> Reply:
    upload, number = _upload(service, request), _part_number(service, request)
    segment, received = await service.receive_blob(request, upload.algorithm)
    part = _keep(service, upload, number, segment, received)
    headers = checksum_headers(part.checksum)
    headers.pop("x-amz-checksum-type", None)  # a part has none
    return Reply(200, {"etag": f'"{part.etag}"', **headers})


async def upload_part_copy(service: Service, request: Request) -> Reply:
    upload, number = _upload(service, request), _part_number(service, request)
    await service.receive_document(request)  # empty, and proven so
    source = copy_source(service, request)
    span = _copy_span(request.headers.get("x-amz-copy-source-range"), source.size_bytes)
    segment, received = await copy_bytes(service, source, span, upload.algorithm)
    part = _keep(service, upload, number, segment, received)
    return xml(
        "CopyPartResult",
        [node for node in copied(part.updated_at_ms, part.etag, part.checksum) if node[0] != "ChecksumType"],
    )


def _copy_span(header: str | None, size_bytes: int) -> tuple[int, int]:
    if header is None:
        return 0, size_bytes
    match = _COPY_RANGE.fullmatch(header)
    if match is None or not int(match[1]) <= int(match[2]) < size_bytes:
        text = f"Range specified is not valid for source object of size: {size_bytes}"
        raise S3Error("InvalidArgument", text)
    return int(match[1]), int(match[2]) - int(match[1]) + 1


def _keep(service: Service, upload: Upload, number: int, segment: Segment, received: Received) -> Part:
    part = Part(
        number=number,
        segment=segment,
        etag=received.md5.hex(),
        checksum=received.checksum,
        updated_at_ms=service.clock(),
    )
    service.publish(segment, lambda: service.index.put_part(upload, part))
    return part


# --- completing


async def complete(service: Service, request: Request) -> Reply:
    """Can be repeated: a client that lost the answer gets it again as long as the object is there."""
    root = codec.parse(await service.receive_document(request), "CompleteMultipartUpload")
    done = _already(service, request)
    if done is not None:
        return _completed(request, done)
    upload = _upload(service, request)
    parts = _chosen(service, upload, root.findall("Part"))
    new = _joined(service, upload, parts)
    _check_promises(request, new)
    condition = conditions.of_write(request.headers)
    service.blobs.delete(service.index.complete(upload, new, parts, condition))
    return _completed(request, new)


def _already(service: Service, request: Request) -> Object | None:
    service.bucket(request.bucket, request)
    found = service.index.object(request.bucket, request.key)
    return found if found is not None and found.upload == request.query["uploadId"] else None


def _completed(request: Request, new: Object) -> Reply:
    content = [
        ("Location", f"/{new.bucket}/{new.key}"),
        ("Bucket", new.bucket),
        ("Key", new.key),
        ("ETag", f'"{new.etag}"'),
        *checksum_elements(new.checksum),
    ]
    return xml("CompleteMultipartUploadResult", content)


def _chosen(service: Service, upload: Upload, listed: Sequence[ElementTree.Element]) -> list[Part]:
    """The parts that the document lists. Raises S3Error: unknown, changed, out of order, too small, none at all."""
    if not listed:
        raise S3Error("MalformedXML")
    there = {part.number: part for part in service.index.parts(upload.id)}
    chosen = [_listed_part(element, there, upload) for element in listed]
    if any(before.number >= part.number for before, part in itertools.pairwise(chosen)):
        raise S3Error("InvalidPartOrder", UploadId=upload.id)
    for part in chosen[:-1]:
        if part.segment.size_bytes < service.limits.part_min_bytes:
            least = service.limits.part_min_bytes
            raise S3Error("EntityTooSmall", PartNumber=str(part.number), MinSizeAllowed=str(least))
    if sum(part.segment.size_bytes for part in chosen) > service.limits.object_bytes:
        raise S3Error("EntityTooLarge", MaxSizeAllowed=str(service.limits.object_bytes))
    return chosen


def _listed_part(element: ElementTree.Element, there: dict[int, Part], upload: Upload) -> Part:
    number, etag = codec.text(element, "PartNumber").strip(), codec.text(element, "ETag").strip().strip('"')
    if not (number.isascii() and number.isdigit()):
        raise S3Error("MalformedXML")
    part = there.get(int(number))
    if part is None or part.etag != etag or not _same_checksum(element, part):
        raise S3Error("InvalidPart", UploadId=upload.id, PartNumber=number, ETag=etag)
    return part


def _same_checksum(element: ElementTree.Element, part: Part) -> bool:
    if part.checksum is None:
        return True
    listed = element.findtext(part.checksum.algorithm.element)
    return listed is None or listed.strip() == part.checksum.value


def _joined(service: Service, upload: Upload, parts: Sequence[Part]) -> Object:
    md5 = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False)
    return Object(
        bucket=upload.bucket,
        key=upload.key,
        id=new_id(),
        size_bytes=sum(part.segment.size_bytes for part in parts),
        etag=f"{md5.hexdigest()}-{len(parts)}",
        updated_at_ms=service.clock(),
        headers=upload.headers,
        checksum=_whole_checksum(upload, parts),
        upload=upload.id,
    )


def _whole_checksum(upload: Upload, parts: Sequence[Part]) -> Checksum | None:
    algorithm = upload.algorithm
    if algorithm is None or upload.kind is None:
        return None
    digests = [
        (checksums.decode(algorithm, part.checksum.value), part.segment.size_bytes) for part in parts if part.checksum
    ]
    return checksums.of_parts(algorithm, upload.kind, digests)


def _check_promises(request: Request, new: Object) -> None:
    """What the client says about the whole object, in headers of the completing request."""
    size = request.headers.get("x-amz-mp-object-size")
    if size is not None and size != str(new.size_bytes):
        text = f"x-amz-mp-object-size is {size} but the parts have {new.size_bytes} bytes."
        raise S3Error("InvalidRequest", text)
    if new.checksum is None:
        return
    value = request.headers.get(new.checksum.algorithm.header)
    if value is not None and value != new.checksum.value:
        text = f"The {new.checksum.algorithm.name} you specified did not match the calculated checksum."
        raise S3Error("BadDigest", text)


async def abort(service: Service, request: Request) -> Reply:
    service.blobs.delete(service.index.abort(_upload(service, request).id))
    return Reply(204)


# --- lists


async def list_parts(service: Service, request: Request) -> Reply:
    upload = _upload(service, request)
    limit = page_size(request, "max-parts", service.limits.page)
    marker = (
        page_size(request, "part-number-marker", service.limits.parts) if "part-number-marker" in request.query else 0
    )
    rest = [part for part in service.index.parts(upload.id) if part.number > marker]
    shown = rest[:limit]
    content: list[Node] = [
        ("Bucket", upload.bucket),
        ("Key", upload.key),
        ("UploadId", upload.id),
        ("PartNumberMarker", marker),
        ("NextPartNumberMarker", shown[-1].number if shown else 0),
        ("MaxParts", limit),
        ("IsTruncated", "true" if len(rest) > len(shown) else "false"),
        *(("Part", _part_entry(part)) for part in shown),
        ("Initiator", owner(request.account)),
        ("Owner", owner(request.account)),
        ("StorageClass", "STANDARD"),
    ]
    return xml("ListPartsResult", content)


def _part_entry(part: Part) -> list[Node]:
    return [
        ("PartNumber", part.number),
        ("LastModified", codec.iso(part.updated_at_ms)),
        ("ETag", f'"{part.etag}"'),
        ("Size", part.segment.size_bytes),
        *(node for node in checksum_elements(part.checksum) if node[0] != "ChecksumType"),
    ]


async def list_uploads(service: Service, request: Request) -> Reply:
    """ListMultipartUploads with prefix and markers; a delimiter is refused rather than ignored."""
    service.bucket(request.bucket, request)
    query = request.query
    if query.get("delimiter"):
        raise S3Error("NotImplemented", "ListMultipartUploads with a delimiter is not implemented.")
    prefix, marker = query.get("prefix", ""), (query.get("key-marker", ""), query.get("upload-id-marker", ""))
    limit = page_size(request, "max-uploads", service.limits.page)
    rest = [
        upload
        for upload in service.index.uploads_from(request.bucket, max(prefix, marker[0]))
        if upload.key.startswith(prefix) and _is_after(upload, *marker)
    ]
    shown = rest[:limit]
    content: list[Node] = [
        ("Bucket", request.bucket),
        ("KeyMarker", marker[0]),
        ("UploadIdMarker", marker[1]),
        ("NextKeyMarker", shown[-1].key if shown else ""),
        ("NextUploadIdMarker", shown[-1].id if shown else ""),
        ("Prefix", prefix),
        ("MaxUploads", limit),
        ("IsTruncated", "true" if len(rest) > len(shown) else "false"),
        *(("Upload", _upload_entry(upload, request.account)) for upload in shown),
    ]
    return xml("ListMultipartUploadsResult", content)


def _is_after(upload: Upload, key_marker: str, id_marker: str) -> bool:
    if upload.key == key_marker:
        return bool(id_marker) and upload.id > id_marker
    return upload.key > key_marker


def _upload_entry(upload: Upload, account: str) -> list[Node]:
    return [
        ("Key", upload.key),
        ("UploadId", upload.id),
        ("Initiator", owner(account)),
        ("Owner", owner(account)),
        ("StorageClass", "STANDARD"),
        ("Initiated", codec.iso(upload.created_at_ms)),
    ]
