"""A file whose timestamps count in another unit than it says, by the rate that its video says itself."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import pytest
from live_video import picture

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits
from stmixer.media.pace import unit_by_rate

FRAMES = 60


def counted(codec: str, step: Fraction, fps: Fraction = Fraction(25)) -> bytes:
    """Matroska, whose pictures lie ``step`` times as far apart as its video says, rounded to milliseconds before."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        track = output.add_stream(codec, rate=fps)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        track.options = {"preset": "ultrafast", "x264-params": "force-cfr=1"} if codec == "libx264" else {}
        track.codec_context.max_b_frames = 0
        packets = [packet for number in range(FRAMES) for packet in track.encode(picture(number))]
        for number, packet in enumerate([*packets, *track.encode(None)]):
            packet.time_base = Fraction(1, 1000)
            packet.pts = packet.dts = round(round(1000 * number / fps) * max(step, 1))
            output.mux(packet)
    data = bytearray(target.getvalue())
    at = data.index(b"\x2a\xd7\xb1\x83\x0f\x42\x40") + 4  # nanoseconds of a tick
    data[at : at + 3] = round(1_000_000 * min(step, 1)).to_bytes(3)
    return bytes(data)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(
    ("step", "pace"),
    [(Fraction(1000), "1,000 times faster"), (Fraction(1, 1000), "1,000 times slower"), (Fraction(1), None),
     (Fraction(20), None), (Fraction(1, 4), None), (Fraction(950), None), (Fraction(1020), None)],
)  # fmt: skip
def test_a_unit_that_is_a_thousand_times_off_is_told(codec: str, step: Fraction, pace: str | None) -> None:
    with VideoReader(io.BytesIO(counted(codec, step)), limits=Limits.unlimited()) as reader:
        assert [frame.pts_us for frame in reader] == [round(40_000 * number * step) for number in range(FRAMES)]
    told = [] if pace is None else [f"timestamps run {pace} than at the video's own rate of 25 frames per second"]
    assert [line.partition(";")[0] for line in reader.warnings] == told


@pytest.mark.parametrize(("interval_us", "name"), [(40e6, "nanoseconds"), (40.0, "milliseconds"), (0.04, "seconds")])
def test_which_unit(interval_us: float, name: str) -> None:
    found = unit_by_rate(interval_us, Fraction(25))
    assert found is not None
    assert found.name == name
    assert unit_by_rate(interval_us * 1.02, Fraction(25)) is None


@pytest.mark.parametrize("fps", [Fraction(30), Fraction(30000, 1001), Fraction(60)])
def test_ticks_that_do_not_divide_the_rate_are_in_their_unit_too(fps: Fraction) -> None:
    """Of 30 a second most pictures lie 33 ms apart by a container's milliseconds, which is more than 1 % off."""
    with VideoReader(io.BytesIO(counted("libx264", Fraction(1000), fps)), limits=Limits.unlimited()) as reader:
        assert len(list(reader)) == FRAMES
    assert [line.partition(" than")[0] for line in reader.warnings] == ["timestamps run 1,000 times faster"]
