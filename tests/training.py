"""What the trainer's tests share: reference networks and inputs, and small sets written by the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from stmixer.model.decoder import DecoderOutput, StageOutput
from stmixer.model.detector import Detector, skeleton
from stmixer.model.foreign.published_names import published_name
from stmixer.model.zoo import variant
from stmixer.trainer.config.file import parse_config
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.clipset import ClipItem, ClipSet
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.targets import Target, fully_annotated

TESTS = Path(__file__).resolve().parent
REFERENCE = TESTS / "reference"
CLIPS = TESTS / "clips"
DATA = TESTS / "trainer" / "data"

BOXES = """video,frame,x1,y1,x2,y2,label,track,origin
walk.mp4,0,0.1,0.2,0.3,0.4,walk,7,true
walk.mp4,0,0.1,0.2,0.3,0.4,wave,7,true
walk.mp4,0,0.5,0.2,0.7,0.4,,8,true
walk.mp4,3,0.1,0.2,0.3,0.4,walk,7,true
walk.mp4,10,0.1,0.2,0.3,0.4,walk,7,true
fall.mp4,5,0.1,0.2,0.3,0.4,,,pseudo
"""
"""A custom set's boxes: two labels, a person without one, two frames that evaluation does not look at."""

IMAGES = """image,split,width
street.png,train,96
room.png,train,96
empty.png,train,96
other.png,val,96
"""
PICTURE_BOXES = """image,x1,y1,x2,y2,posture,crowd,origin
street.png,0.1,0.2,0.3,0.8,stand,0,true
street.png,0.5,0.2,0.7,0.8,unknown,0,true
street.png,0.6,0.0,1.0,0.5,stand,1,true
room.png,0.1,0.5,0.6,0.8,lie,0,eye
room.png,0.7,0.2,0.9,0.8,crouch,0,eye
other.png,0.1,0.2,0.3,0.8,stand,0,true
"""
"""A set of pictures: an area to ignore, a picture without people, every posture but one."""


def filled(fill: ModuleType, name: str, classes: int | None = None, seed: int = 0) -> Detector:
    """A variant with fill.py's weights: no zero, no degenerate norm."""
    detector = skeleton(variant(name, classes=classes))
    state = {
        key: torch.as_tensor(fill.fill(published_name(key), tensor.shape, seed))
        for key, tensor in detector.state_dict().items()
    }
    detector.load_state_dict(state, strict=True, assign=True)
    return detector.requires_grad_(True).eval()


def reference_detector(fill: ModuleType, name: str, sizes: list[tuple[int, int]]) -> tuple[Detector, Tensor, Tensor]:
    """A detector and its clips at these sizes (width, height), padded together as the reference has them."""
    detector = filled(fill, name)
    width, height = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    clip = torch.zeros(len(sizes), 3, detector.config.clip.frames, height, width)
    for i, (w, h) in enumerate(sizes):
        clip[i, :, :, :h, :w] = torch.from_numpy(fill.clip((3, clip.shape[2], h, w), i))
    return detector, clip, torch.tensor(sizes, dtype=torch.float32)


def reference_targets(fill: ModuleType, sizes: list[tuple[int, int]], classes: int = 80) -> list[Target]:
    """fill.py's targets, every label annotated."""
    return [
        fully_annotated(torch.from_numpy(boxes), torch.from_numpy(actions))
        for boxes, actions in fill.targets(sizes, classes, 0)
    ]


def stage_output(
    boxes_xyxy_px: Tensor, *, human_logits: Tensor | None = None, action_logits: Tensor | None = None
) -> StageOutput:
    """A stage that says these boxes (B, N, 4); two classes, logits 0 where not given."""
    b, n = boxes_xyxy_px.shape[:2]
    zeros = torch.zeros(b, n, 2)
    return StageOutput(
        human_logits=zeros if human_logits is None else human_logits,
        action_logits=zeros if action_logits is None else action_logits,
        boxes_cxcyzr=torch.zeros(b, n, 4),
        boxes_xyxy_px=boxes_xyxy_px,
        points_xyz=torch.zeros(b, n, 1, 1, 3),
    )


def decoder_output(*stages: StageOutput) -> DecoderOutput:
    """A decoder that says these stages."""
    b, n = stages[0].boxes_xyxy_px.shape[:2]
    return DecoderOutput(stages, torch.zeros(b, n, 4), torch.zeros(b, n, 4))


def custom_set(root: Path, boxes: str, splits: dict[str, str]) -> Path:
    """A custom set of the repository's clips, with these boxes."""
    videos = root / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for name in splits:
        if (CLIPS / name).exists() and not (videos / name).exists():
            (videos / name).symlink_to(CLIPS / name)
    rows = [f"{name},{part}" for name, part in splits.items()]
    (root / "videos.csv").write_text("\n".join(["video,split", *rows]) + "\n")
    (root / "boxes.csv").write_text(boxes)
    return root


def picture_set(root: Path, images: str = IMAGES, boxes: str = PICTURE_BOXES) -> Path:
    """A set of four pictures of noise, 96 x 64 px, with these tables."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("street", "room", "empty", "other"):
        cv2.imwrite(str(root / "images" / f"{name}.png"), rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    (root / "images.csv").write_text(images)
    (root / "boxes.csv").write_text(boxes)
    return root


def own_set(root: Path, part: str) -> Path:
    """The repository's two clips with their true boxes, all in one part."""
    return custom_set(root, (DATA / "boxes.csv").read_text(), {"walk.mp4": part, "fall.mp4": part})


def run_config(root: Path, **more: Any) -> RunConfig:
    """A run of `tiny` on the CPU in this process, its folders below ``root``."""
    plain: dict[str, Any] = {
        "run_dir": str(root / "run"),
        "data_root": str(root),
        "model": "tiny",
        "sets": [{"kind": "custom"}],
        "accelerator": "cpu",
        "devices": 1,
        "workers": 0,
        "batch_size": 4,
        "backbone_norm": "train",
        "log_every": 1,
    }
    return parse_config(plain | more)


def distributed_case(fill: ModuleType) -> tuple[Tensor, Tensor, list[Target]]:
    """Four clips with 3, 0, 1 and 0 people for two processes; (clip, sizes, targets), three classes."""
    clip = torch.stack([torch.from_numpy(fill.clip((3, 4, 64, 96), i)) for i in range(4)])
    (boxes, actions), *_ = fill.targets([(96, 64)], 3, 0)
    targets = [fully_annotated(torch.from_numpy(boxes[:n]), torch.from_numpy(actions[:n])) for n in (3, 0, 1, 0)]
    return clip, torch.tensor([[96.0, 64.0]] * 4), targets


def same_in_any_order(one: ClipSet, other: ClipSet, draws: Sequence[Draw]) -> list[ClipItem]:
    """The draws' items, which are the same of an equal set that reads them backwards."""
    forwards = [one[draw] for draw in draws]
    backwards = [other[draw] for draw in reversed(draws)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.target.boxes_xyxy_px, b.target.boxes_xyxy_px)
    return forwards


def write_ava(root: Path) -> None:
    """AVA in PySlowFast's layout: one video, four seconds, one of them excluded from validation, one without people."""
    (root / "annotations").mkdir(parents=True)
    (root / "frame_lists").mkdir()
    rows = (
        "vid,0902,0.1,0.2,0.3,0.4,12,3\nvid,0902,0.1,0.2,0.3,0.4,80,3\n"
        "vid,0903,0.5,0.2,0.9,0.4,14,\nvid,0904,0,0,1,1,1,1\nvid,0905\n"
    )
    for part in ("train", "val"):
        (root / "annotations" / f"ava_{part}_v2.2.csv").write_text(rows)
    (root / "annotations" / "ava_val_excluded_timestamps_v2.2.csv").write_text("vid,0904\n")
    folder = root / "frames" / "vid"
    folder.mkdir(parents=True)
    for i in range(1, 182):
        cv2.imwrite(str(folder / f"vid_{i:06d}.jpg"), np.full((36, 64, 3), i, np.uint8))
    lines = [f'vid 0 {i} vid/vid_{i + 1:06d}.jpg ""' for i in range(181)]
    text = "\n".join(["original_vido_id video_id frame_id path labels", *lines])
    for part in ("train", "val"):
        (root / "frame_lists" / f"{part}.csv").write_text(text)


def gt_layout() -> dict[str, object]:
    """The content of a small JHMDB-GT.pkl."""
    tube = np.array([[1, 10, 20, 110, 220], [2, 12, 20, 112, 220], [3, 14, 20, 320, 220]], np.float32)
    return {
        "labels": ["catch", "walk"],
        "gttubes": {"walk/a": {1: [tube]}, "catch/b": {0: [tube[:2]]}},
        "nframes": {"walk/a": 3, "catch/b": 4},
        "train_videos": [["walk/a"], ["catch/b"], ["walk/a", "catch/b"]],
        "test_videos": [["catch/b"], ["walk/a"], []],
        "resolution": {"walk/a": (240, 320), "catch/b": (240, 320)},
    }


def cut_clip(source: Path, target: Path, first_s: float, seconds: float) -> None:
    """A part of a clip, decoded and encoded anew."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        into = made.add_stream("libx264", rate=stream.average_rate, options={"crf": "28", "preset": "ultrafast"})
        into.width, into.height, into.pix_fmt = 320, 180, "yuv420p"
        for frame in given.decode(stream):
            if first_s <= frame.time < first_s + seconds:
                small = frame.reformat(320, 180, "yuv420p")
                small.pts = None
                made.mux(into.encode(small))
        made.mux(into.encode(None))
