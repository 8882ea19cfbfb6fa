"""What every operation works with, and the rules that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rekindle.artifacts import body
from rekindle.artifacts.blobs import Blobs, Segment, Writer
from rekindle.artifacts.body import Checks, Received
from rekindle.artifacts.checksums import Algorithm
from rekindle.artifacts.errors import S3Error
from rekindle.artifacts.index import Bucket, Index, Object
from rekindle.artifacts.limits import Limits
from rekindle.artifacts.wire import Request
from rekindle.clock import Clock

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
