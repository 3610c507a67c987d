"""The Internet checksum, RFC 1071."""

from __future__ import annotations


def ones_sum(data: bytes) -> int:
    """The 16-bit one's complement sum of big-endian words; odd octets are padded with zero."""
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 0xFFFF, so the number that the octets spell has the sum of its words as
    # remainder; only the sum 0xFFFF of words that are not all zero must not become 0.
    number = int.from_bytes(data, "big")
    return number % 0xFFFF or (0xFFFF if number else 0)


def checksum(data: bytes) -> int:
    return ~ones_sum(data) & 0xFFFF
