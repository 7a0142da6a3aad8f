"""The same numbers on CUDA, TF32 off."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from stmixer.model.checkpoint import load_exactly
from stmixer.model.detector import skeleton
from stmixer.model.device_preprocess import make_clip_on
from stmixer.model.foreign.published import from_published
from stmixer.model.preprocess import make_clip
from stmixer.model.zoo import variant

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("case", ["slowonly_r50.one", "slowfast_r50.two"])
def test_parity(case: str, reference, fill, padded_clip) -> None:
    name = case.split(".")[0]
    with np.load(reference / f"{case}.npz") as file:
        expected = {key: file[key] for key in file.files}
    published = {k: torch.as_tensor(v) for k, v in fill.state_dict(name, 0).items()}
    detector = skeleton(variant(name))
    load_exactly(detector, from_published(published, detector.config))
    clip, sizes = padded_clip(detector.config.clip.frames, [tuple(map(int, s)) for s in expected["sizes"]])
    with torch.inference_mode():
        output = detector.cuda()(clip.cuda(), sizes.cuda())
    actual = {"spatial_queries": output.spatial_queries, "temporal_queries": output.temporal_queries}
    for i, stage in enumerate(output.stages):
        actual[f"stage{i}.human_logits"] = stage.human_logits
        actual[f"stage{i}.boxes"] = stage.boxes_xyxy_px
        actual[f"stage{i}.action_logits"] = stage.action_logits
    off = {
        key: np.abs(value.cpu().numpy() - expected[key]).max() / np.abs(expected[key]).max()
        for key, value in actual.items()
    }
    assert {key: f"{worst:.1e}" for key, worst in off.items() if not worst <= TOLERANCE} == {}


def test_clips_made_on_the_device() -> None:
    """To rounding what numpy makes: CUDA divides by 255 as it multiplies."""
    config = variant("rt_lite0").preprocess
    windows = [np.random.default_rng(seed).integers(0, 256, (4, 60, 90 - seed, 3), np.uint8) for seed in range(2)]
    clip, sizes_wh = make_clip_on(torch.device("cuda"), windows, config)
    expected, expected_sizes = make_clip(windows, config)
    np.testing.assert_allclose(clip.cpu().numpy(), expected, atol=1e-6)
    assert np.array_equal(sizes_wh.cpu().numpy(), expected_sizes)
