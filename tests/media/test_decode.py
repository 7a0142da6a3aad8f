"""Files: orientation, times, damage, limits, memory."""

import io
import math
from fractions import Fraction

import cv2
import numpy as np
import pytest

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.source import SeekableByteSource

# FFmpeg's fixed-point display matrices (a b u, c d v, x y w), and how red/green/blue/white corners then lie.
ONE = 1 << 16
MATRICES = {
    "upright": ((ONE, 0, 0, ONE), 0, False, "rgbw"),
    "90 clockwise": ((0, ONE, -ONE, 0), 90, False, "brwg"),
    "180": ((-ONE, 0, 0, -ONE), 180, False, "wbgr"),
    "270 clockwise": ((0, -ONE, ONE, 0), 270, False, "gwrb"),
    "mirrored": ((-ONE, 0, 0, ONE), 0, True, "grwb"),
    "upside down mirrored": ((ONE, 0, 0, -ONE), 180, True, "bwrg"),
    "transposed": ((0, ONE, ONE, 0), 270, True, "rbgw"),
    "transverse": ((0, -ONE, -ONE, 0), 90, True, "wgbr"),
}


def read(data, **options):
    options.setdefault("limits", Limits())
    with VideoReader(io.BytesIO(data) if isinstance(data, bytes) else data, **options) as reader:
        return list(reader), reader


def error_of(data, **options):
    with pytest.raises(MediaError) as caught:
        read(data, **options)
    assert "\n" not in caught.value.message
    return caught.value.code


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_shown_as_the_display_matrix_says(make_video, read_corners, name):
    (a, b, c, d), rotation, mirrored, expected = MATRICES[name]
    frames, reader = read(make_video(3, 96, 64, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30)))
    rgb = frames[0].rgb()
    turned = rotation in (90, 270)
    assert (reader.info.width, reader.info.height) == ((64, 96) if turned else (96, 64))
    assert (frames[0].width, frames[0].height) == (reader.info.width, reader.info.height)
    assert rgb.shape == (reader.info.height, reader.info.width, 3)
    assert rgb.flags.c_contiguous
    assert read_corners(rgb) == expected
    assert (reader.info.rotation, reader.info.mirrored) == (rotation, mirrored)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_before_turning_is_the_same_as_after(make_video, name, antialias):
    from stmixer.media.resize import resize

    (a, b, c, d), *_ = MATRICES[name]
    frames, _ = read(make_video(1, 96, 64, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30)))
    small = frames[0].resized(40, 30, antialias)
    assert small.shape == (30, 40, 3)
    assert small.flags.c_contiguous
    difference = small.astype(int) - resize(frames[0].rgb(), 40, 30, antialias)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("bframes", [0, 2])
def test_variable_rate_is_kept_to_the_microsecond(make_video, bframes):
    ticks = [0, 3003, 6006, 9009, 20000, 20001, 50000, 90000, 180000, 180500]
    data = make_video(10, pts=ticks, time_base=Fraction(1, 90000), bframes=bframes)
    frames, reader = read(data)
    assert [f.pts_us for f in frames] == [round(Fraction(t * 100, 9)) for t in ticks]
    assert [f.index for f in frames] == list(range(10))
    assert reader.warnings == []
    assert reader.dropped == {}


def test_a_positive_start_is_zero(make_video):
    frames, _ = read(make_video(5, container="matroska", pts=[900 + i for i in range(5)]))
    assert [f.pts_us for f in frames] == [0, 33_000, 67_000, 100_000, 133_000]


def test_raw_streams_take_the_hinted_rate(make_video):
    data = make_video(6, container="h264")
    frames, reader = read(data, rate_hint=10)
    assert [f.pts_us for f in frames] == [i * 100_000 for i in range(6)]
    assert any("without a timestamp: 6" in w for w in reader.warnings)
    assert read(data)[0][1].pts_us == 33_333  # the rate that its own headers state


def test_a_container_with_a_clock_ignores_the_hint(make_video):
    assert read(make_video(3), rate_hint=10)[0][1].pts_us == 33_333


def test_a_clock_that_starts_anew_goes_on(make_video):
    part = make_video(40, container="mpegts")
    frames, reader = read(part + part)
    steps = np.diff([f.pts_us for f in frames])
    assert len(frames) == 80
    assert set(steps) <= {33_333, 33_334}
    assert sum("start anew: 1" in w for w in reader.warnings) == 1


@pytest.mark.parametrize("size", [(161, 121), (34, 2), (33, 99)])
def test_odd_sizes(make_video, size):
    data = make_video(2, *size, container="webm", codec="libvpx-vp9")
    frames, reader = read(data)
    assert (reader.info.width, reader.info.height) == size
    assert frames[0].rgb().shape == (size[1], size[0], 3)


def test_a_cut_off_file_gives_what_it_holds(make_video):
    data = make_video(60, options={"movflags": "frag_keyframe+empty_moov"})
    frames, _ = read(data[: len(data) * 6 // 10])
    assert 10 < len(frames) < 55
    assert error_of(make_video(60)[:3000]) == "unreadable"  # the index was at the end


def test_damage_is_passed_over_and_told(make_video):
    data = bytearray(make_video(90, 320, 240, container="mpegts"))
    third = len(data) // 3
    data[third : third + 3000] = b"\xa5" * 3000
    frames, reader = read(bytes(data))
    times = [f.pts_us for f in frames]
    assert 60 < len(frames) < 90 or reader.dropped or any(f.corrupt for f in frames)
    assert times == sorted(set(times))
    assert times[-1] == pytest.approx(89 / 30 * 1e6, abs=40_000)
    assert reader.warnings


def test_failing_packets_are_counted_and_the_rest_is_read(make_video):
    data = bytearray(make_video(30))
    size = int.from_bytes(data[data.find(b"stsz") + 16 : data.find(b"stsz") + 20], "big")
    sizes = [
        int.from_bytes(data[p : p + 4], "big") for p in range(data.find(b"stsz") + 16, data.find(b"stsz") + 136, 4)
    ]
    at = data.find(b"mdat") + 4
    assert size == sizes[0]
    for index, length in enumerate(sizes):
        if 3 <= index < 7:
            data[at : at + length] = b"\xff" * length
        at += length
    frames, reader = read(bytes(data))
    assert reader.dropped == {"corrupt": 4}
    assert len(frames) == 26
    assert sum("could not be decoded: 4" in w for w in reader.warnings) == 1


def test_reading_ends_after_many_failures_in_a_row(make_video, monkeypatch):
    monkeypatch.setattr("stmixer.media.decode.MAX_FAILURES", 3)
    data = bytearray(make_video(30))
    table = data.find(b"stsz") + 16
    first = int.from_bytes(data[table : table + 4], "big")
    start = data.find(b"mdat") + 4 + first
    data[start : data.find(b"moov") - 4] = b"\xff" * (data.find(b"moov") - 4 - start)
    frames, reader = read(bytes(data))
    assert len(frames) == 1
    assert reader.dropped == {"corrupt": 3}
    assert any("3 packets in a row" in w for w in reader.warnings)


def test_nothing_reaches_standard_error(clip, capfd):
    read(clip("odd/corrupted.mp4"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "data", [b"", b"not a video at all" * 100, b"\x00" * 5000, b"\x00\x00\x00\x18ftypmp42" + b"\0" * 99]
)
def test_what_is_no_video(data):
    assert error_of(data) == "unreadable"


@pytest.mark.parametrize("offset", [-1, -(1 << 62), 1 << 63])
def test_a_place_that_cannot_be_is_none(tmp_path, offset):
    """A damaged NUT says that its index lies before its beginning; the decoder ended with that."""
    (tmp_path / "x").write_bytes(b"0123456789")
    for file in ((tmp_path / "x").open("rb", buffering=0), (tmp_path / "x").open("rb"), io.BytesIO(b"0123456789")):
        with file:
            file.seek(3)
            assert SeekableByteSource(file, owned=False).seek(offset) < 0
            assert file.tell() == 3


def test_a_missing_file_and_a_folder(tmp_path):
    assert error_of(tmp_path / "none.mp4") == "unreadable"
    assert error_of(str(tmp_path)) == "unreadable"


def test_sound_alone_is_no_video():
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert error_of(target.getvalue()) == "no_video"


def test_the_picture_may_change_its_size(make_video):
    data = make_video(5, 96, 64, container="h264") + make_video(5, 128, 160, container="h264")
    frames, reader = read(data)
    assert [(f.width, f.height) for f in frames] == [(96, 64)] * 5 + [(128, 160)] * 5
    assert frames[-1].rgb().shape == (160, 128, 3)
    assert any("picture size: 1" in w for w in reader.warnings)


def test_the_size_is_limited_at_the_start_and_later(make_video):
    limits = Limits(max_width=100, max_height=70)
    assert error_of(make_video(5, 128, 64), limits=limits) == "too_large"
    assert error_of(make_video(5, 64, 128), limits=limits) == "too_large"
    data = make_video(5, 96, 64, container="h264") + make_video(5, 128, 160, container="h264")
    delivered = []
    with VideoReader(io.BytesIO(data), limits=limits, low_latency=True) as reader, pytest.raises(MediaError) as caught:
        delivered.extend(reader)
    assert caught.value.code == "too_large"
    assert len(delivered) == 5


def test_the_length_is_limited_by_claim_and_by_what_comes(make_video):
    assert error_of(make_video(60), limits=Limits(max_duration_s=1.5)) == "too_long"
    # A raw stream claims nothing.
    with VideoReader(
        io.BytesIO(make_video(60, container="h264")), limits=Limits(max_duration_s=1.0), rate_hint=30
    ) as reader:
        delivered = []
        with pytest.raises(MediaError) as caught:
            delivered.extend(reader)
    assert caught.value.code == "too_long"
    assert len(delivered) == 31
    assert len(read(make_video(60), limits=Limits(max_duration_s=math.inf))[0]) == 60


def test_parts_of_pictures_say_nothing_of_their_rate():
    """As saved of a camera's address: FFmpeg itself makes up 25 a second for them."""
    data = cv2.imencode(".jpg", np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"
    for hint, rate, said in ((10, 10, False), (None, 25, True)):
        with VideoReader(io.BytesIO(20 * part), limits=Limits(), rate_hint=hint) as reader:
            times = [frame.pts_us for frame in reader]
            assert times == [round(n * 1e6 / rate) for n in range(20)]
            assert any("does not say its rate" in line for line in reader.warnings) == said


def with_cover(video):
    """An MP4 with a cover picture, and after it the given video, if any."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 240, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        given = av.open(io.BytesIO(video)) if video else None
        film = output.add_stream_from_template(given.streams.video[0]) if given else None
        output.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((240, 320, 3), np.uint8), format="rgb24")))
        for packet in given.demux(video=0) if given else ():
            if packet.dts is not None:
                packet.stream = film
                output.mux(packet)
        if given:
            given.close()
    return target.getvalue()


def test_cover_art_is_not_the_video(make_video):
    frames, reader = read(with_cover(make_video(5)))
    assert (reader.info.width, reader.info.height, len(frames)) == (96, 64, 5)
    assert error_of(with_cover(None)) == "no_video"


def two_videos(container, default=None):
    """Of 96 x 64 and of 128 x 80; ``default``: which of them is meant to be shown."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        tracks = []
        for number, (width, height) in enumerate(((96, 64), (128, 80))):
            track = output.add_stream("mpeg4", rate=25)
            track.width, track.height, track.pix_fmt = width, height, "yuv420p"
            if default is not None:
                track.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
            tracks.append(track)
        for track in tracks * 5:
            picture = np.full((track.height, track.width, 3), 90, np.uint8)
            output.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for track in tracks:
            output.mux(track.encode(None))
    return target.getvalue()


@pytest.mark.parametrize(
    ("container", "default", "shown"), [("matroska", None, 0), ("matroska", 1, 1), ("mp4", 1, 1), ("mpegts", None, 0)]
)
def test_of_several_videos_one_is_read_and_the_others_are_told(container, default, shown):
    frames, reader = read(two_videos(container, default))
    assert {(f.width, f.height) for f in frames} == {((96, 64), (128, 80))[shown]}
    assert len(frames) == 5
    told = f"the file holds 2 video streams; stream {shown} is read, as a player would show it"
    assert reader.warnings == [told]
