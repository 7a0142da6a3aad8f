"""Kept packets as a file: the very packets, with the times at which they were shown."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import Protocol, cast

import av
import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from stmixer.media.errors import MediaError
from stmixer.media.jpeg import jpeg_size
from stmixer.media.packet_ring import PICTURES, KeptPackets, NothingKept, TimedPacket

PLAYED = ("h264", "hevc", "av1", "vp9")
"""What browsers play of what an mp4 may hold. Anything else is to be encoded anew by whoever wants to look at it."""
_MP4 = (*PLAYED, PICTURES)
_WITH_PARAMETER_SETS = ("h264", "hevc")
_TIME_BASE = Fraction(1, 1_000_000)


class ClipTarget(Protocol):
    """What takes the file. Raises OSError where it does not."""

    def write(self, data: bytes, /) -> int: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


def plays(codec: str) -> bool:
    """Whether what ``remux`` makes of it is for people, and no intermediate."""
    return codec in PLAYED


def remux(kept: KeptPackets, target: ClipTarget) -> KeptPackets:
    """Write an mp4 (Matroska of a codec that mp4 does not take), whose first picture is shown at 0; gives what is in
    it: JPEGs begin with the first that says how large it is.

    Raises NothingKept: ``codec``, or ``unmuxable`` where the packets do not make a file or ``target`` does not take it.
    """
    try:
        kept = _from_a_picture(kept) if kept.template is None else kept
        _write(kept, target)
        return kept
    except (av.error.FFmpegError, OSError, ValueError):
        raise NothingKept("unmuxable") from None


def _from_a_picture(kept: KeptPackets) -> KeptPackets:
    """Raises NothingKept."""
    for number, packet in enumerate(kept.packets):
        with suppress(MediaError):
            jpeg_size(packet.data)
            return replace(kept, packets=kept.packets[number:])
    raise NothingKept("no_keyframe")


def _write(kept: KeptPackets, target: ClipTarget) -> None:
    container = "mp4" if kept.codec in _MP4 else "matroska"
    with av.open(target, "w", format=container) as output:
        try:
            stream = _stream(output, kept)
        except (ValueError, MediaError):
            raise NothingKept("codec") from None
        stream.time_base = _TIME_BASE
        if kept.codec == "hevc" and stream.codec_context is not None:
            stream.codec_context.codec_tag = "hvc1"  # Apple's players know it by no other
        shown_us = max(1, (kept.to_us - kept.from_us) // max(1, len(kept.packets) - 1))
        for packet, decoded_us in zip(kept.packets, decoding_times(kept.packets), strict=True):
            muxed = Packet(packet.data)
            muxed.pts, muxed.dts, muxed.time_base = packet.pts_us - kept.from_us, decoded_us - kept.from_us, _TIME_BASE
            muxed.duration = shown_us  # or the last one would end as it begins, and be left out
            muxed.is_keyframe, muxed.stream = packet.is_key, stream
            output.mux(muxed)


def decoding_times(packets: tuple[TimedPacket, ...]) -> list[int]:
    """µs, rising, each no later than its packet is shown.

    The times of showing in order, all early by as much as the one that is needed soonest: what containers say of it is
    often missing or wrong, and follows no clock that was set anew.
    """
    in_order = sorted(packet.pts_us for packet in packets)
    early = max(shown - packet.pts_us for shown, packet in zip(in_order, packets, strict=True))
    return [shown - early for shown in in_order]


def _stream(output: OutputContainer, kept: KeptPackets) -> VideoStream:
    """Raises ValueError, MediaError."""
    if kept.template is None:
        width, height = jpeg_size(kept.packets[0].data)
        return cast(VideoStream, output.add_mux_stream(kept.codec, width=width, height=height))
    context = kept.template.codec_context
    if kept.codec in _WITH_PARAMETER_SETS and not context.extradata:  # they stand in the stream, and are found there
        size = {"width": context.width, "height": context.height}
        return cast(VideoStream, output.add_mux_stream(kept.codec, **size))
    return output.add_stream_from_template(kept.template, opaque=True)
