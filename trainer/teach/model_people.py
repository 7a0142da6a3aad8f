"""People in pictures by a model of ours, in a person detector's place: whoever is taught is found by what teaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torchvision.ops import nms  # type: ignore[import-untyped]

from stmixer.media.resize import resize
from stmixer.model.card import CheckpointError
from stmixer.model.clip import MAX_ASPECT, input_size
from stmixer.model.decoder import last_arrays
from stmixer.model.postprocess import PostProcess
from stmixer.model.runtimes.choose import open_runtime
from stmixer.model.runtimes.runtime import RuntimeUnavailable
from stmixer.trainer.annotate.person_detector import NMS_IOU, People, Pixels
from stmixer.trainer.data.batch import network_input
from stmixer.trainer.errors import TrainError


class ModelPeople:
    """A realtime model that is shown single pictures, each as a window that stands still.

    Args:
        weights: a file, or the name of bundled weights.
        score: the person score from which somebody counts.

    Raises:
        TrainError: weights that cannot be used, or of a variant that does not see frames one by one.
    """

    def __init__(self, weights: Path, score: float = 0.35) -> None:
        try:
            self._runtime = open_runtime(None, weights, torch.device("cpu"), precision="fp32", tensors=True)
        except (CheckpointError, RuntimeUnavailable) as error:
            raise TrainError(str(error).splitlines()) from None
        self._config = self._runtime.card.config
        if not self._config.backbone.per_frame:
            raise TrainError(f"{weights} wants whole clips; only realtime variants find people on single pictures")
        self._kept = PostProcess(score)

    @torch.inference_mode()
    def find(self, rgb: Pixels) -> People:
        """People on an (H, W, 3) uint8 RGB picture, best first. Raises MediaError for one that is too elongated."""
        wanted = self._config.preprocess
        size = input_size(rgb.shape[1], rgb.shape[0], wanted.short_side, wanted.short_side * MAX_ASPECT)
        picture = torch.from_numpy(resize(rgb, *size, antialias=wanted.antialias))
        clip, sizes_wh = network_input([picture[None]], wanted)
        still = [
            x.expand(self._config.clip.frames, *x.shape[1:])[None] for x in self._runtime.frame_stage(clip[:, :, 0])
        ]
        output = self._runtime.clip_stage([x.contiguous() for x in still], sizes_wh)
        (found,) = self._kept(*last_arrays(output, sizes_wh))
        boxes, scores = found.boxes_xyxy.astype(np.float64), found.person_scores.astype(np.float64)
        best = nms(torch.from_numpy(boxes), torch.from_numpy(scores), NMS_IOU).numpy()
        return People(np.clip(boxes[best], 0.0, 1.0), scores[best])
