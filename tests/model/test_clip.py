"""Which moments a clip takes and how large its tensor is (docs/detector.md, Clip)."""

from __future__ import annotations

from fractions import Fraction

import pytest

from stmixer.model.clip import padded_size, slow_indices, window
from stmixer.model.config import ClipConfig, PreprocessConfig
from stmixer.model.zoo import VARIANTS

FAMILIES = [  # frames, stride, last raw index after c, lookahead in s
    pytest.param(4, 16, 16, Fraction(16, 30), id="SlowOnly"),
    pytest.param(32, 2, 30, Fraction(1), id="SlowFast and CSN"),
    pytest.param(16, 4, 28, Fraction(28, 30), id="ViT"),
]


@pytest.mark.parametrize(("frames", "stride", "last", "lookahead"), FAMILIES)
@pytest.mark.parametrize("grid", [1, 2])
def test_window(frames: int, stride: int, last: int, lookahead: Fraction, grid: int) -> None:
    table = window(ClipConfig(frames, stride, grid))
    raw = [offset * grid for offset in table.offsets]
    assert raw == list(range(-32, last + 1, stride))
    assert len(raw) == frames
    assert table.offsets[frames // 2] == 0, "the keyframe is a sample"
    assert table.grid_s == Fraction(grid, 30)
    assert table.lookahead_s == lookahead
    assert table.before_s == Fraction(32, 30)
    assert table.span * grid == last + 32 + grid


@pytest.mark.parametrize(("name", "family"), [("slowonly_r50", 0), ("slowfast_r50", 1), ("tiny", 0)])
def test_variants(name: str, family: int) -> None:
    frames, stride, last, _ = FAMILIES[family].values
    clip = VARIANTS[name].clip
    assert (clip.frames, clip.stride) == (frames, stride)
    assert window(clip).offsets[-1] * clip.grid == last


def test_slow_indices() -> None:
    assert slow_indices(32, 4) == (0, 4, 8, 13, 17, 22, 26, 31)
    assert slow_indices(8, 4) == (0, 7)
    assert slow_indices(4, 4) == (0,)
    assert slow_indices(4, 1) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((256, 256), (256, 256)),
        ((341, 256), (352, 256)),
        ((455, 256), (480, 256)),
        ((256, 257), (256, 288)),
        ((1, 32), (32, 32)),
        ((320, 255), (320, 256)),
    ],
)
def test_padded_size(size: tuple[int, int], padded: tuple[int, int]) -> None:
    assert padded_size(*size, PreprocessConfig()) == padded
