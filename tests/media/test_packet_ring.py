"""The packet ring and what is made of it: when a clip begins and ends, what it shows, and what the ring may hold."""

import io
import tracemalloc
from itertools import pairwise

import av
import numpy as np
import pytest
from live_video import picture

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.jpeg import encode_jpeg
from stmixer.media.packet_ring import BESIDES, NothingKept, PacketRing, TimedPacket
from stmixer.media.remux import decoding_times, plays, remux

SECOND = 1_000_000
MUCH = 1 << 30
HEVC = {"x265-params": "log-level=none:keyint=25:min-keyint=25:bframes=2:open-gop=1"}
H264 = {"x264-params": "log-level=none:keyint=25:min-keyint=25:bframes=2:open-gop=1:scenecut=0"}
SOURCES = {
    "h264 mpegts": ("libx264", "mpegts", H264),
    "h264 mp4": ("libx264", "mp4", H264),
    "h264 matroska": ("libx264", "matroska", H264),
    "h265 mpegts": ("libx265", "mpegts", HEVC),
    "h265 mp4": ("libx265", "mp4", HEVC),
    "vp9 webm": ("libvpx-vp9", "webm", {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8", "g": "25"}),
}


def film(codec: str, container: str, options: dict[str, str], frames: int = 250) -> bytes:
    """``live_video.picture``s, 25 a second, a keyframe each second."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        track = output.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt, track.options = 160, 96, "yuv420p", dict(options)
        for number in range(frames):
            output.mux(track.encode(picture(number)))
        output.mux(track.encode(None))
    return target.getvalue()


def read(data: bytes, ring: PacketRing) -> int:
    """Through a reader that fills the ring; how many frames there were."""
    with VideoReader(io.BytesIO(data), limits=Limits(), ring=ring) as reader:
        return sum(1 for _ in reader)


def clip(ring: PacketRing, from_us: int, to_us: int) -> tuple[bytes, int]:
    """What lies between as a file, and when it begins."""
    kept, target = ring.between(from_us, to_us), io.BytesIO()
    remux(kept, target)
    return target.getvalue(), kept.from_us


def shown(data: bytes) -> list[tuple[int, float]]:
    """When and how light each picture is."""
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        return [(frame.pts_us, float(frame.rgb().mean())) for frame in reader]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_clip_begins_with_the_keyframe_before_and_ends_where_it_is_to(kind: str) -> None:
    ring = PacketRing()
    ring.keep(60, MUCH)
    assert read(film(*SOURCES[kind]), ring) == 250
    data, begins_us = clip(ring, round(3.3 * SECOND), round(6.5 * SECOND))
    assert begins_us == 3 * SECOND
    pictures = shown(data)
    ends_us = begins_us + pictures[-1][0]
    assert round(6.44 * SECOND) <= ends_us <= round(6.6 * SECOND), "what the last one is predicted from comes with it"
    assert [at for at, _ in pictures] == [n * 40_000 for n in range(len(pictures))]
    light = [value for _, value in pictures]
    assert light == pytest.approx([40 + 75 + n for n in range(len(pictures))], abs=2.5), "the very pictures"
    with av.open(io.BytesIO(data)) as container:
        assert "mp4" in container.format.name
        stream = container.streams.video[0]
        assert plays(stream.codec_context.codec.canonical_name)
        if "h265" in kind:
            assert stream.codec_context.codec_tag == "hvc1"


def test_the_packets_are_the_sources_own() -> None:
    ring, data = PacketRing(), film(*SOURCES["h264 mp4"])
    ring.keep(60, MUCH)
    read(data, ring)

    def packets(source: bytes) -> list[bytes]:
        with av.open(io.BytesIO(source)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    made = packets(clip(ring, 0, 20 * SECOND)[0])
    assert made == packets(data)


def test_a_ring_outlives_the_container_it_was_filled_from() -> None:
    """The source is freed; what was taken down of it is not."""
    ring = PacketRing()
    ring.keep(60, MUCH)
    reader = VideoReader(io.BytesIO(film(*SOURCES["h264 mpegts"])), limits=Limits(), ring=ring)
    assert sum(1 for _ in reader) == 250
    reader.close()
    del reader
    assert len(shown(clip(ring, 2 * SECOND, 3 * SECOND)[0])) >= 25


def test_a_first_packet_without_a_time_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ring, put = PacketRing(), PacketRing.put

    def without_a_time(self, packet):
        if not ring.bytes:
            packet.pts = packet.dts = None
        put(self, packet)

    monkeypatch.setattr(PacketRing, "put", without_a_time)
    ring.keep(60, MUCH)
    read(film(*SOURCES["h264 mpegts"], frames=60), ring)
    data, begins_us = clip(ring, 0, 2 * SECOND)
    assert begins_us == 0
    assert [at for at, _ in shown(data)][:30] == [n * 40_000 for n in range(30)]


def test_how_a_picture_lies_goes_with_it(make_video, read_corners) -> None:
    turned = make_video(30, 96, 64, matrix=(0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30))
    ring = PacketRing()
    ring.keep(60, MUCH)
    read(turned, ring)
    data, _ = clip(ring, 0, SECOND)
    pictures = []
    for source in (turned, data):
        with VideoReader(io.BytesIO(source), limits=Limits()) as reader:
            pictures.append(next(iter(reader)).rgb())
    assert pictures[0].shape == pictures[1].shape == (96, 64, 3)
    assert read_corners(pictures[0]) == read_corners(pictures[1])


def test_parameter_sets_that_stand_in_the_stream_alone_are_found() -> None:
    """As of a camera whose description has none."""
    ring = PacketRing()
    ring.keep(60, MUCH)
    with VideoReader(io.BytesIO(film(*SOURCES["h264 mpegts"])), limits=Limits(), ring=ring) as reader:
        for _ in reader:
            pass
    kept = ring.between(0, 2 * SECOND)
    assert kept.template is not None
    kept.template.codec_context.extradata = None
    target = io.BytesIO()
    remux(kept, target)
    assert len(shown(target.getvalue())) >= 50


def test_bytes_are_bounded_whatever_comes() -> None:
    """Large packets, as of 4K at 60 a second: the ring forgets whole groups of pictures, and begins with a keyframe."""
    ring, most = PacketRing(), 5 * 2**20
    ring.keep(600, most)
    seen = 0
    for number in range(2000):
        ring.put_picture(number * 16_667, bytes(300_000 + number))
        assert ring.bytes <= most
        seen = max(seen, ring.bytes)
    assert seen > most - 320_000, "and it uses what it may"
    kept = ring.between(0, 2000 * 16_667)
    assert sum(len(packet.data) + BESIDES for packet in kept.packets) == ring.bytes
    ring.put_picture(2001 * 16_667, bytes(most + 1))
    assert ring.bytes == 0, "one that is larger than all of it is not kept either"
    with pytest.raises(NothingKept, match="no_keyframe"):
        ring.between(0, 2000 * 16_667)


def uhd() -> bytes:
    """Six pictures of 3840 × 2160, 60 a second, a keyframe at every third."""
    noise, target = np.random.default_rng(6), io.BytesIO()
    fast = {"preset": "ultrafast", "qp": "30", "x264-params": "log-level=none:keyint=3:min-keyint=3:scenecut=0"}
    with av.open(target, "w", format="mpegts") as output:
        track = output.add_stream("libx264", rate=60)
        track.width, track.height, track.pix_fmt, track.options = 3840, 2160, "yuv420p", fast
        coarse = noise.integers(0, 255, (6, 270, 480), np.uint8).repeat(8, 1).repeat(8, 2)
        for number, light in enumerate(coarse):
            frame = av.VideoFrame.from_ndarray(np.concatenate((light, light[:1080])), format="yuv420p")
            frame.pts = number
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return target.getvalue()


def test_memory_is_bounded_under_a_4k_source_of_60_a_second() -> None:
    """A minute of it, over and over: what Python holds of it never exceeds what the ring may, by more than a packet."""
    ring, most = PacketRing(), 16 * 2**20
    ring.keep(600, most)
    with av.open(io.BytesIO(uhd())) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        largest = max(packet.size for packet in packets)
        assert sum(packet.size for packet in packets) > 6 * 100_000, "more than 48 Mbit/s"
        tracemalloc.start()
        for number in range(3600):
            packet = packets[number % 6]
            packet.pts = packet.dts = number * 1500
            ring.put(packet)
            ring.placed(packet.pts, number * SECOND // 60)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert ring.bytes > most - 4 * largest, "and it uses what it may"
    assert held <= most
    assert peak <= most + 2 * largest
    kept = ring.between(0, 61 * SECOND)
    assert kept.to_us == 3599 * SECOND // 60
    assert kept.packets[0].is_key


def test_a_group_of_pictures_over_the_bound_is_not_kept_and_the_next_one_is() -> None:
    long = {"x264-params": "log-level=none:keyint=1000:min-keyint=1000:scenecut=0", "crf": "1", "preset": "ultrafast"}
    noise, target = np.random.default_rng(5), io.BytesIO()
    with av.open(target, "w", format="mpegts") as output:
        track = output.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt, track.options = 160, 96, "yuv420p", long
        for number in range(60):
            rgb = noise.integers(0, 255, (96, 160, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = number
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    ring = PacketRing()
    ring.keep(600, len(target.getvalue()) // 2)
    read(target.getvalue(), ring)
    assert ring.bytes == 0
    with pytest.raises(NothingKept, match="no_keyframe"):
        ring.between(0, SECOND)
    read(film(*SOURCES["h264 mpegts"], frames=50), ring)
    assert ring.between(0, SECOND).from_us == 0


def test_seconds_are_bounded_to_a_keyframe_interval_more() -> None:
    ring = PacketRing()
    ring.keep(2.5, MUCH)
    read(film(*SOURCES["h264 mpegts"]), ring)
    kept = ring.between(0, 20 * SECOND)
    assert kept.from_us == 7 * SECOND, "the newest is 9.96 s"
    assert kept.to_us == round(9.96 * SECOND)


def test_seconds_are_bounded_though_a_keyframe_cannot_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth: nothing says when it is shown but how it lies to the others."""
    ring, placed = PacketRing(), PacketRing.placed

    def not_that_one(self, ticks, pts_us):
        if pts_us != 3 * SECOND:
            placed(self, ticks, pts_us)

    monkeypatch.setattr(PacketRing, "placed", not_that_one)
    ring.keep(2.5, MUCH)
    read(film(*SOURCES["h264 mpegts"]), ring)
    assert ring.between(0, 20 * SECOND).from_us == 7 * SECOND


def test_a_broken_jpeg_at_the_beginning_is_left_out() -> None:
    ring = PacketRing()
    ring.keep(60, MUCH)
    ring.put_picture(0, b"\xff\xd8 and no more")
    for number in (1, 2):
        ring.put_picture(number * 100_000, encode_jpeg(np.full((64, 96, 3), 40 + 20 * number, np.uint8)))
    target = io.BytesIO()
    assert remux(ring.between(0, SECOND), target).from_us == 100_000
    pictures = shown(target.getvalue())
    assert [at for at, _ in pictures] == [0, 100_000]
    assert [light for _, light in pictures] == pytest.approx([60, 80], abs=3)
    with pytest.raises(NothingKept, match="no_keyframe"):
        remux(ring.between(0, 50_000), io.BytesIO())


def test_nothing_is_kept_before_it_is_wanted_nor_after() -> None:
    ring, data = PacketRing(), film(*SOURCES["h264 mpegts"], frames=60)
    read(data, ring)
    assert ring.bytes == 0
    with pytest.raises(NothingKept, match="off"):
        ring.between(0, SECOND)
    ring.keep(10, MUCH)
    read(data, ring)
    assert ring.bytes > 0
    ring.keep(0, MUCH)
    assert ring.bytes == 0


def test_what_lies_elsewhere_is_said() -> None:
    ring = PacketRing()
    ring.keep(10, MUCH)
    for number in range(10):
        ring.put_picture(20 * SECOND + number * 100_000, b"x")
    with pytest.raises(NothingKept, match="gone"):
        ring.between(5 * SECOND, 15 * SECOND)


def test_pictures_keep_their_times() -> None:
    ring, times = PacketRing(), [0, 70_000, 190_001, 333_333, 600_000, 890_001, 1_000_000]
    ring.keep(60, MUCH)
    for number, at in enumerate(times):
        ring.put_picture(at, encode_jpeg(np.full((64, 96, 3), 40 + 20 * number, np.uint8)))
    data, begins_us = clip(ring, 200_000, 900_000)
    assert begins_us == 190_001
    assert not plays("mjpeg")
    pictures = shown(data)
    assert [begins_us + at for at, _ in pictures] == times[2:6]
    assert [light for _, light in pictures] == pytest.approx([80, 100, 120, 140], abs=3)


def test_a_codec_that_mp4_does_not_take_is_written_all_the_same() -> None:
    """For who encodes it anew."""
    ring = PacketRing()
    ring.keep(60, MUCH)
    options = {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8", "g": "25"}
    read(film("libvpx", "webm", options, 60), ring)
    data, begins_us = clip(ring, SECOND, 2 * SECOND)
    assert (begins_us, plays("vp8")) == (SECOND, False)
    assert [light for _, light in shown(data)] == pytest.approx([65 + n for n in range(26)], abs=2.5)


def test_decoding_times_rise_and_are_early_enough() -> None:
    packets = tuple(TimedPacket(b"", at, at == 0) for at in (0, 120, 40, 80, 240, 160, 200))
    times = decoding_times(packets)
    assert all(earlier < later for earlier, later in pairwise(times))
    assert all(decoded <= packet.pts_us for decoded, packet in zip(times, packets, strict=True))
    assert times == [-40, 0, 40, 80, 120, 160, 200]
