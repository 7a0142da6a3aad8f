"""The elements that Matroska and WebM are made of (RFC 8794)."""

from __future__ import annotations

from collections.abc import Iterator

SEGMENT = 0x18538067
"""All of a file but its header."""


def elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(identity, where its content begins, where it ends) of EBML elements; of unknown size it goes on to the end."""
    while at < end:
        length = 9 - data[at].bit_length()
        identity = int.from_bytes(data[at : at + length])
        at += length
        length = 9 - data[at].bit_length()
        if length > 8:
            raise ValueError("an EBML size over eight bytes")
        size = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
        at += length
        stop = end if size == (1 << 7 * length) - 1 else min(at + size, end)
        yield identity, at, stop
        at = stop
