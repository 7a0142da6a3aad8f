"""A weights file on sets: detections on every evaluation keyframe, reports, pictures, the public csv."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from media.decode import Limits, VideoReader
from media.grid import HALF_RAW_US
from model.checkpoint import CheckpointError, Model, load
from model.postprocess import PostProcess
from trainer.config import AvaSet, RunConfig
from trainer.data.batch import network_input
from trainer.data.check import read_picture
from trainer.data.clipset import ClipSet, Source
from trainer.data.loader import make_loader
from trainer.data.plan import in_order
from trainer.data.records import FrameFolder, Part, VideoFile
from trainer.data.seek import frames_from
from trainer.data.sets import load_data
from trainer.errors import TrainError
from trainer.evaluate.ava_csv import read_excluded, write_detections
from trainer.evaluate.page import write_page
from trainer.evaluate.pictures import draw, pick
from trainer.evaluate.report import Report
from trainer.evaluate.tables import Keyframes
from trainer.findings import Findings, Tables, tables
from trainer.reports import frame_protocol, report_sets

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to run on what. ``progress`` is told batches done and in all."""

    config: RunConfig
    weights: Path
    part: Part
    device: torch.device
    progress: Callable[[int, int], None] | None = None

    def run(self, out: Path) -> list[Report]:
        """Evaluate, and write ``<set>.json``, ``.html`` and ``.csv`` into a folder.

        Raises:
            TrainError: weights or data that cannot be used, or a folder that cannot be written.
        """
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainError(f"{out} cannot be written: {error.strerror or error}") from None
        model = self._model()
        names = tuple(label.name for label in model.card.labels)
        data = load_data(self.config.model_copy(update={"labels": names}), (self.part,))
        sources = data.val if self.part == "val" else data.train
        found = self._detect(model, sources)
        notes = (f"weights: {self.weights.name}, {model.card.name}, trained on {model.card.trained_on or 'nothing'}",)
        excluded = self._excluded()
        reports = []
        for i, source in enumerate(sources):
            alone = Findings({(0, k): f for (s, k), f in found.rows.items() if s == i})
            of_set = report_sets([source], alone, model.card.labels, notes=notes, with_tubes=True, excluded=excluded)
            self._write(out, model, source, alone, of_set)
            reports += of_set
        return reports

    def _model(self) -> Model:
        try:
            return load(self.weights)
        except CheckpointError as error:
            raise TrainError(str(error).splitlines()) from None

    @torch.inference_mode()
    def _detect(self, model: Model, sources: Sequence[Source]) -> Findings:
        options, config = self.config.evaluate, model.card.config
        batches = in_order([source.split.video for source in sources], options.batch_size)
        clips = ClipSet(sources, config, None, self.config.cache_mb * MEGABYTE)
        loader = make_loader(clips, batches, self.config.workers, self.device.type == "cuda")
        detector = model.detector.to(self.device).eval()
        postprocess = PostProcess(options.score_threshold, options.keep_top3)
        findings = Findings()
        for done, batch in enumerate(loader, start=1):
            clip, sizes_wh = network_input(batch.to(self.device).frames, config.preprocess)
            findings.add(detector(clip, sizes_wh), sizes_wh, batch.draws, postprocess)
            if self.progress is not None:
                self.progress(done, len(batches))
        return findings

    def _excluded(self) -> Keyframes | None:
        for chosen in self.config.sets:
            if isinstance(chosen, AvaSet):
                name = f"ava_{self.part}_excluded_timestamps_v{chosen.version}.csv"
                path = self.config.data_root / chosen.root / "annotations" / name
                return read_excluded(path) if path.exists() else None
        return None

    def _write(self, out: Path, model: Model, source: Source, found: Findings, reports: list[Report]) -> None:
        labels = model.card.labels
        given = tables(source, found.of(0), labels)
        reader = functools.partial(read_frame, source)
        for report in reports:
            stem = source.split.name if len(reports) == 1 else f"{source.split.name}.{report.actions.protocol}"
            report.write_json(out / f"{stem}.json")
            write_page(out / f"{stem}.html", report, _pictures(source, given, report, reader))
        # the public format has boxes of 0-1
        normalised = replace(source, split=replace(source.split, sizes_wh=None))
        write_detections(out / f"{source.split.name}.csv", tables(normalised, found.of(0), labels).actions)


def _pictures(source: Source, given: Tables, report: Report, reader: Callable[[str, int], np.ndarray]) -> list:  # type: ignore[type-arg]
    picks = pick(given.truth, given.actions, report.actions, frame_protocol(source.config))
    return draw(picks, given.truth, given.actions, given.labels, reader, people=given.people)


def read_frame(source: Source, name: str, frame: int) -> np.ndarray:
    """The (H, W, 3) uint8 picture that a set's annotation calls ``frame`` of a video. Raises MediaError."""
    split = source.split
    number = next(i for i, video in enumerate(split.videos) if video.name == name)
    if isinstance(source.config, AvaSet):  # there it is a second of the movie
        row = np.flatnonzero((split.video == number) & (split.frame == frame))[0]
        return _read_moment(split.videos[number].source, int(split.pts_us[row]))
    match split.videos[number].source:
        case FrameFolder() as folder:
            return read_picture(folder.path(frame))
        case VideoFile(path, _):
            with VideoReader(path, limits=Limits.unlimited()) as reader:
                for shown in reader:
                    if shown.index == frame:
                        break
                return shown.rgb()


def _read_moment(place: FrameFolder | VideoFile, pts_us: int) -> np.ndarray:
    """The picture of a moment, µs: the last frame up to half a raw frame after it, as on the time grid."""
    if isinstance(place, FrameFolder):
        return read_picture(place.path(min(round(pts_us * place.fps / 1_000_000), place.count - 1)))
    frames = frames_from(place.path, pts_us)
    shown = next(frames)
    for later in frames:
        if later.pts_us > pts_us + HALF_RAW_US:
            break
        shown = later
    return shown.rgb()
