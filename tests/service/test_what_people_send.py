"""What people have and send, by each way in: the command, a post, and a live stream where it can be one.

Each file goes wrong somewhere in software of this kind: clocks that began long ago or jump, pixels that are not square,
pictures that change their size, recorders' containers.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from live_video import piece
from posting import MP4, conserved, post
from serving import Server
from ws_client import jpeg, stream

from stmixer.service.offline.command import DetectCommand
from stmixer.service.offline.inputs import inputs_of
from stmixer.service.schemas import DetectOptions

pytestmark = pytest.mark.slow  # all of it is made first

Size = tuple[int, int]
X264 = {"preset": "veryfast", "tune": "zerolatency"}
VPX = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
GREEN, RED = (30, 200, 30), (220, 30, 30)
BT709, LIMITED, FULL = 1, 1, 2


def bar(number: int, width: int, height: int) -> np.ndarray:
    """A light bar on grey that moves."""
    rgb = np.full((height, width, 3), 60, np.uint8)
    left = 3 * number % (width * 3 // 4)
    rgb[height // 4 : height * 4 // 5, left : left + width // 6] = 220
    return rgb


def video(
    container: str, codec: str, frames: int, size: Size = (160, 120), *, rate: int = 30, starts_s: float = 0,
    ratio: Fraction | None = None, options: dict[str, str] | None = None, layout: dict[str, str] | None = None,
    pixels: str = "yuv420p", stamp: Callable[[int], int] | None = None,
) -> bytes:  # fmt: skip
    """A moving bar. ``ratio``: of its pixels. ``stamp``: of each packet in 1/90 000 s, as the recorder says."""
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=layout or {}) as output:
        track = output.add_stream(codec, rate=rate)
        track.width, track.height, track.pix_fmt = *size, pixels
        track.options = options if options is not None else (X264 if codec == "libx264" else {})
        track.codec_context.gop_size, track.codec_context.max_b_frames = 15, 0
        if ratio is not None:
            track.codec_context.sample_aspect_ratio = ratio
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(bar(number, *size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = round(starts_s * rate) + number, Fraction(1, rate)
            for packet in track.encode(frame):
                if stamp is not None:
                    packet.time_base = Fraction(1, 90_000)
                    packet.pts, packet.dts = stamp(number), number * 90_000 // rate
                output.mux(packet)
        output.mux(track.encode(None))
    return target.getvalue()


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def late_fragment() -> bytes:
    """Fragments whose decoding times begin at 800 s."""
    data = bytearray(video("mp4", "libx264", 60, layout=FRAGMENTED))
    header = data.find(b"mdhd") + 4
    scale = int.from_bytes(data[header + 12 : header + 16])
    at = data.find(b"tfdt")
    while at >= 0:
        wide = 8 if data[at + 4] else 4
        time = int.from_bytes(data[at + 8 : at + 8 + wide]) + 800 * scale
        data[at + 8 : at + 8 + wide] = time.to_bytes(wide)
        at = data.find(b"tfdt", at + 4)
    return bytes(data)


def late_segment(container: str, codec: str) -> bytes:
    """100 pictures out of a long recording, whose clock says 800 s."""
    options = VPX if codec == "libvpx" else None
    layout = {"avoid_negative_ts": "disabled"} | ({"flvflags": "no_duration_filesize"} if container == "flv" else {})
    return video(container, codec, 100, rate=25, starts_s=800, options=options, layout=layout)


def clock_jump() -> bytes:
    """Two recordings, whose clocks are over an hour apart, put behind each other."""
    return b"".join(video("mpegts", "libx264", 90, stamp=lambda n, s=s: s * 90_000 + n * 3000) for s in (10, 50_000))


def one_stray() -> bytes:
    """The 61st of 120 frames is stamped 200 s late."""
    return video("mpegts", "libx264", 120, stamp=lambda n: n * 3000 + (200 * 90_000 if n == 60 else 0))


def containers_ratio() -> bytes:
    """A codec that says 4:3 and a container that says 2:1."""
    data = video("mp4", "libx264", 60, (160, 120), ratio=Fraction(4, 3))
    at = data.index(b"pasp") + 4
    return data[:at] + (2).to_bytes(4) + (1).to_bytes(4) + data[at + 8 :]


def size_change() -> bytes:
    """VP8 in WebM, turned after 2 of 4 s: 160 x 120, then 90 x 120."""
    target = io.BytesIO()
    with av.open(target, "w", format="webm", options={"live": "1"}) as output:
        track = output.add_stream("libvpx", rate=30)
        track.width, track.height, track.pix_fmt, track.time_base = 160, 120, "yuv420p", Fraction(1, 1000)
        for part, (width, height) in enumerate(((160, 120), (90, 120))):
            codec = av.CodecContext.create("libvpx", "w")
            codec.width, codec.height, codec.pix_fmt, codec.options = width, height, "yuv420p", VPX
            codec.framerate, codec.time_base = Fraction(30), Fraction(1, 1000)
            for number in range(60 * part, 60 * part + 60):
                frame = av.VideoFrame.from_ndarray(bar(number, width, height), format="rgb24")
                frame.pts, frame.time_base = number * 1000 // 30, Fraction(1, 1000)
                for packet in codec.encode(frame):
                    packet.stream = track
                    output.mux(packet)
    return target.getvalue()


def raw(codec: str, container: str, rate: int, frames: int) -> bytes:
    """An elementary stream that says its own rate."""
    options = {"x264-params": "force-cfr=1", "preset": "veryfast"} if codec == "libx264" else {
        "x265-params": "log-level=none", "preset": "ultrafast"
    }  # fmt: skip
    return video(container, codec, frames, rate=rate, options=options)


def cctv() -> bytes:
    """A Dahua export: H.264 access units, each in a record of its own."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.framerate, codec.gop_size = 160, 120, "yuv420p", Fraction(15), 15
    codec.time_base, codec.options = Fraction(1, 15), X264
    data = b""
    for number in range(60):
        frame = av.VideoFrame.from_ndarray(bar(number, 160, 120), format="rgb24")
        frame.pts = number
        for packet in codec.encode(frame):
            size = (160).to_bytes(2, "little") + (120).to_bytes(2, "little")
            extension = bytes((0x81, 0, 2, 15, 0x82, 0, 0, 0)) + size
            length = 24 + len(extension) + packet.size + 8
            head = b"DHAV" + bytes((0xFD if packet.is_keyframe else 0xFC, 0, 0, 0)) + number.to_bytes(4, "little")
            date = 24 << 26 | 5 << 22 | 17 << 17 | 10 << 12 | 30 << 6 | number // 15
            head += length.to_bytes(4, "little") + date.to_bytes(4, "little")
            head += (number * 1000 // 15 % 65536).to_bytes(2, "little") + bytes((len(extension),))
            record = head + bytes((sum(head) & 0xFF,)) + extension + bytes(packet) + b"dhav"
            data += record + length.to_bytes(4, "little")
    return data


def cropped() -> bytes:
    """Matroska that cuts bars of 20 rows off above and below, in the place of its element on colour."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        track = output.add_stream("libx264", rate=30)
        track.width, track.height, track.pix_fmt, track.options = 160, 160, "yuv420p", X264
        context = track.codec_context
        context.color_range = context.colorspace = context.color_primaries = context.color_trc = 1
        for number in range(60):
            picture = np.zeros((160, 160, 3), np.uint8)
            picture[20:-20] = bar(number, 160, 120)
            output.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(track.encode(None))
    data = bytearray(target.getvalue())
    at = data.index(b"\x55\xb0")
    room = 3 + (data[at + 2] & 0x7F) - 10
    crop = b"\x54\xbb\x81\x14\x54\xaa\x81\x14"
    data[at : at + room + 10] = crop + b"\xec" + bytes((0x80 | room,)) + bytes(room)
    return bytes(data)


def sound_midway() -> bytes:
    """MPEG-TS into which sound comes for 4 of 18 s."""
    pieces = []
    for first, count, loud in ((0, 250, False), (250, 100, True), (350, 100, False)):
        target, noise = io.BytesIO(), np.random.default_rng(first)
        with av.open(target, "w", format="mpegts") as output:
            track = output.add_stream("libx264", rate=25)
            track.width, track.height, track.pix_fmt, track.options = 96, 64, "yuv420p", {"qp": "20"}
            track.codec_context.max_b_frames = 0
            sound = output.add_stream("aac", rate=48_000) if loud else None
            for number in range(first, first + count):
                rgb = noise.integers(0, 256, (64, 96, 3), np.uint8)
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(track.encode(frame))
                if sound is not None:
                    silence = av.AudioFrame.from_ndarray(np.zeros((2, 1920), np.float32), "fltp", "stereo")
                    silence.sample_rate, silence.pts, silence.time_base = 48_000, number * 1920, Fraction(1, 48_000)
                    output.mux(sound.encode(silence))
            output.mux(track.encode(None))
            if sound is not None:
                output.mux(sound.encode(None))
        pieces.append(target.getvalue())
    return b"".join(pieces)


def two_webm() -> bytes:
    """A page that starts its recorder again."""
    return b"".join(video("webm", codec, 60, options=VPX, layout={"live": "1"}) for codec in ("libvpx", "libvpx-vp9"))


@dataclass(frozen=True)
class Sent:
    """What is sent, and what comes of it at one keyframe a second: how many frames, of how many seconds; ``frame`` of
    each keyframe, or of all. ``codec``: what the wire calls it, where it can be streamed. ``told``: a part of each
    warning."""

    make: Callable[[], bytes]
    received: int
    keyframes: int
    frame: Size | list[Size] = (160, 120)
    codec: str | None = None
    told: tuple[str, ...] = ()
    live: str | None = None
    """The code of a warning that a live stream gets."""


RESET, SIZE = "start anew: 1", "changes of the picture size: 1"
OTHER = "another video took over: 1"
STRAY = "far from their neighbours': 1"
SENT = {
    "a late fragment": Sent(late_fragment, 60, 2, codec="mp4"),
    "a late segment, Matroska": Sent(lambda: late_segment("matroska", "libx264"), 100, 4, codec="webm"),
    "a late segment, WebM": Sent(lambda: late_segment("webm", "libvpx"), 100, 4, codec="webm"),
    "a late segment, FLV": Sent(lambda: late_segment("flv", "flv"), 100, 4),
    "a late segment, WMV": Sent(lambda: late_segment("asf", "wmv2"), 100, 4),
    "clocks an hour apart": Sent(clock_jump, 180, 6, codec="mpegts", told=(RESET,), live="timestamps"),
    "a stray stamp": Sent(one_stray, 120, 4, codec="mpegts", told=(STRAY,), live="timestamps"),
    "pixels of 4:3": Sent(lambda: video("mp4", "libx264", 60, (480, 360), ratio=Fraction(4, 3)), 60, 2, (640, 360)),
    "pixels of 4:3, live": Sent(
        lambda: video("mpegts", "libx264", 60, (240, 180), ratio=Fraction(4, 3)), 60, 2, (320, 180), "mpegts"
    ),
    "pixels of 16:11": Sent(lambda: video("mp4", "libx264", 60, (176, 144), ratio=Fraction(16, 11)), 60, 2, (256, 144)),
    "pixels of 1:2": Sent(
        lambda: video("matroska", "libx264", 60, (320, 90), ratio=Fraction(1, 2)), 60, 2, (160, 90), "webm"
    ),
    "pixels that only the container knows": Sent(containers_ratio, 60, 2, (320, 120)),
    "another size": Sent(size_change, 120, 4, [(160, 120)] * 2 + [(90, 120)] * 2, "webm", (SIZE,), "picture_size"),
    "raw H.264 of 15": Sent(lambda: raw("libx264", "h264", 15, 90), 90, 6, told=("without a timestamp: 90",)),
    "raw HEVC of 10": Sent(lambda: raw("libx265", "hevc", 10, 40), 40, 4, told=("without a timestamp: 40",)),
    "DAV": Sent(cctv, 60, 4),
    "MXF": Sent(lambda: video("mxf", "mpeg2video", 75, rate=25), 75, 3),
    "DV": Sent(lambda: video("dv", "dvvideo", 50, (720, 576), rate=25), 50, 2, (768, 576), told=("interlaced",)),
    "y4m": Sent(lambda: video("yuv4mpegpipe", "rawvideo", 45, rate=15), 45, 3),
    "APNG": Sent(lambda: video("apng", "apng", 20, rate=10, pixels="rgb24"), 20, 2),
    "cropped by its container": Sent(cropped, 60, 2, codec="webm"),
    "another PID behind it": Sent(
        lambda: piece(0, 75) + piece(75, 75, "libx265", 0x200), 150, 6, (160, 96), told=(OTHER,)
    ),
    "an FLV behind it": Sent(lambda: 2 * video("flv", "flv", 60), 120, 4, told=(RESET, OTHER)),
    "a WebM of another codec behind it": Sent(two_webm, 120, 4, codec="webm", told=(RESET, OTHER), live="takeover"),
    "sound in its middle": Sent(sound_midway, 450, 18, (96, 64), "mpegts"),
}


def check(answer: dict[str, Any], sent: Sent) -> None:
    """Its keyframes, frames, sizes and warnings."""
    summary, keyframes = answer["summary"], answer["keyframes"]
    conserved(summary)
    assert (summary["received"], summary["dropped"]) == (sent.received, {})
    assert [keyframe["pts_us"] for keyframe in keyframes] == [n * 1_000_000 for n in range(sent.keyframes)]
    sizes = sent.frame if isinstance(sent.frame, list) else [sent.frame] * sent.keyframes
    assert [(k["frame"]["width"], k["frame"]["height"]) for k in keyframes] == sizes
    for keyframe, (width, height) in zip(keyframes, sizes, strict=True):
        assert keyframe["actors"]
        for actor in keyframe["actors"]:
            x1, y1, x2, y2 = actor["box_px"]
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
    warnings = answer.get("warnings", summary.get("warnings"))
    assert len(warnings) == len(sent.told), warnings
    assert all(any(part in warning for warning in warnings) for part in sent.told), warnings


@contextlib.contextmanager
def no_bar(text: str, /, unit: str = "s") -> Iterator[Any]:
    yield lambda done, whole: None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it, in a folder."""
    folder = tmp_path_factory.mktemp("sent")
    for name, sent in SENT.items():
        (folder / f"{name}.video".replace(":", "-")).write_bytes(sent.make())
    return folder


def file_of(files: Path, name: str) -> Path:
    return files / f"{name}.video".replace(":", "-")


def detect(weights: Path, outputs: list[Path], given: list[Path], **options: float) -> list[Any]:
    """`stmixer detect`: what it could not do."""
    import torch

    from stmixer.model.checkpoint import load
    from stmixer.model.runtimes.choose import torch_runtime
    from stmixer.service.worker.runner import Runner

    runner = Runner(torch_runtime(load(weights), torch.device("cpu")))
    command = DetectCommand(
        runner, DetectOptions(keyframe_hz=1, **options), outputs,
        batch_size=4, explain=None, bar=no_bar, on_response=lambda item, response: None,
    )  # fmt: skip
    return list(command.run(inputs_of([str(path) for path in given])))


@pytest.fixture(scope="module")
def command(files: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `stmixer detect` wrote of each, drawn copies of none."""
    folder = tmp_path_factory.mktemp("found")
    assert detect(tiny_weights, [folder], [file_of(files, name) for name in SENT], score_threshold=0, top_k=1) == []
    return folder


@pytest.mark.parametrize("name", SENT)
def test_the_command(command: Path, files: Path, name: str) -> None:
    check(json.loads((command / f"{file_of(files, name).name}.json").read_text()), SENT[name])


@pytest.mark.parametrize("name", SENT)
def test_a_post(server: Server, files: Path, name: str) -> None:
    answer = post(server, file_of(files, name), keyframe_hz=1, score_threshold=0, top_k=1)
    assert answer.status_code == 200, answer.text
    check(answer.json(), SENT[name])


@pytest.mark.parametrize("name", [name for name, sent in SENT.items() if sent.codec])
def test_a_live_stream(server: Server, files: Path, name: str) -> None:
    sent, data = SENT[name], file_of(files, name).read_bytes()
    with stream(
        server, codec=sent.codec, policy="all", keyframe_hz=1, score_threshold=0, top_k=1, deadline_ms=20_000
    ) as client:
        for at in range(0, len(data), 10_000):
            client.socket.send(data[at : at + 10_000])
        summary = client.stop()
    check({"summary": summary, "keyframes": client.of("result")}, sent)
    codes = {warning["code"] for warning in client.of("warning")}
    assert codes == ({sent.live} if sent.live else set()) | ({"timestamps"} if RESET in sent.told else set())


# -- pictures


def test_pictures_without_their_end_are_decoded(server: Server) -> None:
    with stream(server, policy="all", timestamps="prefix", keyframe_hz=2, score_threshold=0) as client:
        for number in range(40):
            client.picture(jpeg(number)[:-2], number * 100_000)
        summary = client.stop()
    assert (summary["received"], summary["dropped"], summary["warnings"]) == (40, {}, [])
    assert [result["pts_us"] for result in client.of("result")] == [n * 500_000 for n in range(8)]


def gif() -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="gif") as output:
        track = output.add_stream("gif", rate=10)
        track.width, track.height, track.pix_fmt = 160, 120, "rgb8"
        output.mux(track.encode(av.VideoFrame.from_ndarray(bar(0, 160, 120), format="rgb24")))
        output.mux(track.encode(None))
    return target.getvalue()


def encoded(kind: str) -> bytes:
    return cv2.imencode(kind, bar(0, 160, 120))[1].tobytes()


AS_JPEG = "not a JPEG; encode pictures as JPEG (of a canvas: toBlob"
INSTEAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG": (lambda: encoded(".png"), f"a PNG picture, {AS_JPEG}"),
    "WebP": (lambda: encoded(".webp"), f"a WebP picture, {AS_JPEG}"),
    "BMP": (lambda: encoded(".bmp"), f"a BMP picture, {AS_JPEG}"),
    "GIF": (gif, f"a GIF, {AS_JPEG}"),
    "RGB": (
        lambda: bar(0, 160, 120).tobytes(),
        f"as many bytes as raw pixels take (for instance 160 x 120 of 3 bytes each), {AS_JPEG}",
    ),
    "I420": (
        lambda: bytes(640 * 480 * 3 // 2),
        f"as many bytes as raw pixels take (for instance 640 x 480 of 1.5 bytes each), {AS_JPEG}",
    ),
    "H.264": (lambda: raw("libx264", "h264", 15, 1), "H.264 or H.265 in no container, not a JPEG; put it into MPEG-TS"),
    "a time before it": (lambda: bytes(8) + jpeg(0), "a JPEG behind 8 other bytes; where they are its time, begin"),
}


@pytest.mark.parametrize("kind", INSTEAD)
def test_what_is_sent_instead_of_jpegs_is_an_error_at_once(server: Server, kind: str) -> None:
    make, says = INSTEAD[kind]
    with stream(server, policy="all", score_threshold=0) as client:
        client.picture(make())
        close, code, message = client.refused()
    assert (close, code) == (4400, "unreadable")
    assert f"this is {says}" in message


def test_a_prefix_that_is_announced_and_missing_is_said(server: Server) -> None:
    with stream(server, timestamps="prefix") as client:
        client.picture(jpeg(0))
        close, code, message = client.refused()
    assert (close, code) == (4400, "bad_message")
    assert message == 'a picture came without the prefix that "timestamps": "prefix" announces'


# -- colours, of the drawn copy


def flat(width: int, height: int, rgb: tuple[int, int, int], matrix: int) -> bytes:
    """One colour as HD or SD cameras make it, and say so."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        track = output.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        context = track.codec_context
        context.color_range, context.colorspace = LIMITED, matrix
        context.color_primaries = context.color_trc = matrix
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), rgb, np.uint8), format="rgb24")
            output.mux(track.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=LIMITED)))
        output.mux(track.encode(None))
    return target.getvalue()


def described_by_its_container() -> bytes:
    """VP8 whose frames say nothing of BT.709 and full range, which WebM does: (30, 200, 30), as a page's recording."""
    target = io.BytesIO()
    with av.open(target, "w", format="webm") as output:
        track = output.add_stream("libvpx", rate=10)
        track.width, track.height, track.pix_fmt = 320, 240, "yuv420p"
        track.options = {"b": "4M", "crf": "4", "deadline": "realtime", "cpu-used": "8"}
        track.codec_context.colorspace, track.codec_context.color_range = BT709, FULL
        for number in range(12):
            frame = av.VideoFrame(320, 240, "yuv420p")
            frame.colorspace, frame.color_range, frame.pts = BT709, FULL, number
            for plane, level in zip(frame.planes, (152, 62, 51), strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return target.getvalue()


def thermal() -> bytes:
    """One plane of limited range: black left, white right."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        track = output.add_stream("libx265", rate=10)
        track.width, track.height, track.pix_fmt = 320, 240, "gray"
        track.options = {"x265-params": "log-level=none:range=limited", "crf": "4", "preset": "ultrafast"}
        track.codec_context.color_range = LIMITED
        for number in range(12):
            frame = av.VideoFrame(320, 240, "gray")
            row = bytes([16] * 160 + [235] * (frame.planes[0].line_size - 160))
            frame.planes[0].update(row * 240)
            frame.color_range, frame.pts = LIMITED, number
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return target.getvalue()


def colours_of(drawn: bytes, left: int) -> tuple[np.ndarray, int, int]:
    """The middle rows of a picture, 20 columns from ``left`` on, as its tags say, by the standards' own numbers; matrix
    and range."""
    with av.open(io.BytesIO(drawn)) as container:
        frame = list(container.decode(video=0))[5]
        planes = [np.asarray(plane).reshape(-1, plane.line_size) for plane in frame.planes]
        lefts = (left, left // 2, left // 2)
        luma, blue, red = (
            float(p[len(p) // 2 - 2 : len(p) // 2 + 2, x : x + 20].mean()) for p, x in zip(planes, lefts, strict=True)
        )
        assert frame.format.name == "yuv420p"
        matrix, spread = frame.colorspace, frame.color_range
    kr, kb = (0.2126, 0.0722) if matrix == BT709 else (0.299, 0.114)
    y, b, r = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    rgb = y + 2 * (1 - kr) * r, 0.0, y + 2 * (1 - kb) * b
    green = (y - kr * rgb[0] - kb * rgb[2]) / (1 - kr - kb)
    return 255 * np.array((rgb[0], green, rgb[2])), matrix, spread


@dataclass(frozen=True)
class Coloured:
    """A video, what it shows from some columns on, and the matrix that its drawn copy has to have."""

    make: Callable[[], bytes]
    shown: dict[int, tuple[int, int, int]]
    matrix: int


COLOURED = {
    "HD, red": Coloured(lambda: flat(1280, 720, RED, 1), {40: RED}, 1),
    "HD, green": Coloured(lambda: flat(1280, 720, GREEN, 1), {40: GREEN}, 1),
    "SD, red": Coloured(lambda: flat(640, 480, RED, 6), {40: RED}, 6),
    "VP8 that its container describes": Coloured(described_by_its_container, {40: GREEN}, 6),
    "grey of limited range": Coloured(thermal, {40: (0, 0, 0), 260: (255, 255, 255)}, 6),
}


def drawn_by_post(server: Server, weights: Path, video: Path) -> bytes:
    """A copy with nobody in it."""
    answer = post(server, video, accept=MP4, score_threshold=1)
    assert answer.status_code == 200, answer.text
    return answer.content


def drawn_by_command(server: Server, weights: Path, video: Path) -> bytes:
    """The same of `stmixer detect -o`."""
    target = video.with_name("drawn.mp4")
    assert detect(weights, [target], [video], score_threshold=1) == []
    return target.read_bytes()


@pytest.mark.parametrize("door", [drawn_by_post, drawn_by_command])
@pytest.mark.parametrize("name", COLOURED)
def test_a_drawn_copy_has_the_colours_of_what_was_sent(
    server: Server, tiny_weights: Path, tmp_path: Path, name: str, door: Callable[[Server, Path, Path], bytes]
) -> None:
    video, coloured = tmp_path / "sent.video", COLOURED[name]
    video.write_bytes(coloured.make())
    copy = door(server, tiny_weights, video)
    for left, rgb in coloured.shown.items():
        found, tagged, spread = colours_of(copy, left)
        assert (tagged, spread) == (coloured.matrix, LIMITED)
        np.testing.assert_allclose(found, rgb, atol=3)
