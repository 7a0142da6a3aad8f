"""Making of cached features, a frozen backbone's maps: it runs over augmented segments of the training videos.

A realtime variant's backbone sees frames one by one; in a clip of `rt_lite0` it costs nearly twice what all the rest
does, forward and backward. Frozen, it would give the same maps in every epoch: they are made once, in 16
bits, and training is the rest's alone (`trainer.data.cached_features`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stmixer.model.clip import padded_size
from stmixer.model.config import PreprocessConfig
from stmixer.model.detector import Detector
from stmixer.model.device_preprocess import normalise_and_pad
from stmixer.model.frame_then_clip import frames_of, maps_of_frames
from stmixer.model.runtimes.prepare import prepared
from stmixer.trainer.config.run import RunConfig, current_keys
from stmixer.trainer.data.cached_features import FeatureFolder
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.handover import usable_workers
from stmixer.trainer.data.loader import one_thread
from stmixer.trainer.data.segments import SegmentSet
from stmixer.trainer.errors import TrainError, writing
from stmixer.trainer.training.named_files import by_contents, contents
from stmixer.trainer.training.progress import Progress

log = logging.getLogger("stmixer.train")

_SHAPING: dict[str, Any] = {
    **dict.fromkeys(("model", "variant", "sets", "labels", "exclusive", "split", "augment", "seed"), True),
    "cached_features": {"samples"},
}
"""What of a configuration the maps depend on. Not their number: more are made beside those that are there."""


def feature_folder(root: Path, config: RunConfig, detector: Detector) -> FeatureFolder:
    """The folder of a run's maps, made or not."""
    assert config.cached_features is not None
    sizes, within = config.augment.short_sides, config.augment.within
    assert sizes is not None
    assert within is not None
    canvas_wh = padded_size(round(sizes[0] * within), sizes[0], detector.config.preprocess)
    return FeatureFolder(root, config.cached_features.segments, canvas_wh, detector.config.backbone.map_channels)


def make_features(
    folder: FeatureFolder,
    config: RunConfig,
    sources: Sequence[ClipSource],
    detector: Detector,
    device: torch.device,
    progress: Progress | None = None,
) -> None:
    """Make the segments that are not there yet; a run that was cut off goes on here. ``progress`` is told ``features``.

    Raises:
        TrainError: the folder holds maps of something else, or cannot be written.
    """
    of = {"backbone": _digest(detector.backbone), "config": _shaping(config)}
    made = folder.root / "made.json"
    with writing(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
        if made.exists() and _what_made(made) != of:
            raise TrainError(f"{folder.root} holds the maps of another run or backbone: delete it")
        made.write_text(json.dumps(of, indent=1) + "\n", encoding="utf-8")
        missing = folder.missing()
        if missing:
            _make(folder, missing, config, sources, detector, device, progress)


def _what_made(path: Path) -> dict[str, Any]:
    """What a folder's maps were made of, as ``made.json`` says."""
    of: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    written = current_keys(of["config"])
    needed = {"run_dir": ".", "frozen": ["backbone."], "cached_features": written["cached_features"] | {"segments": 1}}
    try:
        # keys that an earlier version did not know are at their defaults
        config = RunConfig.model_validate(written | needed)
    except ValueError:
        return of
    return of | {"config": _shaping(config)}


def _shaping(config: RunConfig) -> dict[str, Any]:
    """What of a configuration the maps depend on; files by their contents, wherever they lie."""
    values = config.model_dump(mode="json", include=_SHAPING)
    return by_contents(values, contents(values))


def wait_for_features(folder: FeatureFolder) -> None:
    """Until the first process has made them all."""
    while folder.missing():
        time.sleep(1)


def _make(
    folder: FeatureFolder,
    missing: Sequence[int],
    config: RunConfig,
    sources: Sequence[ClipSource],
    detector: Detector,
    device: torch.device,
    progress: Progress | None,
) -> None:
    assert config.cached_features is not None
    segments = SegmentSet(
        sources, detector.config, config.augment, config.cached_features, config.seed, config.cache_bytes
    )
    log.info(f"{len(missing)} of {folder.count} segments to run the backbone over")
    backbone = prepared(detector, pack=False).backbone.to(device)
    workers = usable_workers(config.workers)
    loader: DataLoader[Any] = DataLoader(
        segments,
        sampler=missing,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=one_thread if workers else None,
        multiprocessing_context="forkserver" if workers else None,
    )
    for done, segment in enumerate(loader, start=1):
        folder.write(
            segment, _maps(backbone, segment.clip.frames, folder.canvas_wh, detector.config.preprocess, device)
        )
        if progress is not None:
            progress("features", folder.count - len(missing) + done, folder.count)
        if done % 100 == 0:
            log.info(f"{done} of {len(missing)} segments")


@torch.no_grad()
def _maps(
    backbone: nn.Module,
    frames: NDArray[np.uint8],
    canvas_wh: tuple[int, int],
    preprocess: PreprocessConfig,
    device: torch.device,
) -> NDArray[np.float16]:
    """A row per frame. Computed in float32: in bf16 the first of these maps are 5 % off, as no served model's are."""

    def pixels(part: Sequence[NDArray[np.uint8]]) -> Tensor:
        window = torch.from_numpy(np.stack(part)).to(device)
        return frames_of(normalise_and_pad([window], canvas_wh, preprocess))

    parts = maps_of_frames(backbone, list(frames), pixels)
    return np.concatenate([torch.cat([m.flatten(1).half() for m in maps], 1).cpu().numpy() for _, maps in parts])


def _digest(backbone: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
