"""Recordings put behind each other, live and in files: what begins anew is followed, and told."""

from __future__ import annotations

import io
import random
import sys
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from live_video import picture, piece

from stmixer.media.annotated import write_annotated
from stmixer.media.decode import _NOT_LOOKED_THROUGH, VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.media.marks import _MARKS
from stmixer.media.parts import parts_of
from stmixer.media.restarts import HeaderWatch
from stmixer.media.source import SeekableByteSource
from stmixer.media.takeover_in_file import takes_over

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
OPTIONS: dict[str, dict[str, str]] = {
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "log-level=none"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0"},
    "flv": {},
    "wmv2": {},
}


def recording(
    first: int, count: int, container: str, codec: str, size: tuple[int, int] = (160, 96), tick: int = 25
) -> bytes:
    """Grey pictures, 25 a second from 0 on, as light as their numbers from ``first`` on say. ``tick``: of the clock."""
    target = io.BytesIO()
    options = {"mp4": FRAGMENTED, "webm": {"live": "1"}, "matroska": {"live": "1"}}.get(container, {})
    with av.open(target, "w", format=container, options=options) as output:
        track = output.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt, track.options = *size, "yuv420p", dict(OPTIONS[codec])
        track.codec_context.gop_size = 10
        if container == "mp4":
            track.time_base = track.codec_context.time_base = Fraction(1, tick)
        for number in range(count):
            frame = picture(first + number).reformat(*size)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return target.getvalue()


class Pipe:
    """What a live sender's bytes come through."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._most = io.BytesIO(data), most

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._most))


Shown = tuple[int, int, tuple[int, int]]


def live(data: bytes, most: int, *, mp4: bool = False) -> tuple[list[Shown], list[str], VideoReader]:
    """Time in ms, number and size of each picture; what was told; the reader."""
    told: list[str] = []
    with VideoReader(
        Pipe(data, most),  # type: ignore[arg-type]
        limits=Limits(), low_latency=True, fragmented_mp4=mp4, on_warning=lambda code, text: told.append(text),
    ) as reader:  # fmt: skip
        return shown(reader), told, reader


def shown(reader: VideoReader) -> list[Shown]:
    return [(f.pts_us // 1000, round(float(f.rgb().mean())) - 40, (f.width, f.height)) for f in reader]


def are_all(found: list[Shown], sizes: list[tuple[int, int]]) -> None:
    """Every picture once, 40 ms after the one before it, of these sizes."""
    assert [ms for ms, _, _ in found] == pytest.approx([40 * n for n in range(len(sizes))], abs=1)
    assert [number for _, number, _ in found] == pytest.approx(list(range(len(sizes))), abs=4)
    assert [size for _, _, size in found] == sizes


SMALL, LARGE = (160, 96), (256, 160)
SECOND = {
    "the same again": ("webm", "libvpx", "libvpx", SMALL),
    "another size": ("webm", "libvpx", "libvpx", LARGE),
    "another codec": ("webm", "libvpx", "libvpx-vp9", LARGE),
    "H.264 behind VP8": ("matroska", "libvpx", "libx264", SMALL),
    "the same MP4 again": ("mp4", "libx264", "libx264", SMALL),
    "an MP4 of another size": ("mp4", "libx264", "libx264", LARGE),
    "an MP4 of another codec": ("mp4", "libx264", "libx265", SMALL),
}


@pytest.mark.parametrize("most", [77, 1000, 1 << 16])
@pytest.mark.parametrize("kind", SECOND)
def test_another_recording_behind_the_first_is_followed_and_told(kind: str, most: int) -> None:
    """As of a page that stops its MediaRecorder and starts another; each begins at zero."""
    container, before, after, size = SECOND[kind]
    data = recording(0, 30, container, before, tick=12_800)
    data += recording(30, 30, container, after, size, tick=90_000)
    found, told, reader = live(data, most, mp4=container == "mp4")
    are_all(found, [SMALL] * 30 + [size] * 30)
    assert reader.dropped == {}
    assert "the timestamps start anew; time goes on without a gap" in told
    what = "an MP4" if container == "mp4" else "a WebM recording"
    assert f"another video takes over ({what}, from its beginning); it is read from here on" in told


def test_a_beginning_that_is_repeated_is_none() -> None:
    """Relays send the tables again before every fragment."""
    data = recording(0, 40, "mp4", "libx264")
    fragments = [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"]
    tables, ends = data[: fragments[0]], [*fragments[1:], len(data)]
    repeated = b"".join(tables + data[at:end] for at, end in zip(fragments, ends, strict=True))
    for most in (77, 1 << 16):
        found, told, _ = live(repeated, most, mp4=True)
        are_all(found, [SMALL] * 40)
        assert told == []


# -- files


FILES = SECOND | {"FLV": ("flv", "flv", "flv", LARGE), "ASF": ("asf", "wmv2", "wmv2", LARGE)}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_two_recordings_of_any_kind(kind: str) -> None:
    container, before, after, size = FILES[kind]
    data = recording(0, 30, container, before, tick=12_800)
    data += recording(30, 30, container, after, size, tick=90_000)
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        are_all(shown(reader), [SMALL] * 30 + [size] * 30)
    assert reader.dropped == {}
    assert reader.warnings[:2] == [
        "times the timestamps start anew: 1; time goes on without a gap",
        "times that another video took over: 1; it was read from there on",
    ]


def whole(
    first: int, count: int, container: str, codec: str, size: tuple[int, int] = SMALL, rate: int = 25, **options: str
) -> bytes:
    """The same as a finished file: with an index, and sizes that are said."""
    with (
        tempfile.NamedTemporaryFile() as target,
        av.open(target.name, "w", format=container, options=options) as output,
    ):
        track = output.add_stream(codec, rate=rate)
        track.width, track.height, track.options = *size, dict(OPTIONS.get(codec, {}))
        track.pix_fmt = {"mjpeg": "yuvj420p", "apng": "rgb24"}.get(codec, "yuv420p")
        track.codec_context.gop_size, track.codec_context.max_b_frames = 10, 0
        for number in range(first, first + count):
            frame = picture(number).reformat(*size)
            frame.pts, frame.time_base = number - first, Fraction(1, rate)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
        output.close()
        return Path(target.name).read_bytes()


WHOLE: dict[str, tuple[str, str, dict[str, str]]] = {
    "MP4": ("mp4", "libx264", {}),
    "MP4, its index first": ("mp4", "libx264", {"movflags": "faststart"}),
    "QuickTime": ("mov", "libx264", {}),
    "AVI": ("avi", "mjpeg", {}),
    "FLV": ("flv", "flv", {}),
    "ASF": ("asf", "wmv2", {}),
    "IVF": ("ivf", "libvpx", {}),
    "NUT": ("nut", "libx264", {}),
    "RealMedia": ("rm", "rv10", {}),
    "APNG": ("apng", "apng", {}),
    "YUV4MPEG": ("yuv4mpegpipe", "rawvideo", {}),
    "MXF": ("mxf", "mpeg2video", {}),
    "Ogg": ("ogg", "libvpx", {}),
    "WTV": ("wtv", "mpeg2video", {}),
}


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["alike", "larger"])
@pytest.mark.parametrize("kind", WHOLE)
def test_whole_files_put_behind_each_other_are_read_to_the_end(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """`cat a.mp4 b.mp4 > c.mp4`: of the second nothing is in the first one's index."""
    container, codec, options = WHOLE[kind]
    parts = [whole(n, 30, container, codec, of, **options) for n, of in ((0, SMALL), (30, size), (60, SMALL))]
    assert [begin for begin, _ in parts_of(io.BytesIO(b"".join(parts))).all] == [
        0, len(parts[0]), len(parts[0]) + len(parts[1])
    ]  # fmt: skip
    (tmp_path / "joined").write_bytes(b"".join(parts))
    with VideoReader(tmp_path / "joined", limits=Limits()) as reader:
        are_all(shown(reader), [SMALL] * 30 + [size] * 30 + [SMALL] * 30)
    assert reader.dropped == {}
    assert reader.warnings[:2] == [
        "times the timestamps start anew: 2; time goes on without a gap",
        "times that another video took over: 2; it was read from there on",
    ]


@pytest.mark.parametrize(("files", "frames"), [(10, 3), (20, 1), (2, 2)])
@pytest.mark.parametrize("kind", sorted(WHOLE.keys() - {"APNG", "WTV"}))  # which are none, or unreadable, of one frame
def test_files_of_few_frames_lose_none(kind: str, files: int, frames: int) -> None:
    """Too few to tell by their timestamps that a clock was set anew."""
    container, codec, options = WHOLE[kind]
    data = b"".join(whole(n * frames, frames, container, codec, **options) for n in range(files))
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        assert reader.info.duration_s is None
        are_all(shown(reader), [SMALL] * (files * frames))
    assert reader.dropped == {}
    assert reader.warnings == [
        f"times the timestamps start anew: {files - 1}; time goes on without a gap",
        f"times that another video took over: {files - 1}; it was read from there on",
    ]


@pytest.mark.parametrize("kind", ["FLV", "ASF", "IVF", "NUT", "RealMedia", "YUV4MPEG", "MXF"])
def test_files_of_few_frames_sent_one_after_another_lose_none(kind: str) -> None:
    container, codec, options = WHOLE[kind]
    found, _, reader = live(b"".join(whole(n * 3, 3, container, codec, **options) for n in range(10)), 1 << 16)
    are_all(found, [SMALL] * 30)
    assert reader.dropped == {}
    assert "times the timestamps start anew: 9; time goes on without a gap" in reader.warnings


def test_an_smjpeg_behind_another_is_read() -> None:
    """FFmpeg takes the end of each for a fault."""
    data = b"".join(whole(n, 30, "smjpeg", "mjpeg") for n in (0, 30))
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        are_all(shown(reader), [SMALL] * 60)
    assert reader.dropped == {}
    assert "times that another video took over: 1; it was read from there on" in reader.warnings


LIVE = ("MP4, its index first", "FLV", "ASF", "IVF", "NUT", "RealMedia", "APNG", "YUV4MPEG", "MXF")


@pytest.mark.parametrize("most", [77, 1 << 16])
@pytest.mark.parametrize("kind", LIVE)
def test_whole_files_sent_one_after_another_are_read_to_the_end(kind: str, most: int) -> None:
    """As of a sender that makes a file every few seconds, and sends each."""
    container, codec, options = WHOLE[kind]
    data = b"".join(whole(n, 30, container, codec, of, **options) for n, of in ((0, SMALL), (30, LARGE), (60, SMALL)))
    found, told, reader = live(data, most)
    are_all(found, [SMALL] * 30 + [LARGE] * 30 + [SMALL] * 30)
    if most > 77:  # else what begins a mark is on its way to FFmpeg before the rest of it comes
        assert reader.dropped == {}
    assert [line.partition(" (")[0] for line in told if "another" in line] == ["another video takes over"] * 2
    assert "the timestamps start anew; time goes on without a gap" in told


OF_OTHER_RATES = {(kind, 25, 50) for kind in WHOLE} | {("MXF", 50, 25), ("IVF", 30, 60)}


@pytest.mark.parametrize(
    ("kind", "before", "after", "most"),
    [(*rates, 0) for rates in sorted(OF_OTHER_RATES)]
    + [(*rates, 1 << 16) for rates in sorted(OF_OTHER_RATES) if rates[0] in LIVE],
)  # fmt: skip
def test_a_file_of_another_rate_keeps_its_own(kind: str, before: int, after: int, most: int) -> None:
    """Its stamps may lie between those of the one before it. ``most``: bytes that come at a time; 0: it is a file."""
    container, codec, options = WHOLE[kind]
    data = b"".join(
        whole(n, 30, container, codec, rate=rate, **options) for n, rate in ((0, before), (30, after), (60, before))
    )
    if most:
        found, _, reader = live(data, most)
    else:
        with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
            found = shown(reader)
    lengths = [round(1000 / before)] * 30 + [round(1000 / after)] * 30 + [round(1000 / before)] * 30
    steps = [later - earlier for (earlier, *_), (later, *_) in pairwise(found)]
    assert [number for _, number, _ in found] == pytest.approx(list(range(90)), abs=4)
    assert steps[:29] == pytest.approx(lengths[:29], abs=1)
    # the first of another, and one without a time behind it, come as those before them did
    assert steps[31:59] == pytest.approx(lengths[31:59], abs=1)
    assert steps[61:] == pytest.approx(lengths[61:89], abs=1)
    assert reader.dropped == {}


FRAGMENTS_AND_FILE = {
    "a file behind fragments": (True, False),
    "fragments behind a file": (False, True),
}


@pytest.mark.parametrize("faststart", [{}, {"movflags": "faststart"}], ids=["", "its index first"])
@pytest.mark.parametrize("kind", FRAGMENTS_AND_FILE)
def test_fragments_and_a_finished_file_are_both_read(kind: str, faststart: dict[str, str]) -> None:
    data = b"".join(
        recording(n, 30, "mp4", "libx264", tick=12_800) if fragmented else whole(n, 30, "mp4", "libx264", **faststart)
        for n, fragmented in zip((0, 30), FRAGMENTS_AND_FILE[kind], strict=True)
    )
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        are_all(shown(reader), [SMALL] * 60)
    assert reader.dropped == {}
    assert "times that another video took over: 1; it was read from there on" in reader.warnings


def test_tables_that_are_repeated_begin_no_file() -> None:
    """Wherever it is cut, if not where fragments would be."""
    data = recording(0, 40, "mp4", "libx264")
    fragments = [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"]
    tables, ends = data[: fragments[0]], [*fragments[1:], len(data)]
    repeated = b"".join(tables + data[at:end] for at, end in zip(fragments, ends, strict=True))
    for end in (len(repeated), *(repeated.rindex(kind) + 3 for kind in (b"ftyp", b"moov", b"moof", b"mdat"))):
        assert parts_of(io.BytesIO(repeated[:end])).all == [(0, end)]


def test_one_file_twice_is_read_twice() -> None:
    data = 2 * whole(0, 30, "mp4", "libx264")
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        assert [ms for ms, _, _ in shown(reader)] == pytest.approx([40 * n for n in range(60)], abs=1)


def sound() -> bytes:
    """An MP4 without a video."""
    with tempfile.NamedTemporaryFile() as target, av.open(target.name, "w", format="mp4") as output:
        track = output.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        output.mux(track.encode(frame))
        output.mux(track.encode(None))
        output.close()
        return Path(target.name).read_bytes()


def cut(data: bytes) -> bytes:
    """Its media, and no index."""
    return data[: data.index(b"moov") - 50]


UNREAD = {"that is cut": ("index", "unreadable"), "of sound alone": ("no video", "no_video")}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_second_file_that_cannot_be_read_is_told_and_the_first_one_read(kind: str) -> None:
    says, code = UNREAD[kind]
    second = cut(whole(30, 30, "mp4", "libx264")) if kind == "that is cut" else sound()
    told: list[tuple[str, str]] = []
    data = whole(0, 30, "mp4", "libx264") + second
    with VideoReader(io.BytesIO(data), limits=Limits(), on_warning=lambda *of: told.append(of)) as reader:
        are_all(shown(reader), [SMALL] * 30)
    assert reader.unread is not None
    assert reader.unread.__traceback__ is None, "which would keep the reader"
    assert reader.unread.code == code
    assert says in str(reader.unread)
    drawn = io.BytesIO()
    write_annotated(io.BytesIO(data), drawn, [], trained=True, limits=Limits())
    with VideoReader(drawn, limits=Limits()) as copy:
        assert len(list(copy)) == 30
    assert told == [("corrupt", f"a file behind the first could not be read: {reader.unread}")]
    assert reader.warnings == [f"files behind the first that could not be read: 1; {reader.unread}"]


def plain_png() -> bytes:
    """A picture that begins as an animated one does."""
    coder = av.CodecContext.create("png", "w")
    assert isinstance(coder, av.VideoCodecContext)
    coder.width, coder.height, coder.pix_fmt = *SMALL, "rgb24"
    coder.time_base = Fraction(1, 25)
    still = av.VideoFrame.from_ndarray(np.zeros((SMALL[1], SMALL[0], 3), np.uint8), format="rgb24")
    return b"".join(bytes(packet) for packet in [*coder.encode(still), *coder.encode(None)])


@pytest.mark.parametrize("kind", ["mp4", "nut", "apng"])
def test_a_live_stream_that_ends_within_the_next_beginning_ends_well(kind: str) -> None:
    """Cut off, or another thing altogether, behind a whole video: that stands, and the rest is told."""
    match kind:
        case "mp4":
            data = whole(0, 30, "mp4", "libx264", movflags="faststart")
            data += data[:600]
        case "nut":
            data = whole(0, 30, "nut", "libx264")
            data += data[:100]
        case _:
            data = whole(0, 30, "apng", "apng") + plain_png()[:60]
    found, told, reader = live(data, 1000)
    are_all(found, [SMALL] * 30)
    assert reader.unread is not None
    assert told == [f"a file behind the first could not be read: {reader.unread}"]
    assert reader.warnings == [f"files behind the first that could not be read: 1; {reader.unread}"]


@pytest.mark.parametrize("kind", ["ASF", "APNG"])
def test_what_is_sent_behind_the_end_is_not_read_for_ever(kind: str) -> None:
    """Of what says itself where it ends: nothing there begins another one."""

    class Sender(Pipe):
        behind = 0

        def read(self, size: int) -> bytes:
            if not (data := super().read(size)):
                self.behind += size
                assert self.behind <= 2 << 20, "which nobody asked for"
            return data or bytes(size)

    sender = Sender(whole(0, 30, *WHOLE[kind][:2]), 1 << 16)
    told: list[tuple[str, str]] = []
    with VideoReader(
        sender,  # type: ignore[arg-type]
        limits=Limits(), low_latency=True, on_warning=lambda *words: told.append(words),
    ) as reader:  # fmt: skip
        are_all(shown(reader), [SMALL] * 30)
    assert told == [("corrupt", "the video has ended; what comes behind its end is not read")]
    assert reader.warnings == [told[0][1]]


@pytest.mark.parametrize(
    ("kind", "bound", "most"),
    [("MP4", "_MOST_BOXES", 2), ("AVI", "_MOST_BOXES", 1), ("Ogg", "_MOST_PAGES", 3), ("FLV", "MOST_PARTS", 1)],
)
def test_a_look_for_files_that_is_given_up_is_told(
    kind: str, bound: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, codec, options = WHOLE[kind]
    first = recording(0, 30, "mp4", codec) if kind == "MP4" else whole(0, 30, container, codec, **options)
    second = whole(30, 30, container, codec, **options)
    told: list[str] = []
    for data, limit, complete in ((first + second, most, False), (first, 1000, True), (first + second, 1000, True)):
        monkeypatch.setattr(f"stmixer.media.parts.{bound}", limit)
        told.clear()
        with VideoReader(
            io.BytesIO(data), limits=Limits(), on_warning=lambda code, text: told.append(f"{code}: {text}")
        ) as reader:
            assert len(list(reader)) >= 30
        given_up = [line for line in reader.warnings if line.startswith("it was looked through for other files")]
        assert given_up == ([] if complete else [_NOT_LOOKED_THROUGH])
        assert (f"corrupt: {_NOT_LOOKED_THROUGH}" in told) != complete


@pytest.mark.parametrize("magic", [b"FLV\1", b".RMF\0\0\0", b"DKIF\0\0\x20\0"])
def test_a_file_of_nothing_but_half_marks_is_looked_through_once(magic: bytes) -> None:
    """Each costs no step of Python."""
    mark = next(mark for mark in _MARKS if mark.magic == magic)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        found = list(mark.places((magic + b"~") * 5000))
    finally:
        sys.setprofile(None)
    assert found == []
    assert calls < 20


def test_a_file_behind_one_that_cannot_be_read_is_read() -> None:
    data = whole(0, 30, "mp4", "libx264") + sound() + whole(30, 30, "mp4", "libx264", LARGE)
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        are_all(shown(reader), [SMALL] * 30 + [LARGE] * 30)
    assert reader.warnings == [
        "times the timestamps start anew: 1; time goes on without a gap",
        "times that another video took over: 1; it was read from there on",
        f"files behind the first that could not be read: 1; {reader.unread}",
        "changes of the picture size: 1",
    ]


def test_a_file_behind_one_that_spoils_in_its_middle_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stmixer.media.decode.MAX_FAILURES", 5)
    first = bytearray(whole(0, 30, "mp4", "libx264"))
    media, index = first.index(b"mdat") + 4, first.index(b"moov")
    first[(media + index) // 2 : index - 4] = b"\xff" * (index - 4 - (media + index) // 2)
    for behind, says in ((b"", ""), (whole(60, 30, "mp4", "libx264"), ", and goes on with what is behind it")):
        with VideoReader(io.BytesIO(bytes(first) + behind), limits=Limits()) as reader:
            found = shown(reader)
        assert (len(found) > 30) == bool(behind)
        assert reader.warnings[0] == f"reading stopped after 5 packets in a row that could not be decoded{says}"


def test_a_second_file_that_is_too_large_is_refused_as_a_first_one_is() -> None:
    data = whole(0, 30, "mp4", "libx264") + whole(30, 30, "mp4", "libx264", LARGE)
    with VideoReader(io.BytesIO(data), limits=Limits(max_width=200, max_height=200)) as reader:
        found = iter(reader)
        assert [next(found).index for _ in range(30)] == list(range(30))
        with pytest.raises(MediaError) as refused:
            next(found)
    assert refused.value.code == "too_large"


@pytest.mark.parametrize("begin", [0, 5, 77])
@pytest.mark.parametrize(
    ("codec", "pid"), [("libx264", 0x200), ("libx265", None), ("libx265", 0x234), ("mpeg2video", 0x200)]
)
def test_a_file_of_two_recordings_is_read_to_its_end(tmp_path: Path, codec: str, pid: int | None, begin: int) -> None:
    """Put behind each other with another PID or codec; ``begin``: bytes before it that belong to nothing."""
    data = bytes(begin) + piece(0, 75) + piece(75, 75, codec, pid)
    (tmp_path / "x.ts").write_bytes(data)
    for source in (io.BytesIO(data), tmp_path / "x.ts"):
        with VideoReader(source, limits=Limits()) as reader:
            found = shown(reader)
        are_all(found, [SMALL] * 150)
        assert reader.warnings == ["times that another video took over: 1; it was read from there on"]
        assert reader.dropped == {}


def test_a_file_whose_tables_stay_is_sought_as_before() -> None:
    """What it is worth: how long it is stands at its end."""
    with VideoReader(io.BytesIO(piece(0, 75) + piece(75, 75)), limits=Limits()) as reader:
        assert reader.info.duration_s == pytest.approx(6, abs=0.1)
        assert len(shown(reader)) == 150
    assert reader.warnings == []


@pytest.mark.parametrize("seed", range(12))
def test_nothing_that_a_file_holds_breaks_the_look_through_it(
    seed: int, monkeypatch: pytest.MonkeyPatch, two: list[bytes]
) -> None:
    """Bytes changed, cut out, doubled, the end anywhere, and few at a time: it finds something or not."""
    monkeypatch.setattr("stmixer.media.takeover_in_file._CHUNK", 188 * 3)
    monkeypatch.setattr("stmixer.media.takeover_in_file._LOOK", 40)
    monkeypatch.setattr("stmixer.media.parts._CHUNK", 40)
    chance = random.Random(seed)
    for whole in two:
        data = bytearray(whole[: chance.choice([len(whole), chance.randint(1, len(whole))])])
        assert SeekableByteSource(io.BytesIO(whole), owned=False).takes_over()
        for _ in range(chance.randint(0, 200)):
            at = chance.randrange(len(data))
            match chance.randrange(3):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    del data[at : at + chance.choice([1, 50])]
                    data += b"\0"
                case 2:
                    data[at:at] = data[at : at + 188]
        file = io.BytesIO(data)
        file.seek(0)
        assert SeekableByteSource(file, owned=False).takes_over() in (False, True)
        assert file.tell() == 0


@pytest.mark.parametrize("size", [2**62, 2**62 + 2**61, 2**63 - 9, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("kind", [b"mdat", b"free", b"abcd"])
def test_a_box_that_is_larger_than_any_file_is_said_to_be_unreadable(tmp_path: Path, kind: bytes, size: int) -> None:
    ftyp = b"\0\0\0\x14ftypisom\0\0\2\0isom"
    data = ftyp + b"\0\0\0\1" + kind + size.to_bytes(8) + bytes(5000)
    (tmp_path / "x.mp4").write_bytes(data)
    for source in (io.BytesIO(data), tmp_path / "x.mp4"):
        with pytest.raises(MediaError) as refused, VideoReader(source, limits=Limits()):
            pass
        assert refused.value.code == "unreadable"


class Counted(bytes):
    """Bytes that count how many of them are looked through for a mark."""

    looked = 0

    def __radd__(self, before: bytes) -> Counted:
        return Counted(before + bytes(self))

    def find(self, mark: bytes, *place: int) -> int:  # type: ignore[override]
        found = super().find(mark, *place)
        Counted.looked += (len(self) if found < 0 else found) - (place[0] if place else 0)
        return found


@pytest.mark.parametrize("between", [b"", b"\x16\x54\xae\x6b"])
def test_a_file_of_nothing_but_headers_is_looked_through_once(between: bytes) -> None:
    header = b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm" + between
    data = Counted(header * 50_000)
    Counted.looked = 0
    assert HeaderWatch().feed(data) is None
    assert Counted.looked < 6 * len(data)


def test_what_is_no_boxes_any_more_is_not_read_on() -> None:
    reads: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(self.tell())
            return super().read(size)

    ftyp = b"\0\0\0\x14ftypisom\0\0\2\0isom"
    assert not takes_over(File(ftyp + bytes(1 << 20)))
    assert reads == [0, 0]


@pytest.fixture(scope="module")
def two() -> list[bytes]:
    """Two recordings put behind each other, of each container."""
    made = [piece(0, 10) + piece(10, 10, pid=0x200)]
    for container, codec in (("webm", "libvpx"), ("mp4", "libx264"), ("flv", "flv"), ("asf", "wmv2")):
        made.append(recording(0, 12, container, codec) + recording(12, 12, container, codec, LARGE))
    return made
