"""A weights file on sets: detections on every evaluation keyframe, reports, pictures, the public csv."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console, ConsoleOptions, RenderableType

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.grid import HALF_RAW_US
from stmixer.model.card import ModelCard
from stmixer.model.postprocess import PostProcess
from stmixer.trainer.config.run import AvaSet, RunConfig
from stmixer.trainer.data.check import read_picture
from stmixer.trainer.data.clips import WHOLE, View
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.records import FrameFolder, Part, Picture, VideoFile
from stmixer.trainer.data.seek import frames_from
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.data.told_split import told_split
from stmixer.trainer.errors import writing
from stmixer.trainer.evaluate.clip_videos import CLIPS, make_clips
from stmixer.trainer.evaluate.faults import find_faults
from stmixer.trainer.evaluate.history import History, read_history
from stmixer.trainer.evaluate.moments import ErrorMoments, worst
from stmixer.trainer.evaluate.network import LoadedNetwork, Precision, load_network, run_network
from stmixer.trainer.evaluate.overview import overview_table, write_overview
from stmixer.trainer.evaluate.page import write_page
from stmixer.trainer.evaluate.pictures import (
    PERSON_LABEL,
    PICTURES_EACH,
    ReportPicture,
    as_one_label,
    draw,
    pick,
)
from stmixer.trainer.evaluate.predictions import Predictions, Tables, tables
from stmixer.trainer.evaluate.report import Report
from stmixer.trainer.evaluate.reports import frame_protocol, report_empty_sets, report_sets
from stmixer.trainer.evaluate.sections import Evidence
from stmixer.trainer.evaluators.ava_csv import read_excluded, write_detections
from stmixer.trainer.evaluators.empty import EmptyReport
from stmixer.trainer.evaluators.frames import FrameProtocol
from stmixer.trainer.evaluators.tables import Keyframes


@dataclass(frozen=True, slots=True)
class EvaluationMode:
    """How weights are run: what of its window a clip sees, the precision, and whether pictures are turned by 90°."""

    view: View = WHOLE
    precision: Precision = "fp32"
    turned: bool = False

    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know."""
        given: list[str] = []
        if self.view.still:
            given.append("single frame: the keyframe stands for the whole window")
        elif self.view.lookahead_ms is not None:
            given.append(f"look-ahead at most {self.view.lookahead_ms:g} ms; later samples repeat the last one")
        if self.view.moving:
            given.append("a simulated camera moves over the window; the keyframe stays")
        if self.turned:
            given.append("pictures turned by 90°, people alone; heights are the longer side")
        if self.precision != "fp32":
            given.append(f"precision: {self.precision}")
        return tuple(given)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The reports of an evaluation, of sets with people and of sets without."""

    reports: list[Report] = field(default_factory=list)
    empty_reports: list[EmptyReport] = field(default_factory=list)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """``rich.print``: every set, then all at a glance."""
        yield from self.reports
        yield from self.empty_reports
        if len(self.reports) + len(self.empty_reports) > 1:
            yield overview_table(self.reports, self.empty_reports)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to run on what, and how. ``progress`` is told batches done and in all."""

    config: RunConfig
    weights: Path
    part: Part
    device: torch.device
    progress: Callable[[int, int], None] | None = None
    mode: EvaluationMode = EvaluationMode()

    def run(self, out: Path) -> EvaluationResult:
        """Evaluate, and write ``<set>.json``, ``.html`` and ``.csv`` and ``summary.json`` into a folder.

        Raises:
            TrainError: weights or data that cannot be used, or a folder that cannot be written.
        """
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        network = load_network(self.weights, self.device, self.mode.precision)
        card = network.card
        names = tuple(label.name for label in card.labels)
        data = load_data(self.config.model_copy(update={"labels": names}), (self.part,))
        sources = data.val if self.part == "val" else data.train
        if self.mode.turned:
            sources = tuple(source.quarter_turned() for source in sources)
        found = self._detect(network, sources)
        of_weights = f"weights: {self.weights.name}, {card.name}, trained on {card.trained_on or 'nothing'}"
        notes = (of_weights, *self.mode.notes())
        excluded = self._excluded()
        done = EvaluationResult()
        for i, source in enumerate(sources):
            alone = Predictions({(0, k): f for (s, k), f in found.rows.items() if s == i})
            split = source.split
            names_of = {video.name for video in split.videos}
            said = told_split(source.config, self.config.data_root / source.config.root, split.part, names_of)
            of_set = report_sets(
                *([source], alone, card.labels),
                notes=(*notes, *said),
                with_actions=not self.mode.turned,
                with_tubes=True,
                among=self.config.evaluate.out_of_set_labels,
                score_threshold=self.config.evaluate.score_threshold,
                excluded=excluded,
                step=self.config.evaluate.every,
            )
            self._write(out, card, source, alone, of_set)
            done.reports.extend(of_set)
            done.empty_reports.extend(
                report_empty_sets([source], alone, card.labels, notes=notes, step=self.config.evaluate.every)
            )
        for empty in done.empty_reports:
            empty.write_json(out / f"{empty.name}.json")
        write_overview(out / "summary.json", done.reports, done.empty_reports)
        return done

    def _detect(self, network: LoadedNetwork, sources: Sequence[ClipSource]) -> Predictions:
        options = self.config.evaluate
        postprocess = PostProcess(options.score_threshold, options.keep_top3)
        predictions = Predictions()
        for result in run_network(
            *(network, sources, self.config, self.device), view=self.mode.view, progress=self.progress
        ):
            predictions.add(result.output, result.sizes_wh, result.batch.draws, postprocess)
        return predictions

    def _excluded(self) -> Keyframes | None:
        for chosen in self.config.sets:
            if isinstance(chosen, AvaSet):
                name = f"ava_{self.part}_excluded_timestamps_v{chosen.version}.csv"
                path = self.config.data_root / chosen.root / "annotations" / name
                return read_excluded(path) if path.exists() else None
        return None

    def _write(self, out: Path, card: ModelCard, source: ClipSource, found: Predictions, reports: list[Report]) -> None:
        if source.empty:
            return
        labels = card.labels
        given = tables(source, found.of(0), labels)
        protocol = frame_protocol(source.config, self.config.evaluate.every)
        for report in reports:
            stem = source.split.name if len(reports) == 1 else f"{source.split.name}.{report.protocol}"
            report.write_json(out / f"{stem}.json")
            write_page(out / f"{stem}.html", report, self._evidence(out, source, given, report, protocol))
        if not given.labels or source.turned:
            return
        # the public format has boxes of 0-1
        normalised = replace(source, split=replace(source.split, sizes_wh=None))
        write_detections(out / f"{source.split.name}.csv", tables(normalised, found.of(0), labels).actions)

    def _evidence(
        self, out: Path, source: ClipSource, given: Tables, report: Report, protocol: FrameProtocol
    ) -> Evidence:
        """Pictures, and where actions are measured every error, and the worst as clips."""
        history, moments = read_history(self.weights.parent) or History(), ErrorMoments(source, out)
        pictures = _pictures(given, report, protocol, functools.partial(read_frame, source))
        if report.actions is None:
            return Evidence(pictures, moments=moments, history=history)
        faults = find_faults(given.truth, given.actions, report.actions, given.labels, protocol)
        picks = [fault.pick for fault in faults.listed]
        chosen = worst(picks, CLIPS, lambda one: 0.5 if one.score is None else one.score)
        return Evidence(pictures, make_clips(chosen, source, moments, given), faults, moments, history)


def _pictures(
    given: Tables, report: Report, protocol: FrameProtocol, reader: Callable[[str, int], np.ndarray]
) -> list[ReportPicture]:
    if report.actions is not None:
        picks = pick(given.truth, given.actions, report.actions, protocol)
        return draw(picks, given.truth, given.actions, given.labels, reader, people=given.people)
    if report.people is None:
        return []
    truth, found, score = as_one_label(given.truth, given.people, report.people)
    picks = pick(truth, found, score, protocol, per_label=PICTURES_EACH)
    return draw(picks, truth, found, PERSON_LABEL, reader)


def read_frame(source: ClipSource, name: str, frame: int) -> np.ndarray:
    """The (H, W, 3) uint8 picture that a set's annotation calls ``frame`` of a video, as the network is shown it.

    Raises MediaError.
    """
    picture = _read_frame(source, name, frame)
    return np.ascontiguousarray(np.rot90(picture)) if source.turned else picture


def _read_frame(source: ClipSource, name: str, frame: int) -> np.ndarray:
    split = source.split
    number = next(i for i, video in enumerate(split.videos) if video.name == name)
    if isinstance(source.config, AvaSet):  # there it is a second of the movie
        row = np.flatnonzero((split.video == number) & (split.frame == frame))[0]
        return _read_moment(split.videos[number].source, int(split.pts_us[row]))
    match split.videos[number].source:
        case FrameFolder() as folder:
            return read_picture(folder.path(frame))
        case Picture(path):
            return read_picture(path)
        case VideoFile(path):
            with VideoReader(path, limits=Limits.unlimited()) as reader:
                for shown in reader:
                    if shown.index == frame:
                        break
                return shown.rgb()


def _read_moment(place: FrameFolder | VideoFile | Picture, pts_us: int) -> np.ndarray:
    """The picture of a moment, µs: the last frame up to half a raw frame after it, as on the time grid."""
    if isinstance(place, Picture):
        return read_picture(place.path)
    if isinstance(place, FrameFolder):
        return read_picture(place.path(min(round(pts_us * place.fps / 1_000_000), place.count - 1)))
    frames = frames_from(place.path, pts_us, seekable=place.seekable)
    shown = next(frames)
    for later in frames:
        if later.pts_us > pts_us + HALF_RAW_US:
            break
        shown = later
    return shown.rgb()
