"""One batch through the detector: windows of frames in, actors out. The only place where serving runs the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmixer.model.card import CheckpointError, ModelCard
from stmixer.model.config import ConfigError
from stmixer.model.frame_then_clip import maps_of_frames
from stmixer.model.labels import Label
from stmixer.model.outputs import DecoderOutput, StageOutput
from stmixer.model.postprocess import ClipDetections, PostProcess, looks_of
from stmixer.model.runtimes.arrays import Arrays, DeviceName
from stmixer.model.runtimes.choose import NO_TORCH, has_torch, open_runtime
from stmixer.model.runtimes.processor import CPU, Device, counted, device_of, driver_devices
from stmixer.model.runtimes.runtime import Runtime, RuntimeUnavailable
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

    ``entries`` (jobs, k, 2D) are for the streams' banks, of an online long-term model. ``looks``: of each job (actors,
    2D), to tell people apart by (``model.postprocess.looks_of``).
    """

    actors: list[list[Actor]]
    output: DecoderOutput[Any]
    kept: list[ClipDetections]
    looks: list[NDArray[np.float16]]
    preprocess_s: float
    inference_s: float
    postprocess_s: float
    entries: NDArray[np.float16] | None = None


def pick_device(name: str) -> tuple[Device, str | None]:
    """``auto``, ``cpu`` or ``cuda[:n]`` -> the device, and a warning where auto fell back to the CPU.

    PyTorch, which runs models on GPUs, is asked where the driver shows one. Raises StartError for CUDA that is not
    there: never a silent fall-back.
    """
    device = None if name == "auto" else device_of(name)
    if name != "auto" and device is None and not name.startswith("cuda"):
        raise StartError("bad_device", f"--device {name!r} is not a device; use auto, cpu, cuda or cuda:N")
    if device == CPU:
        return CPU, None
    if driver_devices() and not has_torch():
        if name == "auto":
            return CPU, f"there is a GPU here, but what runs models on it is missing. {NO_TORCH}. Running on the CPU"
        raise StartError("cuda_unavailable", f"--device {name}: models on GPUs are run by PyTorch. {NO_TORCH}")
    works = driver_devices() > 0 and _cuda_works()
    if name == "auto":
        if works:
            return Device("cuda"), None
        return CPU, "no CUDA device works here: running on the CPU, which is many times slower"
    if not works:
        raise StartError("cuda_unavailable", f"--device {name}, but CUDA does not work here; use --device cpu or auto")
    if device is None:
        raise StartError("bad_device", f"--device {name!r} is not a device; use auto, cpu, cuda or cuda:N")
    if (device.index or 0) >= driver_devices():
        raise StartError("cuda_unavailable", f"--device {name}: {counted(driver_devices())}, numbered from 0")
    return device, None


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()


def start_runtime(
    model: str | None,
    weights: Path | None,
    device: DeviceName,
    runtime: str,
    precision: str,
    *,
    threads: int | None = None,
) -> Runtime[Any]:
    """``open_runtime`` for a command: what cannot be had is a StartError."""
    try:
        return open_runtime(model, weights, device, runtime=runtime, precision=precision, threads=threads)
    except (CheckpointError, ConfigError) as error:
        raise StartError("bad_weights", str(error)) from None
    except RuntimeUnavailable as error:
        raise StartError("runtime_unavailable", str(error)) from None


NO_STREAM = 0
"""Streams of the service count from 1."""


class Runner:
    """A model as a runtime, and what it keeps of its streams' frames where the model sees them one by one.

    ``most_at_once``: keyframes that the device has the memory for; more run in parts. None where nothing is known.
    """

    def __init__(self, runtime: Runtime[Any], *, keep_features: bool = True) -> None:
        self.runtime = runtime
        self.most_at_once: int | None = None
        config = self.card.config
        self._long_term = config.long_term
        if self._long_term is not None and self._long_term.kind == "offline":
            raise StartError(
                "bad_weights",
                f"{self.card.name} is an offline long-term model: it wants another model's bank of the whole video, "
                "future and all; `stmixer-train eval` runs it, live streams want an online one",
            )
        # a window, and as many frames again as a slow keyframe's successors may have brought
        self._features: FeatureRing[Any] | None = None
        if keep_features and config.backbone.per_frame:
            self._features = FeatureRing(config.clip.frames + 4, runtime.arrays)

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

    def run(self, jobs: Sequence[Job]) -> BatchResult:
        """Run jobs of one padded shape as one batch. Each result is independent of the others in it."""
        with self._arrays.without_gradients():
            return self._run(jobs)

    def _run(self, jobs: Sequence[Job]) -> BatchResult:
        started = time.perf_counter()
        windows = [job.window for job in jobs if job.window is not None]
        if self._features is None or not windows:
            output, sizes_wh, preprocess_s = self._run_whole(jobs)
        else:
            output, sizes_wh, preprocess_s = self._run_by_frame(self._features, jobs, windows)
        self._arrays.synchronise()
        detected = time.perf_counter()
        last = output.stages[-1]
        wanted = (last.human_logits, last.action_logits, last.boxes_xyxy_px, sizes_wh)
        arrays = [self._arrays.on_host(array) for array in wanted]
        kept = [
            PostProcess(job.score_threshold)(*(array[i : i + 1] for array in arrays))[0] for i, job in enumerate(jobs)
        ]
        labels = self.card.labels
        actors = [to_actors(k, job, labels) for k, job in zip(kept, jobs, strict=True)]
        spatial, temporal = (self._arrays.on_host(q) for q in (output.spatial_queries, output.temporal_queries))
        looks = [looks_of(spatial[i], temporal[i], k.queries) for i, k in enumerate(kept)]
        inference_s, postprocess_s = detected - started - preprocess_s, time.perf_counter() - detected
        entries = None
        if self._long_term is not None:
            from stmixer.model.stage import best_queries  # torch's: it alone runs long-term models

            entries = self._arrays.on_host(best_queries(output, self._long_term.best)[0]).astype(np.float16)
        return BatchResult(actors, output, kept, looks, preprocess_s, inference_s, postprocess_s, entries)

    @property
    def bank_bytes(self) -> tuple[int, int]:
        """Bytes of a bank window's queries and of its mask; 0 and 0 for a model without one."""
        if self._long_term is None:
            return 0, 0
        entries = self._long_term.entries
        return entries * 2 * self.card.config.decoder.dim * np.dtype(np.float16).itemsize, entries

    def _banks(self, jobs: Sequence[Job]) -> tuple[Any, ...]:
        """The jobs' windows as the detector takes them: (B, K, 2D) and (B, K), or nothing."""
        if self._long_term is None:
            return ()
        entries, dim = self._long_term.entries, 2 * self.card.config.decoder.dim
        queries = np.zeros((len(jobs), entries, dim), np.float32)
        mask = np.zeros((len(jobs), entries), np.bool_)
        for i, job in enumerate(jobs):
            if job.bank is not None:
                queries[i], mask[i] = job.bank
        return self._arrays.given(queries), self._arrays.given(mask)

    def _run_whole(self, jobs: Sequence[Job]) -> tuple[DecoderOutput[Any], Any, float]:
        sizes_wh, preprocess_s, outputs = self._sizes_wh(jobs), 0.0, list[DecoderOutput[Any]]()
        at_once = self.most_at_once or len(jobs)
        for first in range(0, len(jobs), at_once):
            part = slice(first, first + at_once)
            started = time.perf_counter()
            clip = self._arrays.clip([job.frames for job in jobs[part]], self.card.config.preprocess)
            self._arrays.synchronise()
            preprocess_s += time.perf_counter() - started
            outputs.append(self.runtime.detect(clip, sizes_wh[part], *self._banks(jobs[part])))
        return joined(outputs, self._arrays), sizes_wh, preprocess_s

    def _run_by_frame(
        self, features: FeatureRing[Any], jobs: Sequence[Job], windows: Sequence[FrameWindow]
    ) -> tuple[DecoderOutput[Any], Any, float]:
        """The frame stage on frames that are new, the clip stage on the windows; as many at once as the arrays say."""
        sizes_wh, preprocess_s, outputs = self._sizes_wh(jobs), 0.0, list[DecoderOutput[Any]]()
        at_once = min(self._arrays.windows_at_once or len(jobs), self.most_at_once or len(jobs))
        for first in range(0, len(jobs), at_once):
            part = slice(first, first + at_once)
            preprocess_s += self._run_frames(features, jobs[part], windows[part])
            maps_of_windows = features.windows([window.keys for window in windows[part]])
            outputs.append(self.runtime.clip_stage(maps_of_windows, sizes_wh[part], *self._banks(jobs[part])))
            features.trim([key for window in windows[part.stop :] for key in window.keys])
        return joined(outputs, self._arrays), sizes_wh, preprocess_s

    def _run_frames(self, features: FeatureRing[Any], jobs: Sequence[Job], windows: Sequence[FrameWindow]) -> float:
        """Keep the maps of those of the jobs' frames that are new. Returns the seconds of making the stage's input."""
        shown = {k: f for job, w in zip(jobs, windows, strict=True) for k, f in zip(w.shown, job.frames, strict=True)}
        preprocess_s = 0.0

        def pixels(keys: Sequence[FrameKey]) -> Any:
            nonlocal preprocess_s
            began = time.perf_counter()
            frames = [shown[key][None] for key in keys]
            clip = self._arrays.clip(frames, self.card.config.preprocess)
            self._arrays.synchronise()
            preprocess_s += time.perf_counter() - began
            return self._arrays.frames_of(clip)

        new = [key for key in shown if key not in features]
        for keys, levels in maps_of_frames(self.runtime.frame_stage, new, pixels, self._arrays.frames_at_once):
            for key, *maps in zip(keys, *levels, strict=True):
                features.keep(key, maps)
        return preprocess_s

    def _sizes_wh(self, jobs: Sequence[Job]) -> Any:
        return self._arrays.given(np.array([job.input_wh for job in jobs], np.float32))

    @property
    def _arrays(self) -> Arrays[Any]:
        return self.runtime.arrays


def joined(parts: Sequence[DecoderOutput[Any]], arrays: Arrays[Any]) -> DecoderOutput[Any]:
    """What parts of a batch gave, as the batch's."""
    if len(parts) == 1:
        return parts[0]
    stages = [
        StageOutput(*(arrays.joined([getattr(stage, name) for stage in same]) for name in StageOutput.__slots__))
        for same in zip(*(part.stages for part in parts), strict=True)
    ]
    spatial, temporal = ([getattr(part, name) for part in parts] for name in ("spatial_queries", "temporal_queries"))
    return DecoderOutput(tuple(stages), arrays.joined(spatial), arrays.joined(temporal))


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
