"""Frames to the network's input: normalised, padded right and bottom, channels first."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stmixer.model.config import PreprocessConfig
from stmixer.model.device_preprocess import make_clip_on, normalise_and_pad
from stmixer.model.preprocess import make_clip

CONFIG = PreprocessConfig()
MEAN_STD = PreprocessConfig(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))


def frames(t: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (t, h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize("config", [CONFIG, MEAN_STD])
def test_values(config: PreprocessConfig) -> None:
    window = frames(4, 40, 70)
    clip, sizes = make_clip([window], config)
    assert clip.shape == (1, 3, 4, 64, 96)
    assert clip.dtype == sizes.dtype == np.float32
    assert sizes.tolist() == [[70, 40]]
    expected = (window.astype(np.float64) / 255 - config.mean) / config.std
    np.testing.assert_allclose(clip[0, :, :, :40, :70], expected.transpose(3, 0, 1, 2), atol=1e-5)
    assert not clip[..., 40:, :].any()
    assert not clip[..., 70:].any()


def test_zero_is_after_normalising() -> None:
    """Padding is 0 in the normalised clip, which black (0 in the image) is not."""
    clip, _ = make_clip([np.zeros((1, 32, 40, 3), np.uint8)], CONFIG)
    assert clip[0, 0, 0, 0, 0] == pytest.approx(-2)
    assert clip[0, 0, 0, 0, 63] == 0


def test_batch_of_one_padded_size() -> None:
    windows = [frames(2, 60, 90, 1), frames(2, 64, 65, 2)]
    clip, sizes = make_clip(windows, CONFIG)
    assert clip.shape == (2, 3, 2, 64, 96)
    assert sizes.tolist() == [[90, 60], [65, 64]]
    for i, window in enumerate(windows):
        alone, _ = make_clip([window], CONFIG)
        assert np.array_equal(alone[0], clip[i])


@pytest.mark.parametrize("windows", [[frames(1, 32, 32), frames(1, 32, 33)], []])
def test_other_padded_sizes_are_refused(windows: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="one padded size"):
        make_clip(windows, CONFIG)


def test_read_only_and_flipped_frames() -> None:
    """A ring's slots are read-only, a mirrored frame has negative strides; neither is written to."""
    window = frames(2, 32, 40)
    expected, _ = make_clip([window], CONFIG)
    fixed = window.copy()
    fixed.flags.writeable = False
    assert np.array_equal(make_clip([fixed], CONFIG)[0], expected)
    mirrored = np.ascontiguousarray(window[:, :, ::-1])[:, :, ::-1]
    assert np.array_equal(make_clip([mirrored], CONFIG)[0], expected)


def test_on_a_device_to_the_bit() -> None:
    """Training's batches, and what an accelerator makes of bytes, are what serving makes on a CPU."""
    windows = [frames(2, 60, 90, 1), frames(2, 64, 65, 2)]
    clip, sizes = make_clip(windows, MEAN_STD)
    assert np.array_equal(normalise_and_pad([torch.from_numpy(w) for w in windows], (96, 64), MEAN_STD).numpy(), clip)
    ours, ours_sizes = make_clip_on(torch.device("cpu"), windows, MEAN_STD)
    assert np.array_equal(ours.numpy(), clip)
    assert np.array_equal(ours_sizes.numpy(), sizes)


def test_as_whole_tensors_to_the_bit() -> None:
    """(x / 255 - mean) / std in float32, one operation after the other on the whole clip."""
    window = frames(3, 40, 70)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (MEAN_STD.mean, MEAN_STD.std))
    expected = (torch.from_numpy(window).permute(3, 0, 1, 2).float() / 255 - mean) / std
    assert np.array_equal(make_clip([window], MEAN_STD)[0][0, :, :, :40, :70], expected.numpy())


SIZES = ["360x640", "480x640", "1080x1920", "640x360", "256x320", "240x426", "288x352"]


@pytest.mark.parametrize("size", SIZES)
def test_published_numbers(reference, fill, size: str) -> None:
    """After OpenCV's INTER_LINEAR on 8 bits, within one grey level (docs/detector.md, Clip)."""
    height, width = map(int, size.split("x"))
    with np.load(reference / "preprocess.npz") as file:
        _, h, w = file[f"{size}.shape"]
        index, value = file[f"{size}.index"], file[f"{size}.value"]
    image = cv2.resize(fill.frame(height, width, SIZES.index(size)), (int(w), int(h)), interpolation=cv2.INTER_LINEAR)
    clip, sizes = make_clip([image[None]], CONFIG)
    assert sizes.tolist() == [[w, h]]
    sampled = clip[0, :, 0, :h, :w].flatten()[index]
    assert np.abs(sampled - value).max() <= 0.018


class NothingReadLater(TorchDispatchMode):
    """Fails where a copy from memory that is not pinned may be made after the call that asks for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if (kwargs or {}).get("non_blocking") and isinstance(args[0], torch.Tensor) and args[0].device.type == "cpu":
            assert args[0].is_pinned(), f"{func} reads pageable memory, later"
        return func(*args, **(kwargs or {}))


def test_frames_are_read_before_the_clip_is_handed_over() -> None:
    """Whoever gave them may then write to them, or let them go."""
    with NothingReadLater():
        clip, sizes = make_clip_on(torch.device("meta"), [frames(2, 40, 60), frames(2, 50, 64)], CONFIG)
    assert clip.shape == (2, 3, 2, 64, 64)
    assert sizes.shape == (2, 2)
