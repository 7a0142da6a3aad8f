"""Training on cached features of a frozen backbone: the same clips, computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training import own_set, run_config

from stmixer.model.checkpoint import read_tensors
from stmixer.model.clip import window
from stmixer.model.detector import Detector, build
from stmixer.model.zoo import variant
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.batch import network_input
from stmixer.trainer.data.cached_features import FeatureClips, FeatureFolder, collate_features
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.segments import SegmentSet
from stmixer.trainer.data.sets import RunData, load_data
from stmixer.trainer.errors import TrainError
from stmixer.trainer.training.cached_features import feature_folder, make_features
from stmixer.trainer.training.fit import fit

STEADY = {"short_sides": [64], "within": 3.0, "flip": 0.0}
CPU = torch.device("cpu")
BUNDLED = Path(__file__).parents[2] / "weights" / "stmixer-rt.safetensors"
HALF = 2**-10
"""Of a value, what float16 may round away."""


def configured(tmp_path: Path, **changes: Any) -> RunConfig:
    root = own_set(tmp_path / "set", "train")
    videos = root / "videos.csv"
    videos.write_text(videos.read_text().replace("fall.mp4,train", "fall.mp4,val"))
    plain = {
        "run_dir": str(tmp_path / "run"),
        "model": "rt_nano",
        "backbone_norm": "frozen",
        "frozen": ["backbone.", "person_head."],
        "augment": STEADY,
        "cached_features": {"segments": 3, "samples": 12},
    }
    return run_config(root, **plain | changes)


def made(config: RunConfig, data: RunData, detector: Detector) -> FeatureFolder:
    folder = feature_folder(config.run_dir / "features", config, detector)
    make_features(folder, config, data.train, detector, CPU)
    return folder


def small(data: RunData) -> Detector:
    """With the bundled backbone: an initial one's maps vanish."""
    detector = build(variant("rt_nano", classes=len(data.labels)), seed=0)
    backbone = {k: v for k, v in read_tensors(BUNDLED).items() if k.startswith(("backbone.", "person_head."))}
    detector.load_state_dict(detector.state_dict() | backbone)
    return detector.eval()


def test_a_clip_of_cached_features_is_the_clip(tmp_path: Path) -> None:
    """Every keyframe of every segment: the picture, the people and the maps that a clip of its own would have."""
    config = configured(tmp_path)
    data = load_data(config, ("train",))
    detector = small(data)
    folder = made(config, data, detector)
    cached = FeatureClips(folder, detector.config.clip, config.augment, len(data.train))
    segments = SegmentSet(data.train, detector.config, config.augment, config.cached_features, config.seed, 1 << 30)  # type: ignore[arg-type]
    clips = ClipSet(data.train, detector.config, config.augment, 1 << 30)
    alone = [clips[Draw(0, k, (0,))] for k in range(len(data.train[0].split))]
    rows = [tuple(row) for row in folder.clips(1)[0]]
    offsets = np.array(window(detector.config.clip).offsets)
    for number, keyframe in rows:
        frames = segments[int(number)].clip.frames[keyframe + offsets]
        target = next(item.target for item in alone if np.array_equal(item.frames.numpy(), frames))
        item = cached[Draw(0, rows.index((number, keyframe)), (0,))]
        torch.testing.assert_close(item.target.boxes_xyxy_px, target.boxes_xyxy_px)
        assert torch.equal(item.target.actions, target.actions)
        assert torch.equal(item.target.annotated, target.annotated)
        batch = collate_features([item])
        clip, sizes_wh = network_input([torch.from_numpy(frames)], detector.config.preprocess)
        assert torch.equal(batch.sizes_wh, sizes_wh)
        padded = F.pad(clip, (0, folder.canvas_wh[0] - clip.shape[-1]))
        with torch.no_grad():
            own = detector.backbone(padded.transpose(1, 2).flatten(0, 1))
        for maps, wanted in zip(batch.maps, own, strict=True):
            assert maps.dtype == torch.float16
            off = (maps[0].float() - wanted).abs()
            assert (off <= HALF * wanted.abs() + 1e-4 * wanted.abs().amax()).all()
    assert {int(number) for number, _ in rows} == {0, 1, 2}


def test_segments_move_their_people_with_the_picture(tmp_path: Path) -> None:
    """Flipped and zoomed, a person's box holds what it held: the same mean colour, to the pixels of its edge."""
    config = configured(tmp_path)
    data = load_data(config, ("train",))
    detector = small(data)

    def segment(**augment: Any) -> Any:
        changed = config.augment.model_copy(update={"short_sides": (160,)} | augment)
        return SegmentSet(data.train, detector.config, changed, config.cached_features, 5, 1 << 30)[1]  # type: ignore[arg-type]

    plain, flipped = segment(), segment(flip=1.0)
    assert np.array_equal(flipped.clip.frames, plain.clip.frames[:, :, ::-1])
    assert np.array_equal(flipped.clip.at, plain.clip.at)
    np.testing.assert_allclose(flipped.clip.boxes_xyxy[:, [0, 2]], 1 - plain.clip.boxes_xyxy[:, [2, 0]])

    zoomed = segment(zoom=1.0, zoom_range=(0.5, 0.5))
    assert len(zoomed.clip.at) == len(zoomed.clip.boxes_xyxy) == len(plain.clip.boxes_xyxy)
    for row in range(len(plain.clip.at)):
        before, after = (_inside(s.clip, row) for s in (plain, zoomed))
        np.testing.assert_allclose(before, after, atol=6)


def _inside(clip: Any, row: int) -> np.ndarray:
    frame = clip.frames[clip.at[row]]
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = np.rint(clip.boxes_xyxy[row] * (width, height, width, height)).astype(int)
    return np.asarray(frame[y1:y2, x1:x2].reshape(-1, 3).mean(0))


def test_mosaics_hold_all_four(tmp_path: Path) -> None:
    config = configured(tmp_path)
    data = load_data(config, ("train",))
    changed = config.augment.model_copy(update={"short_sides": (224,), "mosaic": 1.0})
    features = config.cached_features.model_copy(update={"samples": 16})  # type: ignore[union-attr]
    segments = SegmentSet(data.train, small(data).config, changed, features, 1, 1 << 30)
    # where no moment of four segments is annotated in all, the first stands alone
    segment = next(s for s in (segments[i] for i in range(60)) if (s.clip.at == s.keyframes[0]).sum() > 1)
    for keyframe in segment.keyframes:
        assert (segment.clip.at == keyframe).sum() == 4, "one walker in each quarter"
        halves = segment.clip.boxes_xyxy[segment.clip.at == keyframe] // 0.5
        assert len({tuple(corner) for corner in halves[:, :2]}) == 4
    assert set(segment.clip.at.tolist()) == set(segment.keyframes.tolist())


@pytest.mark.slow
def test_a_run_learns_from_cached_features_and_goes_on_with_them(tmp_path: Path) -> None:
    config = configured(tmp_path, epochs=1, clips_per_epoch=8, optimiser={"lr": 1e-3}, schedule={"warmup_epochs": 0.0})
    fit(config)
    weights = read_tensors(config.run_dir / "weights.safetensors")
    data = load_data(config)
    start = build(variant("rt_nano", classes=len(data.labels)), seed=config.init.seed).state_dict()
    for name, tensor in weights.items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, start[name]), name
    moved = [name for name in weights if not torch.equal(weights[name], start[name])]
    assert {name.split(".")[0] for name in moved} == {"feature_space", "decoder"}

    stamps = {p.name: p.stat().st_mtime_ns for p in (config.run_dir / "features").glob("*.npy")}
    assert len(stamps) == 3
    begun = build(variant("rt_nano", classes=len(data.labels)), seed=config.init.seed)
    more = config.cached_features.model_copy(update={"segments": 5})  # type: ignore[union-attr]
    made(config.model_copy(update={"cached_features": more}), data, begun)
    assert {p.name: p.stat().st_mtime_ns for p in (config.run_dir / "features").glob("*.npy")}.items() > stamps.items()

    other = build(variant("rt_nano", classes=len(data.labels)), seed=1)
    with pytest.raises(TrainError, match="another run or backbone: delete it"):
        made(config, data, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": []}, "put backbone. into frozen"),
        ({"backbone_norm": "train"}, "put backbone. into frozen"),
        ({"model": "tiny"}, "only realtime variants"),
        ({"stills": True}, "not together with stills"),
        ({"augment": STEADY | {"tile": 0.5}}, "not together with stills, long_term or augment.tile"),
        ({"augment": STEADY | {"short_sides": [64, 96]}}, "one size in augment.short_sides"),
        ({"augment": {"short_sides": [64]}}, "wants augment.within"),
    ],
)
def test_what_does_not_go_with_cached_features_is_one_clear_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainError, match=message):
        configured(tmp_path, **changes)


def test_too_few_segments_for_a_set(tmp_path: Path) -> None:
    config = configured(tmp_path)
    data = load_data(config, ("train",))
    folder = made(config, data, small(data))
    with pytest.raises(TrainError, match="too few to hold a keyframe of every set"):
        folder.clips(2)
