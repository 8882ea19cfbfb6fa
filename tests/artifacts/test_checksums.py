"""Checksums against published values, and of wholes from parts."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.artifacts import checksums, crc
from rekindle.artifacts.checksums import Algorithm, Kind
from rekindle.artifacts.errors import S3Error


@pytest.mark.parametrize(
    ("polynomial", "check"),
    [(crc.CRC32, 0xCBF43926), (crc.CRC32C, 0xE3069283), (crc.CRC64NVME, 0xAE8B14860A799888)],
)
def test_the_catalogues_check_values(polynomial: crc.Polynomial, check: int) -> None:
    assert crc.update(polynomial, b"123456789") == check
    assert crc.update(polynomial, b"6789", crc.update(polynomial, b"12345")) == check


@pytest.mark.parametrize("polynomial", [crc.CRC32, crc.CRC32C, crc.CRC64NVME])
@given(seed=st.binary(min_size=1, max_size=50), size=st.integers(8000, 20_000), before=st.binary(max_size=9))
def test_lanes_give_what_bytes_give(polynomial: crc.Polynomial, seed: bytes, size: int, before: bytes) -> None:
    data = (seed * (size // len(seed) + 1))[:size]
    start = crc.update(polynomial, before)
    plain = crc._advance_by_bytes(polynomial, data, start ^ polynomial.mask) ^ polynomial.mask
    assert crc.update(polynomial, data, start) == plain


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_the_crc_of_two_pieces_is_that_of_both(first: bytes, second: bytes) -> None:
    assert crc.combine(crc.CRC32, zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)
    for polynomial in (crc.CRC32C, crc.CRC64NVME):
        pieces = crc.update(polynomial, first), crc.update(polynomial, second)
        assert crc.combine(polynomial, *pieces, len(second)) == crc.update(polynomial, first + second)


@pytest.mark.parametrize("algorithm", checksums.POLYNOMIALS)
def test_a_full_object_checksum_is_the_same_for_any_parts(algorithm: Algorithm) -> None:
    def digest(data: bytes) -> bytes:
        running = checksums.start(algorithm)
        running.update(data)
        return running.digest()

    parts = [b"a" * 100, b"", b"b" * 33]
    made = checksums.of_parts(algorithm, Kind.FULL_OBJECT, [(digest(part), len(part)) for part in parts])
    assert made.value == checksums.encode(digest(b"".join(parts)))


def test_pairs_that_s3_does_not_have() -> None:
    assert checksums.kind_of_upload(Algorithm.CRC32, None) is Kind.COMPOSITE
    assert checksums.kind_of_upload(Algorithm.CRC64NVME, None) is Kind.FULL_OBJECT
    for algorithm, kind in ((Algorithm.SHA1, "FULL_OBJECT"), (Algorithm.CRC64NVME, "COMPOSITE"), (Algorithm.SHA1, "X")):
        with pytest.raises(S3Error):
            checksums.kind_of_upload(algorithm, kind)


@pytest.mark.parametrize("value", ["", "!", "AAAA", "AAAAAAAA"])
def test_values_of_another_length_are_refused(value: str) -> None:
    with pytest.raises(S3Error, match="x-amz-checksum-crc32 header"):
        checksums.decode(Algorithm.CRC32, value)
