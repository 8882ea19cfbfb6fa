"""aws-chunked: AWS's own examples decode; any bytes give data or S3Error, however they are cut."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.api.sigv4 import Signature, signing_key
from rekindle.artifacts.chunked import ChunkSigner, Decoder
from rekindle.artifacts.errors import S3Error

# "Signature calculations: transferring a payload in multiple chunks", Amazon S3 API reference, and its trailer variant
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
CHUNKS = (
    (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
    (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
    (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
)
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
TRAILER_CHUNKS = (
    (65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"),
    (1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"),
    (0, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"),
)
TRAILERS = (
    b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
    b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n"
)


def signer(seed: str) -> ChunkSigner:
    key = signing_key(SECRET, "20130524", "us-east-1", "s3")
    scope = "20130524/us-east-1/s3/aws4_request"
    return ChunkSigner(Signature("AKIA", "us-east-1", scope, "20130524T000000Z", seed, "STREAMING-", key))


def encoded(chunks: tuple[tuple[int, str], ...], trailers: bytes = b"") -> bytes:
    whole = b"".join(
        f"{size:x};chunk-signature={signature}\r\n".encode() + b"a" * size + (b"\r\n" if size else b"")
        for size, signature in chunks
    )
    return whole + trailers + b"\r\n"


def decode(decoder: Decoder, body: bytes) -> tuple[bytes, dict[str, str]]:
    return decoder.feed(body), decoder.finish()


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_awss_signed_example(step: int) -> None:
    decoder, body = Decoder(signer(SEED)), encoded(CHUNKS)
    out = b"".join(decoder.feed(body[at : at + step]) for at in range(0, len(body), step))
    assert decoder.finish() == {}
    assert out == b"a" * (65536 + 1024)


def test_awss_signed_trailer_example() -> None:
    decoder = Decoder(signer(TRAILER_SEED))
    assert len(decoder.feed(encoded(TRAILER_CHUNKS, TRAILERS))) == 65536 + 1024
    assert decoder.finish() == {"x-amz-checksum-crc32c": "sOO8/Q=="}


@pytest.mark.parametrize(
    "change", [(b"aaaa\r\n", b"aaab\r\n"), (b"ad80", b"ad81"), (b";chunk-signature=ad80", b";x=ad80")]
)
def test_a_changed_signed_chunk_is_refused(change: tuple[bytes, bytes]) -> None:
    decoder = Decoder(signer(SEED))
    with pytest.raises(S3Error):
        decoder.feed(encoded(CHUNKS).replace(*change, 1))


@pytest.mark.parametrize("change", [(b"sOO8", b"sOO9"), (b"d81f", b"d81e"), (TRAILERS[32:], b"")])
def test_changed_signed_trailers_are_refused(change: tuple[bytes, bytes]) -> None:
    decoder = Decoder(signer(TRAILER_SEED))
    with pytest.raises(S3Error):
        decode(decoder, encoded(TRAILER_CHUNKS, TRAILERS).replace(*change, 1))


def test_chunks_in_another_order_are_refused() -> None:
    decoder = Decoder(signer(SEED))
    with pytest.raises(S3Error):
        decoder.feed(encoded((CHUNKS[1], CHUNKS[0], CHUNKS[2])))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nhello\r\n",
        b"5\r\nhel",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"-1\r\n",
        b"0\r\n\r\nmore",
        b"0\r\nno colon\r\n\r\n",
    ],
)
def test_a_body_that_is_not_whole_is_refused(body: bytes) -> None:
    decoder = Decoder()
    with pytest.raises(S3Error):
        decode(decoder, body)


_SIGNED = encoded(TRAILER_CHUNKS, TRAILERS)
_DATA_AT = _SIGNED.index(b"\r\n") + 2


@given(
    at=st.one_of(st.integers(0, _DATA_AT + 9), st.integers(len(_SIGNED) - 400, len(_SIGNED) - 1)), bit=st.integers(0, 7)
)
def test_no_changed_bit_of_a_signed_body_passes(at: int, bit: int) -> None:
    body = bytearray(_SIGNED)
    body[at] ^= 1 << bit
    decoder = Decoder(signer(TRAILER_SEED))
    try:
        got = decode(decoder, bytes(body))
    except S3Error:
        return
    assert got == (b"a" * (65536 + 1024), {"x-amz-checksum-crc32c": "sOO8/Q=="})  # the case of a letter that may vary


@given(chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=5), cuts=st.lists(st.integers(1, 30), max_size=20))
def test_any_cuts_give_the_same_data(chunks: list[bytes], cuts: list[int]) -> None:
    body = (
        b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nx-amz-checksum-crc32:AA==\r\n\r\n"
    )
    decoder, out = Decoder(), b""
    for cut in cuts:
        out += decoder.feed(body[:cut])
        body = body[cut:]
    assert out + decoder.feed(body) == b"".join(chunks)
    assert decoder.finish() == {"x-amz-checksum-crc32": "AA=="}


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"5\r\nhello\r\n", b"0\r\n", b"\r\n", b"a:b\r\n"]))))
def test_any_bytes_are_data_or_an_error(pieces: list[bytes]) -> None:
    decoder = Decoder()
    with contextlib.suppress(S3Error):
        for piece in pieces:
            decoder.feed(piece)
        decoder.finish()
