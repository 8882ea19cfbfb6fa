"""Request bodies: received in bounded memory, decoded, and checked against every hash that came with them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from rekindle.api.sigv4 import STREAMING, UNSIGNED, Signature
from rekindle.artifacts import checksums
from rekindle.artifacts.checksums import Algorithm, Checksum
from rekindle.artifacts.chunked import ChunkSigner, Decoder
from rekindle.artifacts.errors import Disconnected, S3Error

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Sink = Callable[[bytes], None]

#: Hashing and writing go to a thread in pieces of this size: a hop costs 50-100 us, a piece of hashing 2 ms.
_PIECE_BYTES = 1 << 20
_STREAMING_FORMS = {
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
}


class Incoming:
    """The bytes of one request body as they come in."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises Disconnected when the client goes away before the end."""
        while not self.ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            self.ended = not message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def drain(self, limit_bytes: int) -> None:
        """Read and drop at most about `limit_bytes`; `ended` says whether that was all."""
        async for piece in self.pieces():
            limit_bytes -= len(piece)
            if limit_bytes < 0:
                return


@dataclass(frozen=True, slots=True)
class Received:
    """A body that was whole and true."""

    size_bytes: int
    md5: bytes
    checksum: Checksum | None


class Hashes:
    """The size, MD5 and checksums of bytes as they pass."""

    def __init__(self, algorithms: Iterable[Algorithm]) -> None:
        self.size_bytes = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.running = {algorithm: checksums.start(algorithm) for algorithm in algorithms}

    def update(self, data: bytes) -> None:
        self.size_bytes += len(data)
        self.md5.update(data)
        for running in self.running.values():
            running.update(data)

    def received(self, algorithm: Algorithm | None) -> Received:
        checksum = None
        if algorithm is not None:
            checksum = Checksum(algorithm, checksums.encode(self.running[algorithm].digest()))
        return Received(self.size_bytes, self.md5.digest(), checksum)


class Checks:
    """Everything that the headers promise about a body, counted and hashed along with it."""

    def __init__(self, headers: Mapping[str, str], signature: Signature, algorithm: Algorithm | None) -> None:
        """`algorithm` is wanted even if the client names none. Raises S3Error for headers that contradict."""
        streaming = signature.payload.startswith(STREAMING)
        if streaming and signature.payload not in _STREAMING_FORMS:
            raise S3Error("NotImplemented", f"x-amz-content-sha256: {signature.payload} is not implemented.")
        self._payload = None if streaming or signature.payload == UNSIGNED else signature.payload
        self._decoder = _decoder(signature) if streaming else None
        self._trailer = _trailer(headers) if streaming else None
        self._promised = {found: headers[found.header] for found in Algorithm if found.header in headers}
        self._md5_promised = _content_md5(headers)
        self._size_promised = _promised_size(headers, chunked=streaming)
        self._sha256 = hashlib.sha256() if self._payload else None
        self._algorithm = algorithm or self._trailer or _asked(headers) or next(iter(self._promised), None)
        wanted = {*self._promised, *(found for found in (self._algorithm, self._trailer) if found)}
        self._hashes = Hashes(wanted)
        for found, value in self._promised.items():
            checksums.decode(found, value)

    def admit(self, limit_bytes: int) -> None:
        """Raises S3Error when the body is announced as larger than that."""
        if self._size_promised is not None and self._size_promised > limit_bytes:
            raise S3Error("EntityTooLarge", MaxSizeAllowed=str(limit_bytes))

    def decode(self, data: bytes) -> bytes:
        return self._decoder.feed(data) if self._decoder else data

    def update(self, data: bytes) -> None:
        self._hashes.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def finish(self) -> Received:
        """Raises S3Error naming the first promise that the body does not keep."""
        trailers = self._decoder.finish() if self._decoder else {}
        if self._size_promised is not None and self._hashes.size_bytes != self._size_promised:
            raise S3Error("IncompleteBody")
        if self._sha256 is not None and self._sha256.hexdigest() != self._payload:
            raise S3Error("XAmzContentSHA256Mismatch")
        if self._md5_promised is not None and not hmac.compare_digest(self._md5_promised, self._hashes.md5.digest()):
            raise S3Error("BadDigest")
        self._check_checksums(trailers)
        return self._hashes.received(self._algorithm)

    def _check_checksums(self, trailers: Mapping[str, str]) -> None:
        promised = dict(self._promised)
        if self._trailer is not None:
            if self._trailer.header not in trailers:
                raise S3Error("MalformedTrailerError", f"The trailer {self._trailer.header} is missing.")
            promised[self._trailer] = trailers[self._trailer.header]
        for algorithm, value in promised.items():
            if checksums.decode(algorithm, value) != self._hashes.running[algorithm].digest():
                text = f"The {algorithm.name} you specified did not match the calculated checksum."
                raise S3Error("BadDigest", text)


async def receive(incoming: Incoming, checks: Checks, sink: Sink, limit_bytes: int) -> Received:
    """Pass the decoded body to `sink` in pieces, in a thread, and return it once it is proven whole.

    Raises S3Error, Disconnected, or what `sink` raises; what `sink` got must then be thrown away.
    """
    checks.admit(limit_bytes)

    def consume(data: bytes) -> None:
        checks.update(data)
        sink(data)

    left = limit_bytes
    pending = bytearray()
    async for piece in incoming.pieces():
        pending += checks.decode(piece)
        if len(pending) > left:
            raise S3Error("EntityTooLarge", MaxSizeAllowed=str(limit_bytes))
        if len(pending) >= _PIECE_BYTES:
            left -= len(pending)
            await asyncio.to_thread(consume, bytes(pending))
            pending.clear()
    await asyncio.to_thread(consume, bytes(pending))
    return checks.finish()


def _decoder(signature: Signature) -> Decoder:
    unsigned = signature.payload.startswith("STREAMING-UNSIGNED-")
    return Decoder(None if unsigned else ChunkSigner(signature))


def _trailer(headers: Mapping[str, str]) -> Algorithm | None:
    """The checksum that `x-amz-trailer` announces, matched as a list: crc32 is the beginning of crc32c."""
    names = {name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",")}
    return next((found for found in Algorithm if found.header in names), None)


def _asked(headers: Mapping[str, str]) -> Algorithm | None:
    name = headers.get("x-amz-sdk-checksum-algorithm")
    return checksums.named(name) if name else None


def _content_md5(headers: Mapping[str, str]) -> bytes | None:
    if "content-md5" not in headers:
        return None
    try:
        digest = base64.b64decode(headers["content-md5"], validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise S3Error("InvalidDigest")
    return digest


def _promised_size(headers: Mapping[str, str], *, chunked: bool) -> int | None:
    """The length of the decoded body; None when the client announces none (Transfer-Encoding: chunked)."""
    text = headers.get("x-amz-decoded-content-length" if chunked else "content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise S3Error("InvalidArgument", "The length of the body must be a number of bytes.")
    return int(text)
