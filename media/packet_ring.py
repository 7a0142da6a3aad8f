"""The newest packets of a live video as they came, from which a clip of what has been is made without encoding it anew.

A ring begins with a keyframe, and is bounded in bytes whatever comes. In seconds it is bounded to one keyframe interval
more than asked for: what lies before the oldest keyframe could not be decoded. Packets are copied; nothing here refers
to a container that is closed meanwhile. A live source of JPEGs is kept picture by picture, each of which is a keyframe.
"""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import av
from av.packet import Packet
from av.video.stream import VideoStream

PICTURES = "mjpeg"
"""FFmpeg's name of JPEGs behind each other."""
BESIDES = 256
"""Bytes that a packet takes besides its own."""


class NothingKept(Exception):
    """There is no clip; ``reason``: ``off``, ``codec`` (no container of ours takes it), ``no_keyframe``, ``gone`` (what
    is kept lies elsewhere), ``unmuxable``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TimedPacket:
    """``pts_us``: when it is shown, by the stream's own time."""

    data: bytes
    pts_us: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class KeptPackets:
    """A piece of a video in the order of decoding, a keyframe first, which is shown first.

    ``codec``: FFmpeg's name. ``template``: a stream that says what the packets are; None of pictures. ``from_us``,
    ``to_us``: when the first and the last picture are shown.
    """

    codec: str
    template: VideoStream | None
    packets: tuple[TimedPacket, ...]

    @property
    def from_us(self) -> int:
        return self.packets[0].pts_us

    @property
    def to_us(self) -> int:
        return max(packet.pts_us for packet in self.packets)


@dataclass(eq=False, slots=True)
class _Kept:
    """``ticks``: its presentation time by the container, None where it has none, as of a camera's first; ``pts_us``:
    the stream's, once it is decoded and placed."""

    data: bytes
    ticks: int | None
    is_key: bool
    pts_us: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) + BESIDES


class PacketRing:
    """Keeps nothing until ``keep`` says how much."""

    def __init__(self) -> None:
        self._keep_us = self._max_bytes = 0
        self._newest_us = -1
        self.clear()

    def keep(self, seconds: float, max_bytes: int) -> None:
        """Keep so much from now on; 0 seconds: nothing any more."""
        self._keep_us, self._max_bytes = round(seconds * 1e6), max_bytes
        if not self._keep_us:
            self.clear()
        self._evict()

    def clear(self) -> None:
        """What comes next is another video."""
        self._packets: deque[_Kept] = deque()
        self._keys: deque[_Kept] = deque()
        self._unplaced: dict[int, _Kept] = {}
        self._untimed: deque[_Kept] = deque()
        self.bytes = 0
        self._template: VideoStream | None = None
        self._tick_us = Fraction(1)
        self._offset_us: Fraction | None = None
        self._codec, self._refused = "", ""

    # -- what comes

    def put(self, packet: Packet[VideoStream]) -> None:
        """The next packet of the video, before it is decoded."""
        if not self._keep_us or self._refused:
            return
        if self._template is None and not self._begin(packet.stream):
            return
        if packet.is_keyframe or self._keys:
            ticks = packet.pts if packet.pts is not None else packet.dts
            self._add(_Kept(bytes(packet), ticks, packet.is_keyframe))

    def placed(self, ticks: int | None, pts_us: int) -> None:
        """The picture that ``put`` had with this presentation time is shown at ``pts_us``; one that was put with none
        is the oldest of those."""
        if not self._keep_us:
            return
        self._newest_us = pts_us
        if ticks is not None and (kept := self._unplaced.pop(ticks, None)) is not None:
            kept.pts_us, self._offset_us = pts_us, pts_us - ticks * self._tick_us
        elif self._untimed:
            self._untimed.popleft().pts_us = pts_us
        self._evict()

    def put_picture(self, pts_us: int, data: bytes) -> None:
        """The next JPEG."""
        if self._keep_us:
            self._codec, self._tick_us, self._newest_us = PICTURES, Fraction(1), pts_us
            self._add(_Kept(data, pts_us, True, pts_us))

    def _begin(self, stream: VideoStream) -> bool:
        """Take down what kind of packets they are, in a container that is never written; whether one takes them."""
        self._codec = stream.codec_context.codec.canonical_name
        self._tick_us = (stream.time_base or Fraction(1, 1_000_000)) * 1_000_000
        holder = av.open(io.BytesIO(), "w", format="matroska")
        try:
            self._template = holder.add_stream_from_template(stream, opaque=True)
        except ValueError:
            self._refuse("codec")
            return False
        return True

    def _refuse(self, reason: str) -> None:
        self.clear()
        self._refused = reason

    def _add(self, kept: _Kept) -> None:
        self._packets.append(kept)
        self.bytes += kept.size
        if kept.is_key:
            self._keys.append(kept)
        if kept.pts_us is None and kept.ticks is None:
            self._untimed.append(kept)
        elif kept.pts_us is None and kept.ticks is not None:
            self._unplaced[kept.ticks] = kept
        self._evict()

    def _evict(self) -> None:
        while self.bytes > self._max_bytes or self._is_old():
            self._drop_oldest()
            while self._packets and not self._packets[0].is_key:
                self._drop_oldest()

    def _is_old(self) -> bool:
        """Whether all that is asked for begins with the second keyframe, or later."""
        after = next((at for kept in islice(self._keys, 1, None) if (at := self._time(kept)) is not None), None)
        return after is not None and after <= self._newest_us - self._keep_us

    def _drop_oldest(self) -> None:
        kept = self._packets.popleft()
        self.bytes -= kept.size
        if kept.is_key:
            self._keys.popleft()
        if self._untimed and self._untimed[0] is kept:
            self._untimed.popleft()
        elif kept.ticks is not None and self._unplaced.get(kept.ticks) is kept:
            del self._unplaced[kept.ticks]

    # -- what is wanted

    def between(self, from_us: int, to_us: int) -> KeptPackets:
        """From the last keyframe that is shown at ``from_us`` or before it, the oldest where there is none, to the last
        picture at or before ``to_us``, and what that needs. Raises NothingKept.
        """
        if self._refused or not self._keep_us:
            raise NothingKept(self._refused or "off")
        timed = [(kept, at) for kept in self._packets if (at := self._time(kept)) is not None]
        keys = [number for number, (kept, at) in enumerate(timed) if kept.is_key and at <= to_us]
        if not keys:
            raise NothingKept("gone" if timed else "no_keyframe")
        first = max((number for number in keys if timed[number][1] <= from_us), default=keys[0])
        begins_us = timed[first][1]
        last = max(number for number, (_, at) in enumerate(timed) if begins_us <= at <= to_us)
        seen, packets = set[int](), []
        for kept, at in timed[first : last + 1]:
            if at >= begins_us and at not in seen:  # those shown before it want what came before it
                seen.add(at)
                packets.append(TimedPacket(kept.data, at, kept.is_key))
        return KeptPackets(self._codec, self._template, tuple(packets))

    def _time(self, kept: _Kept) -> int | None:
        """When it is shown; of one that was not decoded, as it lies to those that were."""
        if kept.pts_us is not None or kept.ticks is None or self._offset_us is None:
            return kept.pts_us
        return round(kept.ticks * self._tick_us + self._offset_us)
