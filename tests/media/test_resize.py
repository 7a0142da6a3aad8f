import sys
from pathlib import Path

import numpy as np
import pytest

from stmixer.media.errors import MediaError
from stmixer.media.resize import resize
from stmixer.model.clip import input_size

REFERENCE = Path(__file__).parents[1] / "reference"
SIZES = ["360x640", "480x640", "1080x1920", "640x360", "256x320", "240x426", "288x352"]


@pytest.fixture
def fill(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    import fill

    yield fill
    sys.modules.pop("fill", None)


@pytest.mark.parametrize(("number", "name"), list(enumerate(SIZES)))
def test_as_the_published_checkpoints_were_trained(fill, number, name):
    with np.load(REFERENCE / "preprocess.npz") as stored:
        assert [key[:-6] for key in stored if key.endswith(".shape")] == SIZES
        shape, index, value = (stored[f"{name}.{part}"] for part in ("shape", "index", "value"))
    height, width = (int(n) for n in name.split("x"))
    rgb = resize(fill.frame(height, width, number), *input_size(width, height, 256))
    chw = rgb.transpose(2, 0, 1)
    assert chw.shape == tuple(shape)
    got = ((chw.astype(np.float32) / 255 - 0.45) / 0.225).ravel()[index]
    np.testing.assert_allclose(got, value, rtol=0, atol=0.018)
    # One grey level is 0.0174; in fact all are equal, here to float rounding.
    assert np.mean(np.abs(got - value) < 1e-4) > 0.999


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 360), (455, 256)), ((360, 640), (256, 455)), ((256, 256), (256, 256)), ((341, 256), (341, 256))],
)
def test_input_size_rounds_the_long_side_half_up(size, expected):
    assert input_size(*size, 256) == expected
    assert input_size(3, 2, 5) == (8, 5)  # 7.5


def test_input_size_refuses_what_is_too_elongated():
    assert input_size(768, 256, 256, max_long_side=768) == (768, 256)
    with pytest.raises(MediaError) as caught:
        input_size(770, 256, 256, max_long_side=768)
    assert caught.value.code == "aspect_unsupported"


def test_antialiasing_averages_and_plain_bilinear_does_not():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    # Half-pixel centres: every target pixel reads source columns 8k+3 and 8k+4, of which one is white.
    assert set(np.unique(resize(stripes, 8, 8))) == {128}
    assert set(np.unique(resize(stripes, 8, 8, antialias=True))) == {64}


def test_antialiasing_has_nothing_to_do_where_the_picture_grows():
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(rgb, 60, 40, antialias=True), resize(rgb, 60, 40))
