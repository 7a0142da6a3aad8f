"""What is read is what a player shows: pixel shape, crop, fields and colours, as container or codec say."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import pytest

from stmixer.media.annotated import write_annotated
from stmixer.media.decode import VideoReader
from stmixer.media.encode import Mp4Writer
from stmixer.media.limits import Limits

LIMITED, FULL, BT709 = 1, 2, 1


def encoded(
    pictures: list[np.ndarray],
    container: str,
    codec: str,
    *,
    pixels: str = "yuv420p",
    ratio: Fraction | None = None,
    colour: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """RGB pictures as a video; ``colour``: matrix and range that the container is told."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width, _ = pictures[0].shape
        stream.pix_fmt, stream.options = pixels, options or {}
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        if colour is not None:
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = colour[0]
            context.color_range = colour[1]
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return target.getvalue()


def read(data: bytes) -> tuple[list[np.ndarray], VideoReader]:
    """Every frame as RGB, and the reader, which is done."""
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        return [frame.rgb() for frame in reader], reader


def circle(width: int, height: int, ratio: Fraction) -> np.ndarray:
    """A picture that shows a circle of 60 px if its pixels are ``ratio`` times as wide as high."""
    y, x = np.mgrid[:height, :width]
    inside = (float(ratio) * (x - width / 2)) ** 2 + (y - height / 2) ** 2 < 30**2
    return np.where(inside[..., None], 220, 40).repeat(3, 2).astype(np.uint8)


def extent(rgb: np.ndarray) -> tuple[int, int]:
    """Columns and rows of what is bright."""
    bright = rgb[..., 1] > 130
    return int(bright.any(0).sum()), int(bright.any(1).sum())


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        (Fraction(4, 3), (213, 96)),
        (Fraction(16, 11), (233, 96)),
        (Fraction(1, 2), (80, 96)),
        (Fraction(10, 11), (145, 96)),
    ],
)
@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("mpegts", "mpeg4"), ("matroska", "mjpeg")])
def test_pixels_have_their_shape(container: str, codec: str, ratio: Fraction, size: tuple[int, int]) -> None:
    """In Matroska with JPEGs only the container says it."""
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    data = encoded([circle(160, 96, ratio)] * 5, container, codec, pixels=pixels, ratio=ratio)
    frames, reader = read(data)
    assert (reader.info.width, reader.info.height) == size
    assert {frame.shape for frame in frames} == {(size[1], size[0], 3)}
    columns, rows = extent(frames[2])
    assert columns == pytest.approx(60, abs=3)
    assert rows == pytest.approx(60, abs=3)


def test_the_containers_pixel_shape_is_before_the_codecs() -> None:
    data = encoded([circle(160, 96, Fraction(1))] * 5, "mp4", "libx264", ratio=Fraction(4, 3))
    box = data.index(b"pasp")
    assert data[box + 4 : box + 12] == (4).to_bytes(4, "big") + (3).to_bytes(4, "big")
    remuxed = data[: box + 4] + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + data[box + 12 :]
    frames, reader = read(remuxed)
    assert (reader.info.width, reader.info.height) == (320, 96)
    columns, rows = extent(frames[2])
    assert columns == pytest.approx(2 * rows, abs=4)


@pytest.mark.parametrize("ratio", [Fraction(1, 40), Fraction(30)])
def test_pixel_shapes_that_no_camera_has_are_taken_for_square(ratio: Fraction) -> None:
    _, reader = read(encoded([circle(160, 96, Fraction(1))] * 3, "mp4", "libx264", ratio=ratio))
    assert (reader.info.width, reader.info.height) == (160, 96)


def test_the_crop_of_matroska_is_applied(
    draw_corners: Callable[..., np.ndarray], read_corners: Callable[[np.ndarray], str]
) -> None:
    """16 columns left and 8 rows above, in the place of the Colour element."""
    picture = np.full((64 + 8, 96 + 16, 3), 0, np.uint8)
    picture[8:, 16:] = draw_corners(96, 64)
    data = bytearray(encoded([picture] * 5, "matroska", "libx264", colour=(BT709, LIMITED)))
    at = data.index(b"\x55\xb0")
    length = data[at + 2] & 0x7F
    crop = b"\x54\xbb\x81\x08" + b"\x54\xcc\x81\x10"
    padding = length + 3 - len(crop) - 2
    assert padding >= 0
    data[at : at + 3 + length] = crop + b"\xec" + bytes([0x80 | padding]) + bytes(padding)
    frames, reader = read(bytes(data))
    assert (reader.info.width, reader.info.height) == (96, 64)
    assert read_corners(frames[2]) == "rgbw"


def test_the_clean_aperture_of_mp4_is_applied(
    draw_corners: Callable[..., np.ndarray], read_corners: Callable[[np.ndarray], str]
) -> None:
    """96 × 64 in the middle of 112 × 72, in the place of the boxes on colour, pixel shape and bit rate."""
    picture = np.zeros((72, 112, 3), np.uint8)
    picture[4:-4, 8:-8] = draw_corners(96, 64)
    data = encoded([picture] * 5, "mp4", "libx264", ratio=Fraction(1), colour=(BT709, LIMITED))
    begin = min(data.index(kind) - 4 for kind in (b"colr", b"pasp", b"btrt") if kind in data)
    end = max(
        data.index(kind) - 4 + int.from_bytes(data[data.index(kind) - 4 : data.index(kind)], "big")
        for kind in (b"colr", b"pasp", b"btrt")
        if kind in data
    )
    aperture = b"clap" + b"".join(n.to_bytes(4, "big") for n in (96, 1, 64, 1, 0, 1, 0, 1))
    room = end - begin - len(aperture) - 4
    assert room >= 8
    boxes = (len(aperture) + 4).to_bytes(4, "big") + aperture + room.to_bytes(4, "big") + b"free" + bytes(room - 8)
    frames, reader = read(data[:begin] + boxes + data[end:])
    assert (reader.info.width, reader.info.height) == (96, 64)
    assert read_corners(frames[2]) == "rgbw"


def combs(rgb: np.ndarray) -> float:
    """How much rows differ from both of their neighbours."""
    grey = rgb[..., 1].astype(float)
    return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())


@pytest.mark.parametrize(("container", "codec"), [("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("mp4", "libx264")])
def test_interlaced_pictures_have_no_combs(container: str, codec: str) -> None:
    """A bar that moves on 8 px from one field to the next."""
    pictures = []
    for number in range(20):
        picture = np.full((96, 480, 3), 40, np.uint8)
        for parity in (0, 1):
            x = 16 * number + 8 * parity
            picture[parity::2, x : x + 60] = 220
        pictures.append(picture)
    options = {"x264-params": "interlaced=1:tff=1:log-level=none"} if codec == "libx264" else {"flags": "+ildct+ilme"}
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 480, 96, "yuv420p", options
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    frames, reader = read(target.getvalue())
    assert len(frames) == 20
    assert any(f"made whole from both fields: {len(frames)}" in warning for warning in reader.warnings)
    assert max(combs(frame) for frame in frames[2:-2]) < combs(pictures[10]) / 4


def bt709(luma: float, blue: float, red: float) -> list[float]:
    """ITU-R BT.709, full range: R, G and B of a level each."""
    blue, red = blue - 128, red - 128
    return [luma + 1.5748 * red, luma - 0.1873 * blue - 0.4681 * red, luma + 1.8556 * blue]


@pytest.mark.parametrize("levels", [(120, 100, 150), (152, 62, 41)])
def test_the_colours_of_vp8_are_what_the_container_says(levels: tuple[int, int, int]) -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="webm") as output:
        stream = output.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.options = {"crf": "4", "b": "4M"}
        stream.codec_context.colorspace, stream.codec_context.color_range = BT709, FULL
        for number in range(5):
            frame = av.VideoFrame(160, 96, "yuv420p")
            frame.colorspace, frame.color_range, frame.pts = BT709, FULL, number
            for plane, level in zip(frame.planes, levels, strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    frames, _ = read(target.getvalue())
    np.testing.assert_allclose(frames[2].reshape(-1, 3).mean(0), bt709(*levels), atol=3)


def test_grey_of_limited_range_is_stretched() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "gray"
        stream.codec_context.color_range = LIMITED
        for number in range(5):
            frame = av.VideoFrame(160, 96, "gray")
            row = bytes([16] * 80 + [235] * (frame.planes[0].line_size - 80))
            frame.planes[0].update(row * 96)
            frame.color_range, frame.pts = LIMITED, number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    frames, _ = read(target.getvalue())
    assert frames[2][:, :70].max() <= 2
    assert frames[2][:, 90:].min() >= 253


@pytest.mark.parametrize(("width", "height", "matrix"), [(1280, 720, 1), (720, 1280, 1), (640, 480, 6)])
def test_what_we_write_has_its_colours_and_says_which(width: int, height: int, matrix: int) -> None:
    target = io.BytesIO()
    with Mp4Writer(target, width, height, 25) as writer:
        for number in range(3):
            writer.write(np.full((height, width, 3), (220, 30, 30), np.uint8), number * 40_000)
    with av.open(io.BytesIO(target.getvalue())) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (matrix, LIMITED)
    frames, _ = read(target.getvalue())
    np.testing.assert_allclose(frames[1].reshape(-1, 3).mean(0), (220, 30, 30), atol=3)


def drawn_copy(video: bytes) -> tuple[list[np.ndarray], tuple[int, int]]:
    """The pictures of a copy with nobody in it, and the shape of its pixels as its file says it."""
    target = io.BytesIO()
    write_annotated(io.BytesIO(video), target, [], trained=True, limits=Limits())
    with av.open(io.BytesIO(target.getvalue())) as container:
        ratio = container.streams.video[0].sample_aspect_ratio or Fraction(1)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], ratio.as_integer_ratio()


@pytest.mark.parametrize(("ratio", "width"), [(Fraction(4, 3), 212), (Fraction(1, 2), 80)])
def test_a_drawn_copy_has_square_pixels(ratio: Fraction, width: int) -> None:
    """Players show it as they show what was sent."""
    pictures, shape = drawn_copy(encoded([circle(160, 96, ratio)] * 5, "mp4", "libx264", ratio=ratio))
    assert (len(pictures), shape) == (5, (1, 1))
    assert pictures[2].shape == pytest.approx((96, width, 3), abs=2)
    columns, rows = extent(pictures[2])
    assert columns == pytest.approx(60, abs=3)
    assert rows == pytest.approx(60, abs=3)


def test_a_drawn_copy_is_upright(make_video: Callable[..., bytes], read_corners: Callable[[np.ndarray], str]) -> None:
    """Turned by a quarter, as phones store it, and with nothing that would turn it again."""
    one = 1 << 16
    pictures, _ = drawn_copy(make_video(3, 96, 64, matrix=(0, one, 0, -one, 0, 0, 0, 0, 1 << 30)))
    assert pictures[1].shape == (96, 64, 3)
    assert read_corners(pictures[1]) == "brwg"


# -- pictures whose size changes


@dataclass(frozen=True)
class Size:
    """Of a picture."""

    width: int
    height: int


@dataclass(frozen=True)
class Somebody:
    """A person without actions."""

    box_px: tuple[float, float, float, float]
    person_score: float = 0.9
    track_id: int | None = None
    actions: tuple[()] = ()


@dataclass(frozen=True)
class Found:
    """A keyframe."""

    pts_us: int
    frame: Size
    actors: tuple[Somebody, ...] = field(default=())


def test_a_drawn_copy_fits_pictures_of_another_size_in() -> None:
    """Wide first, upright then: boxes are drawn in the pixels of their own picture."""
    wide = encoded([np.full((180, 320, 3), 100, np.uint8)] * 25, "mpegts", "libx264")
    upright = encoded([np.full((320, 180, 3), 100, np.uint8)] * 25, "mpegts", "libx264")
    video = wide + upright
    frames, reader = read(video)
    assert [frame.shape[:2] for frame in frames] == [(180, 320)] * 25 + [(320, 180)] * 25
    assert any("changes of the picture size: 1" in warning for warning in reader.warnings)

    keyframes = [
        Found(0, Size(320, 180), (Somebody((100, 60, 220, 170)),)),
        Found(1_000_000, Size(180, 320), (Somebody((40, 120, 140, 300)),)),
    ]
    target = io.BytesIO()
    write_annotated(io.BytesIO(video), target, keyframes, trained=True, limits=Limits())
    copy, _ = read(target.getvalue())
    assert {frame.shape for frame in copy} == {(180, 320, 3)}
    assert len(copy) == 50

    def coloured(rgb: np.ndarray) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 of what is not grey."""
        rows, columns = np.nonzero(np.ptp(rgb.astype(int), axis=2) > 60)
        return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())

    # the label stands above its box, so only three sides are told
    x1, _, x2, y2 = coloured(copy[12])
    assert (x1, x2, y2) == pytest.approx((100, 220, 170), abs=6)
    x1, _, x2, y2 = coloured(copy[40])
    scale, left = 180 / 320, (320 - 180 * 180 / 320) / 2
    assert (x1, y2) == pytest.approx((left + 40 * scale, 300 * scale), abs=6)
    assert left + 140 * scale - 6 <= x2
    assert copy[40][:, : int(left) - 4].max() < 30  # black beside it
    assert copy[40][90, 160] == pytest.approx(100, abs=12)
