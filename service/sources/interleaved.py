"""RTSP on a connection with packets in between (RFC 2326, 10.12), as far as a relay has to read it.

A message is handed on as it came, but for one line of a SETUP: how the packets are to come. FFmpeg asks for them within
the connection; the camera is asked to send them as datagrams, and FFmpeg is told that it got what it asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_HEAD = 64 * 1024
"""Bytes of a message without its body."""
MOST_BODY = 1 << 20
_END = b"\r\n\r\n"
_BLANK = re.compile(rb"\s+")
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,9})[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(rb"^cseq:[ \t]*(\d{1,10})[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_TRANSPORT = re.compile(rb"^transport:[^\r\n]*", re.IGNORECASE | re.MULTILINE)
_WITHIN = re.compile(rb"interleaved=(\d{1,3})-(\d{1,3})", re.IGNORECASE)
_SENDS_FROM = re.compile(rb"server_port=(\d{1,5})(?:-(\d{1,5}))?", re.IGNORECASE)
LEAST_RTP, LEAST_RTCP = 12, 8
"""Bytes of a packet's head. FFmpeg (8.1) takes less than 8 for no packet and loses its place in the connection."""
_PACKET = 0x24
"""``$``, with which a packet begins."""


class NotRtsp(Exception):
    """What came is no RTSP; says what."""


@dataclass(frozen=True, slots=True)
class Packet:
    """RTP on even channels, RTCP on odd ones."""

    channel: int
    data: bytes = field(repr=False)

    @property
    def has_head(self) -> bool:
        """Whether it can be one at all."""
        return len(self.data) >= (LEAST_RTCP if self.channel % 2 else LEAST_RTP)


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer, its body included."""

    data: bytes = field(repr=False)

    @property
    def number(self) -> int | None:
        """CSeq: an answer has its request's."""
        found = _NUMBER.search(self._head)
        return None if found is None else int(found[1])

    @property
    def is_answer(self) -> bool:
        """Cameras may ask too."""
        return self.data.startswith(b"RTSP/")

    @property
    def is_good(self) -> bool:
        """An answer that says yes."""
        return re.match(rb"RTSP/\d\.\d 200[ \r]", self.data) is not None

    @property
    def is_play(self) -> bool:
        """A request for the media to begin."""
        return self.data.startswith(b"PLAY ")

    @property
    def wanted_channels(self) -> tuple[int, int] | None:
        """Of a SETUP: the channels on which RTP and RTCP are to come."""
        if not self.data.startswith(b"SETUP "):
            return None
        found = _WITHIN.search(self._transport)
        return None if found is None else (int(found[1]), int(found[2]))

    @property
    def sends_from(self) -> tuple[int, int] | None:
        """Of an answer to a SETUP: the ports from which RTP and RTCP come, where it says which."""
        found = _SENDS_FROM.search(self._transport)
        if found is None or not 0 < (first := int(found[1])) < 65535:
            return None
        return first, int(found[2] or first + 1) & 0xFFFF

    @property
    def wants_tcp(self) -> bool:
        """An answer to a SETUP: packets come within the connection, whatever was asked for."""
        return _WITHIN.search(self._transport) is not None

    def with_transport(self, value: str) -> Message:
        """The same with another line that says how packets come."""
        head = self._head
        said = _TRANSPORT.sub(b"Transport: " + value.encode("ascii"), head, count=1)
        return Message(said + self.data[len(head) :])

    @property
    def _head(self) -> bytes:
        return self.data[: self.data.index(_END) + len(_END)]

    @property
    def _transport(self) -> bytes:
        found = _TRANSPORT.search(self._head)
        return b"" if found is None else found[0]


class Interleaved:
    """Messages and packets of what comes in any pieces."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._whole: int | None = None
        """Bytes of what comes first, once that is known."""
        self._looked = 0
        """How many have no end of a head among them."""

    def feed(self, data: bytes) -> Iterator[Message | Packet]:
        """Those that are whole now. Raises NotRtsp."""
        held = self._held
        held += data
        while (size := self._size()) is not None and len(held) >= size:
            whole = bytes(held[:size])
            del held[:size]
            self._whole, self._looked = None, 0
            if whole[0] == _PACKET:
                yield Packet(whole[1], whole[4:])
            elif not whole.isspace():
                yield Message(whole)

    def _size(self) -> int | None:
        """Bytes of what comes first; None where that cannot be said yet."""
        if self._whole is None and self._held:
            self._whole = self._found_size()
        return self._whole

    def _found_size(self) -> int | None:
        held = self._held
        if held[0] == _PACKET:
            return 4 + int.from_bytes(held[2:4]) if len(held) >= 4 else None
        if (blank := _BLANK.match(held)) is not None:  # some put empty lines between messages; thousands are one piece
            return blank.end()
        end = held.find(_END, max(0, self._looked - len(_END) + 1), MOST_HEAD)
        self._looked = len(held)
        if end < 0:
            if len(held) >= MOST_HEAD:
                raise NotRtsp("a message without an end")
            return None
        lengths = [int(found) for found in _LENGTH.findall(held, 0, end + len(_END))]
        if lengths and lengths[0] > MOST_BODY:
            raise NotRtsp(f"a message of more than {MOST_BODY} bytes")
        return end + len(_END) + (lengths[0] if lengths else 0)


def framed(channel: int, data: bytes) -> bytes:
    """A packet as it goes between messages; at most 65535 bytes."""
    return bytes((_PACKET, channel)) + len(data).to_bytes(2) + data
