"""What the trainer's tests share: reference networks and inputs, and small sets written by the test."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from model.decoder import DecoderOutput, StageOutput
from model.detector import Detector, skeleton
from model.published import published_name
from model.zoo import variant
from trainer.config import RunConfig, parse_config
from trainer.targets import Target, fully_annotated

TESTS = Path(__file__).resolve().parent
REFERENCE = TESTS / "reference"
CLIPS = TESTS / "clips"
DATA = TESTS / "trainer" / "data"


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
