"""``stmixer-train calibrate``: run weights on the validation sets, fit, write the new weights.

Every set counts the same, whatever its number of keyframes, and so do sets of empty clips: what is seen there is part
of what a score of 0.6 means. Of actions every track counts the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from stmixer.model.card import CheckpointError
from stmixer.model.checkpoint import load, save
from stmixer.trainer.calibrate.logit_maps import Affine, Floats, PersonMap, fit_actions, fit_person, fold
from stmixer.trainer.calibrate.samples import Samples, gather
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError, writing
from stmixer.trainer.evaluate.network import load_network
from stmixer.trainer.evaluate.page import write_diagrams
from stmixer.trainer.evaluate.plots import reliability_diagram
from stmixer.trainer.evaluate.report import Json, bins
from stmixer.trainer.evaluators.people import PERSON_THRESHOLD
from stmixer.trainer.evaluators.reliability import Reliability, reliability


@dataclass(frozen=True, slots=True, eq=False)
class LogitMaps:
    """What is done to logits."""

    person: PersonMap
    actions: Affine


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationFigures:
    """How honest scores are: both reliabilities, and what a person score of 0.6 lets through."""

    person: Reliability
    action: Reliability
    recall: float
    false_per_empty_keyframe: float | None

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return {
            "person_reliability": bins(self.person),
            "action_reliability": bins(self.action),
            "recall": self.recall,
            "false_per_empty_keyframe": self.false_per_empty_keyframe,
        }


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationResult:
    """The maps, and what they do. ``held_out``: each half of the videos under maps fitted on the other half, which is
    what ``after`` would be on videos that nobody fitted; None where a half is too little to fit on."""

    labels: tuple[str, ...]
    maps: LogitMaps
    before: CalibrationFigures
    after: CalibrationFigures
    held_out: CalibrationFigures | None

    def rows(self) -> dict[str, CalibrationFigures]:
        """What was measured, by its name."""
        given = {"before": self.before, "after": self.after}
        return given if self.held_out is None else given | {"held out": self.held_out}

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        person, actions = self.maps.person, self.maps.actions
        biases = dict(zip(self.labels, actions.bias.tolist(), strict=True))
        return {
            "person": {"scale": person.scale, "start_scale": person.start_scale, "bias": person.bias},
            "actions": {"scale": actions.scale, "bias": biases},
            **{name: measured.as_dict() for name, measured in self.rows().items()},
        }

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title="calibration")
        table.add_column("")
        for head in ("person ECE", "action ECE", "recall", "false people per empty keyframe"):
            table.add_column(head, justify="right")
        for name, m in self.rows().items():
            cells = (m.person.ece, m.action.ece, m.recall, m.false_per_empty_keyframe)
            table.add_row(name, *("–" if value is None else f"{value:.3f}" for value in cells))
        return table

    def write_page(self, path: Path, title: str) -> None:
        """The diagrams."""
        shown = {
            name: (reliability_diagram(m.person, "person"), reliability_diagram(m.action, "action"))
            for name, m in self.rows().items()
        }
        write_diagrams(path, title, shown)


@dataclass(frozen=True, slots=True)
class Calibrator:
    """What to run on what. ``progress`` is told batches done and in all."""

    config: RunConfig
    weights: Path
    device: torch.device
    progress: Callable[[int, int], None] | None = None

    def run(self, out: Path) -> CalibrationResult:
        """Write calibrated weights, and beside them the figures (.json) and diagrams (.html).

        Raises:
            TrainError: weights or data that cannot be used, nothing to fit on, a file that cannot be written.
        """
        network = load_network(self.weights, self.device)
        labels = tuple(label.name for label in network.card.labels)
        data = load_data(self.config.model_copy(update={"labels": labels}), ("val",))
        done = calibrate(gather(network, data.val, self.config, self.device, self.progress), labels)
        sets = ", ".join(source.split.name for source in data.val)
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                model = load(self.weights)
            except CheckpointError as error:
                raise TrainError(str(error).splitlines()) from None
            fold(model.detector, done.maps.person, done.maps.actions)
            origin = f"{model.card.source or self.weights.name}; calibrated on {sets}"
            save(out, model.detector.state_dict(), replace(model.card, source=origin))
            figures = json.dumps(done.as_dict(), indent=1, allow_nan=False)
            out.with_suffix(".json").write_text(figures + "\n", encoding="utf-8")
            done.write_page(out.with_suffix(".html"), f"Calibration of {self.weights.name} on {sets}")
        return done


def calibrate(samples: Samples, labels: tuple[str, ...]) -> CalibrationResult:
    """Fit and measure. Raises TrainError where there is nothing to fit on."""
    maps = _fit(samples)
    before = LogitMaps(PersonMap(), Affine(1.0, np.zeros(len(labels))))
    plain, mapped = (_measure(samples, (m, m)) for m in (before, maps))
    return CalibrationResult(labels, maps, plain, mapped, _held_out(samples))


def _held_out(samples: Samples) -> CalibrationFigures | None:
    try:
        first, second = (_fit(samples.half(half)) for half in (0, 1))
    except TrainError:
        return None
    return _measure(samples, (second, first))


def _fit(samples: Samples) -> LogitMaps:
    """Of actions, people count whom the fitted person score reports."""
    person = fit_person(samples.person)
    reported = person.scores(samples.action_person_logits, samples.action_starts) >= PERSON_THRESHOLD
    return LogitMaps(person, fit_actions(samples.actions.take(reported)))


def _measure(samples: Samples, maps: tuple[LogitMaps, LogitMaps]) -> CalibrationFigures:
    """With one pair of maps for each half of the videos."""
    everyone, found = samples.person, (samples.action_person_logits, samples.action_starts)
    person = _halved(samples.person_half, [m.person.scores(everyone.logits, everyone.starts) for m in maps])
    of_found = _halved(samples.action_half, [m.person.scores(*found) for m in maps])
    actions = _halved(samples.action_half, [m.actions.scores(samples.actions.logits) for m in maps])
    counts = samples.actions.annotated & (of_found >= PERSON_THRESHOLD)[:, None]
    reported = person >= PERSON_THRESHOLD
    false = int((reported & samples.on_empty).sum())
    return CalibrationFigures(
        person=reliability(person, samples.person.right),
        action=reliability(actions[counts], samples.actions.there[counts]),
        recall=int((reported & samples.person.right).sum()) / max(samples.people, 1),
        false_per_empty_keyframe=false / samples.empty_keyframes if samples.empty_keyframes else None,
    )


def _halved(half: np.ndarray, scores: list[Floats]) -> Floats:
    return np.where(half.reshape(-1, *[1] * (scores[0].ndim - 1)) == 0, scores[0], scores[1])
