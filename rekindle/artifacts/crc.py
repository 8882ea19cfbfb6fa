"""Reflected CRCs that zlib does not have, and how the CRCs of two pieces make the CRC of both.

CRC64NVME and CRC32C are the other two of S3's CRCs. Pure Python reads about 5-10 MB/s, enough for the rare client that
asks for them; the default, CRC32, is zlib's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Polynomial:
    """`reversed_bits` is the polynomial without its highest term, lowest power in the highest bit."""

    width: int
    reversed_bits: int

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1


CRC32 = Polynomial(32, 0xEDB88320)
CRC32C = Polynomial(32, 0x82F63B78)
CRC64NVME = Polynomial(64, 0x9A6C9329AC4BC9B5)


@lru_cache(maxsize=4)
def _table(polynomial: Polynomial) -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (polynomial.reversed_bits if value & 1 else 0)
        return value

    return tuple(entry(byte) for byte in range(256))


def update(polynomial: Polynomial, data: bytes, crc: int = 0) -> int:
    """The CRC of what `crc` stands for followed by `data`."""
    table = _table(polynomial)
    crc ^= polynomial.mask
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ polynomial.mask


def combine(polynomial: Polynomial, first: int, second: int, second_bytes: int) -> int:
    """The CRC of A followed by B from theirs: A's is multiplied by x^(8 * length of B) modulo the polynomial."""
    power = _power_of_x(polynomial, 8 * second_bytes)
    return _multiply(polynomial, first, power) ^ second


def _power_of_x(polynomial: Polynomial, exponent: int) -> int:
    one = 1 << (polynomial.width - 1)  # reflected: the highest bit is x^0
    result, square = one, one >> 1
    while exponent:
        if exponent & 1:
            result = _multiply(polynomial, result, square)
        square = _multiply(polynomial, square, square)
        exponent >>= 1
    return result


def _multiply(polynomial: Polynomial, a: int, b: int) -> int:
    product, bit = 0, 1 << (polynomial.width - 1)
    while bit:
        if a & bit:
            product ^= b
        b = (b >> 1) ^ (polynomial.reversed_bits if b & 1 else 0)
        bit >>= 1
    return product
