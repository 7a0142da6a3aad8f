import io

import numpy as np
import pytest
from PIL import Image

from stmixer.media.encode import decode_jpeg, encode_jpeg, encode_png
from stmixer.media.errors import MediaError
from stmixer.media.jpeg import jpeg_size
from stmixer.media.limits import Limits


@pytest.fixture
def picture(draw_corners):
    return draw_corners(122, 62)


def pillow_jpeg(rgb, **options):
    target = io.BytesIO()
    Image.fromarray(rgb).save(target, "JPEG", **options)
    return target.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"comment": b"x" * 40000}])
def test_jpeg_comes_back(picture, options):
    data = pillow_jpeg(picture, quality=95, **options)
    assert jpeg_size(data) == (122, 62)
    rgb = decode_jpeg(data, Limits())
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert np.abs(rgb.astype(int) - picture).mean() < 3


def test_our_own_jpeg_and_png_are_rgb(picture, read_corners):
    assert read_corners(decode_jpeg(encode_jpeg(picture), Limits())) == "rgbw"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(picture)))), picture)


def test_grey_becomes_rgb():
    assert decode_jpeg(pillow_jpeg(np.full((20, 30), 99, np.uint8)), Limits()).shape == (20, 30, 3)


def test_exif_orientation_is_applied(picture, read_corners):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90° clockwise
    rgb = decode_jpeg(pillow_jpeg(picture, quality=95, exif=exif), Limits())
    assert rgb.shape == (122, 62, 3)
    assert read_corners(rgb) == "brwg"


def code_of(data, limits=None):
    with pytest.raises(MediaError) as caught:
        decode_jpeg(data, limits or Limits())
    return caught.value.code


def test_the_size_is_checked_before_pixels_are_decoded(picture, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    data = bytearray(pillow_jpeg(picture))
    frame_header = data.find(b"\xff\xc0")
    data[frame_header + 5 : frame_header + 9] = b"\xff\xff\xff\xff"
    assert code_of(bytes(data)) == "too_large"
    assert code_of(pillow_jpeg(picture), Limits(max_width=121, max_height=121)) == "too_large"


@pytest.mark.parametrize("kind", ["empty", "png", "gif", "webp", "start only", "no end", "half a header", "no picture"])
def test_what_is_no_whole_jpeg_is_refused(picture, kind):
    good = pillow_jpeg(picture)
    data = {
        "empty": b"",
        "png": encode_png(picture),
        "gif": b"GIF89a" + bytes(100),
        "start only": good[:3],
        "webp": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(100),
        "no end": good[: len(good) * 2 // 3],
        "half a header": good[:100],
        "no picture": b"\xff\xd8\xff\xd9",
    }[kind]
    assert code_of(data) == "unreadable"


def test_a_missing_end_is_put_there(picture):
    good = pillow_jpeg(picture)
    assert good.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(decode_jpeg(good[:-2], Limits()), decode_jpeg(good, Limits()))


@pytest.mark.parametrize("missing", [20, 40, 400])
def test_a_picture_that_lacks_more_than_its_end_is_cut_off(picture, missing):
    with pytest.raises(MediaError, match="cut off; send a complete JPEG"):
        decode_jpeg(pillow_jpeg(picture)[:-missing], Limits())


def test_the_end_of_a_thumbnail_is_not_the_pictures(picture):
    exif = Image.Exif()
    exif[0x010E] = "thumbnail \xff\xd9"
    good = pillow_jpeg(picture, exif=exif)
    marked = good.replace(b"thumbnail ", b"thumbna\xff\xd9 ")
    assert marked.count(b"\xff\xd9") == 2
    with pytest.raises(MediaError, match="cut off"):
        decode_jpeg(marked[: len(marked) * 3 // 4], Limits())


@pytest.mark.parametrize("name", ["a PNG", "a WebP", "a GIF"])
def test_what_is_sent_instead_is_named_with_what_is_wanted(picture, name):
    data = {
        "a PNG": encode_png(picture),
        "a WebP": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(100),
        "a GIF": b"GIF89a" + bytes(100),
    }[name]
    with pytest.raises(MediaError, match=f"this is {name}.*encode pictures as JPEG"):
        decode_jpeg(data, Limits())


@pytest.mark.parametrize(
    ("data", "what", "codec"),
    [
        (b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01", "WebM", "webm"),
        (b"\0\0\0\x1cftypiso5\0\0\2\0iso5iso6mp41", "an MP4", "mp4"),
        (b"\0\0\0\x68moof\0\0\0\x10mfhd", "a piece of an MP4", "mp4"),
        ((b"G\x40\0\x10" + bytes(184)) * 3, "MPEG-TS", "mpegts"),
    ],
)
def test_a_container_is_named_with_how_its_stream_is_begun(data, what, codec):
    with pytest.raises(MediaError, match=f'this is {what}, not a JPEG; begin the stream with "codec": "{codec}"'):
        decode_jpeg(data, Limits())


def test_a_time_before_it_that_was_not_announced_is_said(picture):
    with pytest.raises(MediaError, match='begin the stream with "timestamps": "prefix"'):
        decode_jpeg((1_700_000_000_000_000).to_bytes(8, "little") + pillow_jpeg(picture), Limits())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (
            np.full((240, 320, 3), ord("Z"), np.uint8).tobytes(),
            r"as many bytes as raw pixels take \(for instance 320 x 24",
        ),
        (bytes(640 * 480 * 4), r"as many bytes as raw pixels take \(for instance 640 x 480 of 4 bytes each"),
        (b"\0\0\0\1\x67" + bytes(99), "H.264 or H.265 in no container, not a JPEG; put it into MPEG-TS"),
        (b"P6\n320 240\n255\n" + bytes(999), "a PPM picture, not a JPEG; encode pictures as JPEG"),
    ],
)
def test_what_has_no_name_of_its_own_is_said_with_what_is_wanted(data, what):
    with pytest.raises(MediaError, match=f"this is {what}"):
        decode_jpeg(data, Limits())


@pytest.mark.parametrize("before", [b"\r\n", b"--frame\r\nContent-Type: image/jpeg\r\n\r\n", bytes(4)])
def test_a_picture_behind_something_else_is_said(picture, before):
    with pytest.raises(MediaError, match=f"a JPEG behind {len(before)} other bytes; send nothing but the picture"):
        decode_jpeg(before + pillow_jpeg(picture), Limits())


def test_random_damage_raises_nothing_else(picture):
    good = pillow_jpeg(picture)
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        data = bytearray(good)
        for at in random.integers(2, len(data), 8):
            data[at] = random.integers(0, 256)
        try:
            outcomes.add(decode_jpeg(bytes(data), Limits()).ndim)
        except MediaError as error:
            outcomes.add(error.code)
    assert outcomes >= {3, "unreadable"}
