"""Pictures out of an HTTP answer of type multipart/x-mixed-replace ("MJPEG"), as they come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message
from email.utils import collapse_rfc2231_value

from stmixer.service.sources.trouble import Trouble

MOST_HEAD = 8192
"""Bytes of a part's head, and of what may stand before one."""
_BLANK = re.compile(rb"\r\n\r\n|\n\n")
_LENGTH = re.compile(rb"^content-length:\s*(\d{1,9})\s*$", re.IGNORECASE | re.MULTILINE)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart type, without leading dashes, which some cameras leave out and others double."""
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_type() != "multipart/x-mixed-replace":
        return None
    boundary = collapse_rfc2231_value(message.get_param("boundary", "") or "")
    return boundary.strip().lstrip("-").encode("latin-1", "replace") or None


class JpegParts:
    """Bytes in, whole parts out. ``most``: bytes that a part may have."""

    def __init__(self, boundary: bytes, most: int) -> None:
        self._mark, self._most = b"--" + boundary, most
        self._held = bytearray()
        self._length: int | None = None
        self._in_part = False
        self._looked = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The parts that these bytes complete, empty ones too. Raises Trouble for what is no such answer."""
        self._held += data
        while (part := self._next()) is not None:
            yield part
        if len(self._held) > self._most + MOST_HEAD:
            raise Trouble("too_large", f"a picture has more than {self._most} bytes")

    def _next(self) -> bytes | None:
        """A whole part, which may be empty; None where more bytes have to come."""
        if not self._in_part and not self._take_head():
            return None
        if self._length is None:
            end = self._held.find(self._mark, self._looked)
            if end < 0:  # what was looked through is not looked through again
                self._looked = max(0, len(self._held) - len(self._mark) + 1)
                return None
            part = bytes(self._held[:end]).rstrip(b"-").removesuffix(b"\n").removesuffix(b"\r")
        else:
            if len(self._held) < self._length:
                return None
            end = self._length
            part = bytes(self._held[:end])
        del self._held[:end]
        self._in_part, self._looked = False, 0
        return part

    def _take_head(self) -> bool:
        """Go on to where a part begins."""
        start = self._held.find(self._mark)
        head_end, gap = -1, 0
        if start >= 0:
            blank = _BLANK.search(self._held, start, start + MOST_HEAD)
            if blank is not None:
                head_end, gap = blank.start(), blank.end() - blank.start()
        if head_end < 0:
            if len(self._held) > MOST_HEAD:
                raise Trouble("bad_answer", "what comes is no stream of pictures: no part begins in it")
            return False
        length = _LENGTH.search(bytes(self._held[start:head_end]).replace(b"\r", b""))
        self._length = int(length[1]) if length else None
        if self._length is not None and self._length > self._most:
            raise Trouble("too_large", f"a picture has {self._length} bytes, over the limit of {self._most}")
        del self._held[: head_end + gap]
        self._in_part = True
        return True
