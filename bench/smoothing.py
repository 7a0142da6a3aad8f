"""What smoothed scores are worth beside a keyframe's own: frame mAP, flicker, and whether they mean what they say.

    python -m bench.found_people DATA interaction,exercise,fall,caviar --into FOUND
    python -m bench.smoothing DATA FOUND -o bench/results/smoothing.json

On validation, on what the bundled model finds from a person score of 0.6 on, through the service's own tracks and
filters. Frame mAP by the rules of `trainer.evaluators.frames`, on the keyframes of the rate that are annotated; labels
are those that the set has on them and the model knows. **Flicker**: how often, each second that somebody is followed, a
label's score goes over 0.5 or under it again; ``held``: where what has gone over 0.5 stays until it is under 0.4, as
rules of events have it (`service/events/runs.py`); ``true_changes``: how often labels of people change by what is
annotated on the same keyframes, which a model that is always right has too; ``superfluous``: what goes beyond those
(`bench/flicker.py`). **ECE** and Brier score of action scores, of people who are found; ``ece_more``: by how much
smoothed ones have more, 95 % of what comes of videos that are drawn anew. ``told_after_s``: how long after a score a
smoothed one goes over 0.5 too, where the score stays there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import stmixer
from bench.flicker import (
    SAID_FROM,
    Numbers,
    Scores,
    changes_a_second,
    superfluous_a_second,
    told_after_s,
    true_changes_a_second,
    what_people_do,
)
from bench.hardware import measured_on
from bench.tracked_sets import RATES, Annotation, Floats, TrackedVideo, validation, with_found_people
from stmixer.model.smoothing import ActionScores, SmoothedActions
from stmixer.model.tracks import Tracks
from stmixer.service.events.runs import HOLD
from stmixer.trainer.evaluators.frames import (
    FRAMES_CUSTOM,
    FRAMES_CUSTOM_NEGATIVE,
    FrameProtocol,
    action_outcomes,
    evaluate_frames,
)
from stmixer.trainer.evaluators.reliability import reliability
from stmixer.trainer.evaluators.tables import UNKNOWN_ACTION, Detections, GroundTruth

SETS = ("interaction", "exercise", "fall", "caviar")
LEAST_SCORE = 0.6
LONGEST_S = 2.0
DRAWN = 1000
"""How often videos are drawn anew for an interval."""


@dataclass(frozen=True)
class Said:
    """Of a video, keyframe by keyframe: numbers of people, and their scores (people, labels), single and smoothed."""

    ids: list[list[int]]
    single: list[Floats]
    smoothed: list[Floats]


def followed(video: TrackedVideo, hz: int, labels: tuple[int, ...]) -> Said:
    """A video through a stream's tracks and filters."""
    tracks, filters = Tracks(), SmoothedActions()
    said = Said([], [], [])
    for k in video.keyframes:
        changes = tracks.update(k.at_s, k.boxes, k.height, max(LONGEST_S, 1.5 / hz), k.looks)
        scores = ActionScores(labels, k.scores)
        said.ids.append(changes.ids.tolist())
        said.single.append(k.scores)
        said.smoothed.append(filters.update(k.at_s, changes, scores, period_s=1 / hz, warming=k.warming))
    return said


@dataclass(frozen=True)
class Outcomes:
    """Of action scores that can be right or wrong (n,): in which video, the score, and whether it came true."""

    video: NDArray[np.str_]
    score: Floats
    there: NDArray[np.bool_]

    def ece(self, rows: NDArray[np.int64] | slice = slice(None)) -> float:
        """In %, of some of them."""
        return 100 * (reliability(self.score[rows], self.there[rows]).ece or 0.0)


@dataclass(frozen=True)
class Judged:
    """A set at a rate: what is true, who was found and followed, ``doing`` what (`flicker.what_people_do`).

    ``labels``: those of the set, by number; ``columns``: theirs in scores.
    """

    truth: GroundTruth
    videos: list[TrackedVideo]
    ids: Numbers
    doing: Scores
    labels: dict[int, str]
    columns: list[int]
    protocol: FrameProtocol

    def found(self, scores: Scores) -> Detections:
        """Of all people and labels."""
        rows = [
            (video.name, k.frame, box / (video.size * 2), label, float(score[column]))
            for video, told in zip(self.videos, scores, strict=True)
            for k, said in zip(video.keyframes, told, strict=True)
            for box, score in zip(k.boxes, said, strict=True)
            for label, column in zip(self.labels, self.columns, strict=True)
        ]
        names, frames, boxes, labels, values = (np.array(each) for each in zip(*rows, strict=True))
        return Detections(names, frames, boxes.clip(0, 1), labels, values)

    def outcomes(self, scores: Scores) -> Outcomes:
        """Of people who are found."""
        found = self.found(scores)
        counts, there = action_outcomes(self.truth, found, self.protocol)
        return Outcomes(found.video[counts], found.score[counts], there[counts])

    def figures(self, scores: Scores) -> dict[str, float]:
        """Of one kind of scores."""
        score = evaluate_frames(self.truth, self.found(scores), self.labels, self.protocol)
        outcomes = self.outcomes(scores)
        of_whom = self.videos, scores, self.ids, self.columns
        return {
            "map": round(100 * score.mean_ap, 1),
            "flicker": round(changes_a_second(*of_whom), 2),
            "held": round(changes_a_second(*of_whom, HOLD * SAID_FROM), 2),
            "superfluous": round(superfluous_a_second(*of_whom, self.doing), 2),
            "ece": round(outcomes.ece(), 1),
            "brier": round(100 * float(np.mean((outcomes.score - outcomes.there) ** 2)), 2),
        }


def ece_more(single: Outcomes, smoothed: Outcomes) -> list[float]:
    """By how much the ECE of smoothed scores is higher: the middle 95 % where videos are drawn anew, in %."""
    rng, names = np.random.default_rng(0), np.unique(single.video)
    rows = [np.flatnonzero(single.video == name) for name in names]
    more = []
    for _ in range(DRAWN):
        drawn = np.concatenate([rows[at] for at in rng.integers(len(rows), size=len(rows))])
        more.append(smoothed.ece(drawn) - single.ece(drawn))
    return [round(float(edge), 1) for edge in np.percentile(more, (2.5, 97.5))]


def truth_of(rows: list[Annotation], videos: list[TrackedVideo], numbers: dict[str, int]) -> GroundTruth:
    """What people say of the keyframes that ran."""
    ran = {(video.name, k.frame) for video in videos for k in video.keyframes}
    kept = [row for row in rows if (row.video, row.frame) in ran]
    return GroundTruth(
        np.array([row.video for row in kept]),
        np.array([row.frame for row in kept]),
        np.array([row.box for row in kept]),
        np.array([numbers.get(row.label, UNKNOWN_ACTION) for row in kept]),
        np.array([row.track for row in kept]),
    )


def main(
    data: Annotated[Path, typer.Argument(help="folder of custom sets (docs/data.md)")],
    found: Annotated[Path, typer.Argument(help="what bench.found_people has kept")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
) -> None:
    """Compare on every set at every rate."""
    known = stmixer.load().labels
    numbers, columns = {label.name: label.id for label in known}, {label.id: c for c, label in enumerate(known)}
    rows: list[dict[str, object]] = []
    for name in SETS:
        annotations = validation(data, name)[1]
        for hz in RATES:
            videos = with_found_people(data, found, name, hz, LEAST_SCORE)
            truth = truth_of(annotations, videos, numbers)
            labels = {label.id: label.name for label in known if label.id in set(truth.label.tolist())}
            told = [followed(video, hz, tuple(columns)) for video in videos]
            negative = name == "interaction"
            judged = Judged(
                truth, videos, [each.ids for each in told],
                what_people_do(truth, videos, list(labels), negative=negative),
                labels, [columns[label] for label in labels],
                FRAMES_CUSTOM_NEGATIVE if negative else FRAMES_CUSTOM,
            )  # fmt: skip
            single, smoothed = [each.single for each in told], [each.smoothed for each in told]
            row = {
                "set": name,
                "hz": hz,
                "keyframes": len({(str(v), int(f)) for v, f in zip(truth.video, truth.frame, strict=True)}),
                "true_changes": round(true_changes_a_second(truth, videos), 2),
                "single": judged.figures(single),
                "smoothed": judged.figures(smoothed),
                "ece_more": ece_more(judged.outcomes(single), judged.outcomes(smoothed)),
                "told_after_s": told_after_s(videos, single, smoothed, judged.ids, judged.columns),
            }
            rows.append(row)
            typer.echo(json.dumps(row))
    output.write_text(json.dumps({**measured_on(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
