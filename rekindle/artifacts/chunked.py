"""`Content-Encoding: aws-chunked`, sans-IO: bytes in, the body's bytes out, then its trailers.

    <hex size>[;chunk-signature=<64 hex>]\\r\\n <data> \\r\\n ... 0[;chunk-signature=...]\\r\\n
    [<name>:<value>\\r\\n ...] [x-amz-trailer-signature:<64 hex>\\r\\n] \\r\\n

Any bytes give data or S3Error, nothing else. Data of a signed chunk is given out as it arrives, before its signature
is checked at the chunk's end: the caller must show nothing of it to anybody before `finish` has returned.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from enum import Enum, auto

from rekindle.api.sigv4 import Signature
from rekindle.artifacts.errors import S3Error

_HEAD = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?")
_EMPTY = hashlib.sha256(b"").hexdigest()
_LINE_MAX_BYTES = 1024
_TRAILERS_MAX = 16


class _At(Enum):
    HEAD = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkSigner:
    """Checks the signatures of chunks and trailers, each of which covers the one before it."""

    def __init__(self, seed: Signature) -> None:
        self._seed = seed
        self._previous = seed.signature

    def check_chunk(self, signature: str, data_sha256: str) -> None:
        self._check("AWS4-HMAC-SHA256-PAYLOAD", (_EMPTY, data_sha256), signature)

    def check_trailer(self, signature: str, trailers: bytes) -> None:
        self._check("AWS4-HMAC-SHA256-TRAILER", (hashlib.sha256(trailers).hexdigest(),), signature)

    def _check(self, algorithm: str, hashes: tuple[str, ...], signature: str) -> None:
        lines = (algorithm, self._seed.timestamp, self._seed.scope, self._previous, *hashes)
        expected = hmac.new(self._seed.signing_key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), signature.encode()):  # of texts it takes ASCII only
            raise S3Error("SignatureDoesNotMatch")
        self._previous = expected


class Decoder:
    """One body. Without a signer chunk signatures must be absent; with one they must be there and right."""

    def __init__(self, signer: ChunkSigner | None = None) -> None:
        self._signer = signer
        self._at = _At.HEAD
        self._buffer = bytearray()
        self._left = 0
        self._last_chunk = False
        self._signature = ""
        self._digest = hashlib.sha256()
        self._trailer_lines = bytearray()
        self._trailer_signature: str | None = None
        self._trailers: dict[str, str] = {}

    def feed(self, data: bytes) -> bytes:
        """The decoded bytes that `data` completes. Raises S3Error."""
        self._buffer += data
        out = bytearray()
        while self._step(out):
            pass
        return bytes(out)

    def finish(self) -> dict[str, str]:
        """The trailers, once the body has ended. Raises S3Error when it ended too early or a signature is missing."""
        if self._at is _At.TRAILER and not self._buffer and not self._trailers:
            self._end()  # a client that leaves the last empty line out
        if self._at is not _At.DONE:
            raise S3Error("IncompleteBody", "The aws-chunked body ended before its last chunk.")
        return self._trailers

    def _step(self, out: bytearray) -> bool:
        match self._at:
            case _At.HEAD:
                return self._head()
            case _At.DATA:
                return self._data(out)
            case _At.DATA_END:
                return self._data_end()
            case _At.TRAILER:
                return self._trailer()
            case _At.DONE:
                if self._buffer:
                    raise S3Error("InvalidRequest", "Data follows the end of the aws-chunked body.")
                return False

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, _LINE_MAX_BYTES + 2)
        if end < 0:
            if len(self._buffer) > _LINE_MAX_BYTES:
                raise S3Error("InvalidRequest", "A line of the aws-chunked body is too long.")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _head(self) -> bool:
        line = self._line()
        if line is None:
            return False
        match = _HEAD.fullmatch(line)
        if match is None or (match[2] is None) != (self._signer is None):
            raise S3Error("InvalidRequest", "A chunk of the aws-chunked body is malformed.")
        self._left = int(match[1], 16)
        self._signature = (match[2] or b"").decode()
        self._last_chunk = self._left == 0
        self._digest = hashlib.sha256()
        self._at = _At.DATA
        return True

    def _data(self, out: bytearray) -> bool:
        if self._left:
            piece = self._buffer[: self._left]
            if not piece:
                return False
            del self._buffer[: len(piece)]
            self._left -= len(piece)
            if self._signer is not None:
                self._digest.update(piece)
            out += piece
            return True
        if self._signer is not None:
            self._signer.check_chunk(self._signature, self._digest.hexdigest())
        self._at = _At.TRAILER if self._last_chunk else _At.DATA_END
        return True

    def _data_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise S3Error("InvalidRequest", "A chunk of the aws-chunked body is longer than its size.")
        del self._buffer[:2]
        self._at = _At.HEAD
        return True

    def _trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line:
            self._end()
            return True
        name, colon, value = line.decode("latin-1").partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or name in self._trailers or len(self._trailers) >= _TRAILERS_MAX:
            raise S3Error("MalformedTrailerError")
        if name == "x-amz-trailer-signature":
            self._trailer_signature = value
        else:
            self._trailers[name] = value
            self._trailer_lines += f"{name}:{value}\n".encode("latin-1")
        return True

    def _end(self) -> None:
        if self._signer is not None and self._trailers:
            if self._trailer_signature is None:
                raise S3Error("MalformedTrailerError", "The signature of the trailers is missing.")
            self._signer.check_trailer(self._trailer_signature, bytes(self._trailer_lines))
        self._at = _At.DONE
