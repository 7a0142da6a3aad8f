"""When pictures were taken, from what a sender's reports say of a packet."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import av.filter
from av.packet import Packet, PacketSideData, packet_sidedata_type_from_literal

from stmixer.media.capture_clock import CaptureClock
from stmixer.media.deinterlace import Deinterlacer

NOON_US = 1_700_000_000_000_000


def told(pts: int, wallclock_us: int) -> Packet:
    """A packet with a producer's reference time (AVProducerReferenceTime)."""
    packet, time = Packet(b"x"), struct.pack("=qi4x", wallclock_us, 24)
    side = PacketSideData(packet_sidedata_type_from_literal("prft"), len(time))
    side.update(time)
    side.to_packet(packet)
    packet.pts = pts
    return packet


def picture(pts: int) -> av.VideoFrame:
    frame = av.VideoFrame(16, 16)
    frame.pts, frame.time_base = pts, Fraction(1, 90_000)
    return frame


def test_the_origin_is_what_the_clock_was_at_the_first_frame() -> None:
    clock = CaptureClock()
    untold = Packet(b"x")
    untold.pts = 0
    clock.read(untold)
    clock.place(picture(0), 0)
    assert clock.origin_us is None
    clock.read(told(90_000, NOON_US))
    clock.place(picture(135_000), 1_500_000)  # half a second after that packet, whatever order they came in
    assert clock.origin_us == NOON_US - 1_000_000
    clock.place(picture(45_000), 500_000)
    assert clock.origin_us == NOON_US - 1_000_000
    clock.read(told(180_000, NOON_US + 1_000_250))  # the next report: it was a quarter of a millisecond off
    clock.place(picture(180_000), 2_000_000)
    assert clock.origin_us == NOON_US - 999_750


def test_a_sender_without_a_clock_tells_none() -> None:
    clock = CaptureClock()
    clock.read(told(90_000, -2_208_988_800_000_000))  # what a report of no NTP time comes to
    clock.place(picture(90_000), 0)
    assert clock.origin_us is None


def test_an_interlaced_picture_keeps_its_clock() -> None:
    """Whatever the filter counts in: a picture's time is asked for by its own clock."""
    fields = av.filter.Graph()
    source = fields.add_buffer(width=64, height=64, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 90_000))
    interlaced = fields.add("setfield", "tff")
    source.link_to(interlaced)
    interlaced.link_to(fields.add("buffersink"))
    fields.configure()
    times = [90_000, 93_600, 97_200]
    made_whole = Deinterlacer()
    pictures = []
    for pts in times:
        frame = av.VideoFrame(64, 64)
        frame.pts, frame.time_base = pts, Fraction(1, 90_000)
        fields.vpush(frame)
        pictures += made_whole.put(fields.vpull())
    pictures += made_whole.end()
    assert made_whole.pictures == 3
    assert [(found.pts, found.time_base) for found in pictures] == [(pts, Fraction(1, 90_000)) for pts in times]
