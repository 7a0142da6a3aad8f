"""A file whose timestamps count in another unit than it says, by the rate that its video says itself."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import pytest
from live_video import picture

from stmixer.media.decode import VideoReader
from stmixer.media.errors import MediaError
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


def test_a_length_that_only_another_unit_makes_says_so() -> None:
    with pytest.raises(MediaError, match=r"over the limit of 600 s.*timestamps run 1,000 times faster") as refused:
        list(VideoReader(io.BytesIO(counted("libx264", Fraction(1000))), limits=Limits()))
    assert refused.value.code == "too_long"
    with pytest.raises(MediaError, match=r"over the limit of 600 s; cut it or send it in parts$"):
        list(VideoReader(io.BytesIO(counted("libx264", Fraction(700))), limits=Limits()))


UNTIMED = "no vui timing"
"""H.265 that does not say its rate."""


def transport(codec: str, ticks: int) -> bytes:
    """MPEG-TS whose pictures, 25 a second, lie so many ticks of 90 kHz apart."""
    target, untimed = io.BytesIO(), codec == UNTIMED
    with av.open(target, "w", format="mpegts") as output:
        track = output.add_stream("libx265" if untimed else codec, rate=25)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        track.options = {"preset": "ultrafast"} if codec == "libx264" else {}
        if untimed:
            track.options = {"preset": "ultrafast", "x265-params": "vui-timing-info=0:log-level=none:bframes=0"}
        track.codec_context.max_b_frames = 0
        packets = [packet for number in range(FRAMES) for packet in track.encode(picture(number))]
        for number, packet in enumerate([*packets, *track.encode(None)]):
            packet.time_base = Fraction(1, 90_000)
            packet.pts = packet.dts = 90_000 + number * ticks
            output.mux(packet)
    return target.getvalue()


OF_25 = "than at the video's own rate of 25 frames per second"
TICKS = [(3600, None), (40, f"timestamps run 90 times slower {OF_25}"), (4000, None), (36, None),
         (40_000, f"timestamps run 11 times faster {OF_25}"), (45_000, None), (36_000, None)]  # fmt: skip


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize(("ticks", "says"), TICKS)
def test_milliseconds_and_microseconds_instead_of_mpegs_ticks_are_told(
    codec: str, ticks: int, says: str | None, live: bool
) -> None:
    """Of 25 pictures a second, which the video says itself: 40 and 40 000 of them, not 3600."""
    told: list[str] = []
    with VideoReader(
        io.BytesIO(transport(codec, ticks)), limits=Limits(), low_latency=live,
        on_warning=lambda code, text: told.append(text),
    ) as reader:  # fmt: skip
        assert [frame.pts_us for frame in reader] == [round(ticks * number / 0.09) for number in range(FRAMES)]
    units = [line for line in reader.warnings if line.startswith("timestamps")]
    assert [line.partition(";")[0] for line in units] == ([] if says is None else [says])
    assert told == units


@pytest.mark.parametrize(("fps", "ticks"), [(30, 33), (60, 16), (24, 41), (24, 42)])
def test_whole_milliseconds_that_are_added_up_are_told(fps: int, ticks: int) -> None:
    found = unit_by_rate(ticks / 0.09, Fraction(fps), Fraction(1, 90_000))
    assert found is not None
    assert found.name == "milliseconds"
    assert unit_by_rate(ticks / 0.09, Fraction(fps), Fraction(1, 1000)) is None


@pytest.mark.parametrize(
    ("ticks", "says"), [(40, ["timestamps say 2,250 frames per second"]), (40_000, []), (3600, [])]
)
def test_of_a_video_that_does_not_say_its_rate_what_nothing_films_is_told(ticks: int, says: list[str]) -> None:
    """Two pictures a second may be two pictures a second."""
    with VideoReader(io.BytesIO(transport(UNTIMED, ticks)), limits=Limits()) as reader:
        assert len(list(reader)) == FRAMES
    assert [line.partition(";")[0] for line in reader.warnings] == says
