"""One batch through the detector: windows of frames in, actors out. The only place where serving runs the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmixer.model.checkpoint import CheckpointError, ModelCard
from stmixer.model.config import ConfigError
from stmixer.model.decoder import DecoderOutput, last_arrays
from stmixer.model.device_preprocess import make_clip_on
from stmixer.model.frame_then_clip import frames_of, maps_of_frames
from stmixer.model.labels import Label
from stmixer.model.postprocess import ClipDetections, PostProcess
from stmixer.model.runtimes.choose import open_runtime
from stmixer.model.runtimes.runtime import Runtime, RuntimeUnavailable
from stmixer.model.stage import best_queries
from stmixer.service.errors import StartError
from stmixer.service.ipc.messages import Action, Actor
from stmixer.service.worker.features import FeatureRing, FrameKey

BankEntries = tuple[NDArray[np.float16], NDArray[np.bool_]]
"""A bank's window: (K, 2D) queries and (K,) True where they are there."""


@dataclass(frozen=True, slots=True)
class Job:
    """One keyframe's clip and what its stream wants of the result.

    ``frames`` (frames, H, W, 3) uint8 RGB at the model's input size; ``width`` and ``height`` of the source, px. With
    ``window`` the frames may be fewer. ``filled``: width and height of what the keyframe fills of its frame, from the
    upper left corner on; None is all. ``bank`` is the stream's window of an online long-term model; None is empty.
    """

    frames: NDArray[np.uint8]
    width: int
    height: int
    score_threshold: float
    top_k: int | None
    action_threshold: float
    window: FrameWindow | None = None
    bank: BankEntries | None = None
    filled: tuple[int, int] | None = None

    @property
    def input_wh(self) -> tuple[int, int]:
        """Width and height of what the frames show, px of the model's input."""
        return self.filled or (self.frames.shape[2], self.frames.shape[1])


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """For models that keep features: the T frames of the clip by name, and those that ``Job.frames`` shows, in order.

    What is not shown must be known to the runner (``Runner.missing``).
    """

    keys: tuple[FrameKey, ...]
    shown: tuple[FrameKey, ...]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Actors per job, the raw output (for ``--explain``), and seconds spent.

    ``entries`` (jobs, k, 2D) are for the streams' banks, of an online long-term model.
    """

    actors: list[list[Actor]]
    output: DecoderOutput
    sizes_wh: torch.Tensor
    kept: list[ClipDetections]
    preprocess_s: float
    inference_s: float
    postprocess_s: float
    entries: NDArray[np.float16] | None = None


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


def start_runtime(
    model: str | None, weights: Path | None, device: torch.device, runtime: str, precision: str
) -> Runtime:
    """``open_runtime`` for a command: what cannot be had is a StartError."""
    try:
        return open_runtime(model, weights, device, runtime=runtime, precision=precision)
    except (CheckpointError, ConfigError) as error:
        raise StartError("bad_weights", str(error)) from None
    except RuntimeUnavailable as error:
        raise StartError("runtime_unavailable", str(error)) from None


NO_STREAM = 0
"""Streams of the service count from 1."""


class Runner:
    """A model as a runtime, and what it keeps of its streams' frames where the model sees them one by one."""

    def __init__(self, runtime: Runtime, *, keep_features: bool = True) -> None:
        self.runtime = runtime
        config = self.card.config
        self._long_term = config.long_term
        if self._long_term is not None and self._long_term.kind == "offline":
            raise StartError(
                "bad_weights",
                f"{self.card.name} is an offline long-term model: it wants another model's bank of the whole video, "
                "future and all; `stmixer-train eval` runs it, live streams want an online one",
            )
        # a window, and as many frames again as a slow keyframe's successors may have brought
        self._features: FeatureRing | None = None
        if keep_features and config.backbone.per_frame:
            self._features = FeatureRing(config.clip.frames + 4, cells=runtime.name != "onnx")

    @property
    def card(self) -> ModelCard:
        """What the model says of itself."""
        return self.runtime.card

    @property
    def keeps_features(self) -> bool:
        """Whether a frame that was seen costs nothing in the windows that follow."""
        return self._features is not None

    def missing(self, keys: Sequence[FrameKey]) -> tuple[FrameKey, ...]:
        """Of a window's frames those whose pictures are needed, each once; all, of a model that keeps nothing."""
        known = self._features
        return tuple(keys) if known is None else tuple(dict.fromkeys(key for key in keys if key not in known))

    def forget(self, stream: int) -> None:
        """A stream has ended."""
        if self._features is not None:
            self._features.drop(stream)

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> BatchResult:
        """Run jobs of one padded shape as one batch. Each result is independent of the others in it."""
        started = time.perf_counter()
        windows = [job.window for job in jobs if job.window is not None]
        if self._features is None or not windows:
            output, sizes_wh, preprocess_s = self._run_whole(jobs)
        else:
            output, sizes_wh, preprocess_s = self._run_by_frame(self._features, jobs, windows)
        self._synchronise()
        detected = time.perf_counter()
        arrays = last_arrays(output, sizes_wh)
        kept = [
            PostProcess(job.score_threshold)(*(array[i : i + 1] for array in arrays))[0] for i, job in enumerate(jobs)
        ]
        labels = self.card.labels
        actors = [to_actors(k, job, labels) for k, job in zip(kept, jobs, strict=True)]
        inference_s, postprocess_s = detected - started - preprocess_s, time.perf_counter() - detected
        entries = None
        if self._long_term is not None:
            entries = best_queries(output, self._long_term.best)[0].to("cpu", torch.float16).numpy()
        return BatchResult(actors, output, sizes_wh, kept, preprocess_s, inference_s, postprocess_s, entries)

    @property
    def bank_bytes(self) -> tuple[int, int]:
        """Bytes of a bank window's queries and of its mask; 0 and 0 for a model without one."""
        if self._long_term is None:
            return 0, 0
        entries = self._long_term.entries
        return entries * 2 * self.card.config.decoder.dim * np.dtype(np.float16).itemsize, entries

    def _banks(self, jobs: Sequence[Job]) -> tuple[Tensor, ...]:
        """The jobs' windows as the detector takes them: (B, K, 2D) and (B, K), or nothing."""
        if self._long_term is None:
            return ()
        entries, dim = self._long_term.entries, 2 * self.card.config.decoder.dim
        queries = torch.zeros(len(jobs), entries, dim)
        mask = torch.zeros(len(jobs), entries, dtype=torch.bool)
        for i, job in enumerate(jobs):
            if job.bank is not None:
                queries[i] = torch.from_numpy(job.bank[0].astype(np.float32))
                mask[i] = torch.from_numpy(job.bank[1].copy())
        return queries.to(self.runtime.device), mask.to(self.runtime.device)

    def _run_whole(self, jobs: Sequence[Job]) -> tuple[DecoderOutput, Tensor, float]:
        started = time.perf_counter()
        clip, _ = make_clip_on(self.runtime.device, [job.frames for job in jobs], self.card.config.preprocess)
        sizes_wh = self._sizes_wh(jobs)
        self._synchronise()
        preprocess_s = time.perf_counter() - started
        return self.runtime.detect(clip, sizes_wh, *self._banks(jobs)), sizes_wh, preprocess_s

    def _run_by_frame(
        self, features: FeatureRing, jobs: Sequence[Job], windows: Sequence[FrameWindow]
    ) -> tuple[DecoderOutput, Tensor, float]:
        """The frame stage on frames that are new, the clip stage on the windows."""
        shown = {k: f for job, w in zip(jobs, windows, strict=True) for k, f in zip(w.shown, job.frames, strict=True)}
        preprocess_s = 0.0

        def pixels(keys: Sequence[FrameKey]) -> Tensor:
            nonlocal preprocess_s
            began = time.perf_counter()
            frames = [shown[key][None] for key in keys]
            clip, _ = make_clip_on(self.runtime.device, frames, self.card.config.preprocess)
            self._synchronise()
            preprocess_s += time.perf_counter() - began
            return frames_of(clip)

        new = [key for key in shown if key not in features]
        for keys, levels in maps_of_frames(self.runtime.frame_stage, new, pixels):
            for key, *maps in zip(keys, *levels, strict=True):
                features.keep(key, maps)
        sizes_wh = self._sizes_wh(jobs)
        maps_of_windows = features.windows([window.keys for window in windows])
        output = self.runtime.clip_stage(maps_of_windows, sizes_wh, *self._banks(jobs))
        features.trim()
        return output, sizes_wh, preprocess_s

    def _sizes_wh(self, jobs: Sequence[Job]) -> Tensor:
        return torch.tensor([job.input_wh for job in jobs], dtype=torch.float32, device=self.runtime.device)

    def _synchronise(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)


def to_actors(kept: ClipDetections, job: Job, labels: Sequence[Label]) -> list[Actor]:
    """Detections of one clip as they go over the wire, boxes in the source's px and as fractions of it.

    Raises RuntimeError for an output that is not finite: such a keyframe fails, and not its worker.
    """
    if not (np.isfinite(kept.boxes_xyxy).all() and np.isfinite(kept.action_scores).all()):
        raise RuntimeError("the model's output is not finite")
    order = np.argsort(-kept.action_scores, axis=-1, kind="stable").tolist()
    width, height = job.width, job.height
    actors = []
    for (left, top, right, bottom), person, actions, ranking in zip(
        kept.boxes_xyxy.tolist(), kept.person_scores.tolist(), kept.action_scores.tolist(), order, strict=True
    ):
        best = [c for c in ranking[: job.top_k] if actions[c] >= job.action_threshold]
        actors.append(
            Actor(
                box_px=(left * width, top * height, right * width, bottom * height),
                box=(left, top, right, bottom),
                person_score=person,
                actions=tuple([Action(labels[c].id, labels[c].name, actions[c]) for c in best]),
            )
        )
    return actors
