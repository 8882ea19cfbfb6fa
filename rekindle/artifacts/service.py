"""What every operation works with, and the rules that all of them share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rekindle.artifacts import body
from rekindle.artifacts.blobs import Blobs, Segment, Writer
from rekindle.artifacts.body import Checks, Received
from rekindle.artifacts.checksums import Algorithm
from rekindle.artifacts.errors import S3Error
from rekindle.artifacts.index import Bucket, Index, Object
from rekindle.artifacts.limits import Limits
from rekindle.artifacts.wire import Request
from rekindle.clock import Clock

log = logging.getLogger(__name__)

#: Fills a blob and says what it got.
Fill = Callable[[Writer], Awaitable[Received]]


@dataclass(frozen=True, slots=True)
class Service:
    index: Index
    blobs: Blobs
    limits: Limits
    clock: Clock

    def bucket(self, name: str, request: Request) -> Bucket:
        """The caller's bucket. Raises S3Error; another account's bucket is AccessDenied, as on S3."""
        found = self.index.bucket(name)
        if found is None:
            raise S3Error("NoSuchBucket", BucketName=name)
        expected = request.headers.get("x-amz-expected-bucket-owner", found.account)
        if found.account != request.account or expected != found.account:
            raise S3Error("AccessDenied")
        return found

    def object(self, request: Request) -> Object:
        self.bucket(request.bucket, request)
        found = self.index.object(request.bucket, request.key)
        if found is None:
            raise S3Error("NoSuchKey", Key=request.key)
        return found

    async def receive_blob(self, request: Request, algorithm: Algorithm | None = None) -> tuple[Segment, Received]:
        """The request's body as a durable blob that no row names yet."""
        checks = Checks(request.headers, request.signature, algorithm)
        return await self.write_blob(
            lambda writer: body.receive(request.body, checks, writer.write, self.limits.put_bytes)
        )

    async def write_blob(self, fill: Fill) -> tuple[Segment, Received]:
        """A blob filled by `fill`, durable; nothing of it is left when that fails or is cancelled."""
        writer = self.blobs.writer()
        try:
            received = await fill(writer)
            await asyncio.to_thread(writer.commit)
        except BaseException:
            writer.discard()
            raise
        return Segment(writer.blob, received.size_bytes), received

    async def receive_document(self, request: Request) -> bytes:
        """The request's body in memory, for XML."""
        whole = bytearray()
        checks = Checks(request.headers, request.signature, None)
        await body.receive(request.body, checks, whole.extend, self.limits.document_bytes)
        return bytes(whole)

    def publish(self, segment: Segment, commit: Callable[[], list[str]]) -> None:
        """Let `commit` name the blob in the index, then unlink what it freed; the blob itself if it was refused."""
        try:
            freed = commit()
        except BaseException:
            self.blobs.delete([segment.blob])
            raise
        self.blobs.delete(freed)

    def close(self) -> None:
        self.index.close()
        self.blobs.close()


def open_service(root: Path, clock: Clock, limits: Limits) -> Service:
    """The store in the folder `root`, made if absent. Raises Refused while another process has it.

    Sweeps what crashes left: blobs that no row names, multipart uploads older than `limits.upload_kept_s`.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    blobs = Blobs(root / "blobs")
    index = Index(root / "index.db")
    index.abort_before(clock() - limits.upload_kept_s * 1000)
    swept = blobs.sweep(index.known_blobs())
    if swept:
        log.info("removed %d blobs that no object names", swept)
    return Service(index, blobs, limits, clock)
