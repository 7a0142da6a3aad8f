"""One batch through the detector: windows of frames in, actors out. The only place where serving runs the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.checkpoint import Model
from model.decoder import DecoderOutput
from model.labels import Label
from model.postprocess import Detections, PostProcess
from model.preprocess import make_clip
from service.errors import StartError
from service.schemas import Action, Actor


@dataclass(frozen=True, slots=True)
class Job:
    """One keyframe's clip and what its stream wants of the result.

    ``frames`` (frames, H, W, 3) uint8 RGB at the model's input size; ``width`` and ``height`` of the source, px.
    """

    frames: NDArray[np.uint8]
    width: int
    height: int
    score_threshold: float
    top_k: int | None
    action_threshold: float


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Actors per job, the raw output (for ``--explain``), and seconds spent."""

    actors: list[list[Actor]]
    output: DecoderOutput
    sizes_wh: torch.Tensor
    kept: list[Detections]
    preprocess_s: float
    inference_s: float
    postprocess_s: float


def pick_device(name: str) -> tuple[torch.device, str | None]:
    """``auto``, ``cpu`` or ``cuda[:n]`` -> the device, and a warning where auto fell back to the CPU.

    Raises StartError for CUDA that is not there: never a silent fall-back.
    """
    works = torch.cuda.is_available()
    if name == "auto":
        if works:
            return torch.device("cuda"), None
        return torch.device("cpu"), "no CUDA device works here: running on the CPU, which is many times slower"
    if name.startswith("cuda") and not works:
        raise StartError("cuda_unavailable", f"--device {name}, but CUDA does not work here; use --device cpu or auto")
    try:
        return torch.device(name), None
    except RuntimeError:
        raise StartError("bad_device", f"--device {name!r} is not a device; use auto, cpu, cuda or cuda:N") from None


class Runner:
    """A model on its device."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model, self.device = model, device
        self._detector = model.detector.to(device)

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> BatchResult:
        """Run jobs of one padded shape as one batch. Each result is independent of the others in it."""
        t0 = time.perf_counter()
        clip, sizes_wh = make_clip([job.frames for job in jobs], self.model.card.config.preprocess, self.device)
        self._synchronise()
        t1 = time.perf_counter()
        output = self._detector(clip, sizes_wh)
        self._synchronise()
        t2 = time.perf_counter()
        kept = [
            PostProcess(job.score_threshold)(_only(output, i), sizes_wh[i : i + 1])[0] for i, job in enumerate(jobs)
        ]
        labels = self.model.card.labels
        actors = [to_actors(k, job, labels) for k, job in zip(kept, jobs, strict=True)]
        return BatchResult(actors, output, sizes_wh, kept, t1 - t0, t2 - t1, time.perf_counter() - t2)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _only(output: DecoderOutput, index: int) -> DecoderOutput:
    """One clip of a batch, last stage only."""
    last, keep = output.stages[-1], slice(index, index + 1)
    stage = type(last)(*(getattr(last, name)[keep] for name in last.__slots__))
    return DecoderOutput((stage,), output.spatial_queries[keep], output.temporal_queries[keep])


def to_actors(kept: Detections, job: Job, labels: Sequence[Label]) -> list[Actor]:
    """Detections of one clip as they go over the wire, boxes in the source's px and as fractions of it."""
    order = kept.action_scores.argsort(dim=-1, descending=True, stable=True).tolist()
    scale = (job.width, job.height, job.width, job.height)
    actors = []
    for box, person, actions, ranking in zip(
        kept.boxes_xyxy.tolist(), kept.person_scores.tolist(), kept.action_scores.tolist(), order, strict=True
    ):
        best = [c for c in ranking[: job.top_k] if actions[c] >= job.action_threshold]
        actors.append(
            Actor(
                box=tuple(box),
                box_px=tuple(v * s for v, s in zip(box, scale, strict=True)),
                person_score=person,
                actions=[Action(id=labels[c].id, name=labels[c].name, score=actions[c]) for c in best],
            )
        )
    return actors
