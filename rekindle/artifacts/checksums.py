"""The five `x-amz-checksum-*` algorithms: running, encoded as S3 has them, and of a whole made of parts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from rekindle.artifacts import crc
from rekindle.artifacts.errors import S3Error


class Algorithm(Enum):
    """The value is the header's suffix in lower case; `x-amz-checksum-algorithm` has it in upper case."""

    CRC32 = "crc32"
    CRC32C = "crc32c"
    CRC64NVME = "crc64nvme"
    SHA1 = "sha1"
    SHA256 = "sha256"

    @property
    def header(self) -> str:
        return f"x-amz-checksum-{self.value}"

    @property
    def element(self) -> str:
        """The XML element: `ChecksumCRC32`."""
        return f"Checksum{self.name}"


class Kind(Enum):
    FULL_OBJECT = "FULL_OBJECT"
    COMPOSITE = "COMPOSITE"


@dataclass(frozen=True, slots=True)
class Checksum:
    algorithm: Algorithm
    value: str  #: base64, with `-<parts>` when composite
    kind: Kind = Kind.FULL_OBJECT


class Running(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _RunningCrc:
    def __init__(self, polynomial: crc.Polynomial) -> None:
        self._polynomial = polynomial
        self._crc = 0

    def update(self, data: bytes, /) -> None:
        if self._polynomial is crc.CRC32:
            self._crc = zlib.crc32(data, self._crc)
        else:
            self._crc = crc.update(self._polynomial, data, self._crc)

    def digest(self) -> bytes:
        return self._crc.to_bytes(self._polynomial.width // 8, "big")


POLYNOMIALS = {
    Algorithm.CRC32: crc.CRC32,
    Algorithm.CRC32C: crc.CRC32C,
    Algorithm.CRC64NVME: crc.CRC64NVME,
}


def start(algorithm: Algorithm) -> Running:
    if algorithm in POLYNOMIALS:
        return _RunningCrc(POLYNOMIALS[algorithm])
    return _hash(algorithm)


def _hash(algorithm: Algorithm) -> Running:
    return hashlib.new(algorithm.value, usedforsecurity=False)


def encode(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def decode(algorithm: Algorithm, text: str) -> bytes:
    """The digest in a header value. Raises S3Error for what is not base64 of the right length."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != len(start(algorithm).digest()):
        raise S3Error("InvalidRequest", f"Value for {algorithm.header} header is invalid.")
    return digest


def named(text: str) -> Algorithm:
    """The algorithm of that name in any case. Raises S3Error."""
    try:
        return Algorithm[text.upper()]
    except KeyError:
        raise S3Error("InvalidRequest", f"Checksum algorithm {text!r} is not one that is supported.") from None


def of_parts(algorithm: Algorithm, kind: Kind, parts: Sequence[tuple[bytes, int]]) -> Checksum:
    """The checksum of an object from (digest, bytes) of its parts."""
    if kind is Kind.COMPOSITE:
        running = start(algorithm)
        for digest, _ in parts:
            running.update(digest)
        return Checksum(algorithm, f"{encode(running.digest())}-{len(parts)}", kind)
    polynomial = POLYNOMIALS[algorithm]
    whole = 0
    for digest, size_bytes in parts:
        whole = crc.combine(polynomial, whole, int.from_bytes(digest, "big"), size_bytes)
    return Checksum(algorithm, encode(whole.to_bytes(polynomial.width // 8, "big")), kind)


def kind_of_upload(algorithm: Algorithm, asked: str | None) -> Kind:
    """FULL_OBJECT or COMPOSITE for a multipart upload. Raises S3Error for a pair that S3 does not have."""
    if asked is None:
        return Kind.FULL_OBJECT if algorithm is Algorithm.CRC64NVME else Kind.COMPOSITE
    if asked not in Kind.__members__:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    kind = Kind[asked]
    impossible = (algorithm is Algorithm.CRC64NVME) if kind is Kind.COMPOSITE else algorithm not in POLYNOMIALS
    if impossible:
        text = f"The {kind.value} checksum type cannot be used with the {algorithm.name} checksum algorithm."
        raise S3Error("InvalidRequest", text)
    return kind
