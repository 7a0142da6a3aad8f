"""Live fragmented MP4 that is joined anywhere: where what can be read of it begins.

ISO/IEC 14496-12: boxes of a size and a name. ``ftyp`` and ``moov`` say what there is, and stand at the beginning, or
again where a sender begins anew; each fragment is a ``moof`` and its ``mdat``. FFmpeg takes what it is joined in for
boxes, of any size.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from stmixer.media.errors import MediaError
from stmixer.media.sniff import sniff
from stmixer.media.takeover import SNIFFED, is_transport

Read = Callable[[int], bytes]

_READ = 32 * 1024
_MOST_TABLES = 16 << 20
"""Bytes of ``moov``; more are FFmpeg's matter."""
_OPENING = (b"ftyp", b"pdin", b"free", b"skip", b"wide", b"uuid")
"""What may stand before ``moov`` in a stream."""
_GOES_ON = (*_OPENING, b"moov", b"moof", b"styp", b"sidx", b"ssix", b"emsg", b"prft", b"meta", b"mdat", b"mfra")
"""What may follow ``moov``."""
_OTHERS = (b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"RIFF")
"""How what is no MP4 begins, whatever it was said to be; MPEG-TS besides."""
_TABLES = re.compile(rb"\0\0[\0-\x0f].ftyp[ -~]{4}|\0...moov\0\0\0[\x6c\x78]mvhd", re.DOTALL)
_FRAGMENT = re.compile(rb"\0\0..moof\0\0\0\x10mfhd", re.DOTALL)
_MARK = 16
"""Bytes that each of the two takes, at most."""


def from_tables_on(read: Read) -> bytes:
    """Of a stream that is said to be fragmented MP4: what is to be read first, instead of what was read for it.

    Waits for ``moov``, as long as bytes come; behind it, if that is no box, for the next fragment.

    Raises MediaError ``unreadable`` where it ends without.
    """
    buffer = _filled(read, b"", _MARK)
    if not buffer or buffer.startswith(_OTHERS) or sniff(buffer) is not None:
        return buffer
    if buffer[4:8] not in (*_OPENING, b"moov"):
        buffer = _filled(read, buffer, SNIFFED)
        if is_transport(buffer[:SNIFFED]):
            return buffer
        buffer = _found(read, buffer, _TABLES)
        if not buffer:
            raise MediaError(
                "unreadable", "this MP4 lacks its beginning (the boxes ftyp and moov); send those first, then fragments"
            )
    buffer, end = _end_of_tables(read, buffer)
    buffer = _filled(read, buffer, end + 8)
    if end == 0 or len(buffer) < end + 8 or buffer[end + 4 : end + 8] in _GOES_ON:
        return buffer
    return buffer[:end] + _found(read, buffer[end:], _FRAGMENT)


def _end_of_tables(read: Read, buffer: bytes) -> tuple[bytes, int]:
    """What has been read by then, and where in it ``moov`` ends; 0 where the boxes are not so."""
    end, kind = 0, b""
    while kind != b"moov":
        buffer = _filled(read, buffer, end + 8)
        size, kind = int.from_bytes(buffer[end : end + 4]), buffer[end + 4 : end + 8]
        if kind not in (*_OPENING, b"moov") or not 8 <= size <= _MOST_TABLES - end:
            return buffer, 0
        end += size
    return buffer, end


def _filled(read: Read, buffer: bytes, size: int) -> bytes:
    """At least so many bytes, or all that there are."""
    parts, there = [buffer], len(buffer)
    while there < size and (more := read(_READ)):
        parts.append(more)
        there += len(more)
    return b"".join(parts)


def _found(read: Read, buffer: bytes, mark: re.Pattern[bytes]) -> bytes:
    """From the next such mark on, what was read of it; b"" where none comes."""
    while (found := mark.search(buffer)) is None:
        more = read(_READ)
        if not more:
            return b""
        buffer = buffer[-_MARK:] + more
    return buffer[found.start() :]
