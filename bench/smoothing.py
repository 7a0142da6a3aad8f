"""What smoothed scores are worth beside a keyframe's own: frame mAP, flicker, and whether they mean what they say.

    python -m bench.found_people DATA interaction,exercise,fall,caviar --into FOUND
    python -m bench.smoothing DATA FOUND -o bench/results/smoothing.json

On validation, on what the bundled model finds from a person score of 0.6 on, through the service's own tracks and
filters. Frame mAP by the rules of `trainer.evaluators.frames`, on the keyframes of the rate that are annotated; labels
are those that the set has on them and the model knows. **Flicker**: how often, each second that somebody is followed, a
label's score goes over 0.5 or under it again; ``held``: where what has gone over 0.5 stays until it is under 0.4, as
rules of events have it (`service/events/runs.py`); ``true_changes``: how often labels of people change by what is
annotated on the same keyframes, which a model that is always right has too. **ECE** and Brier score of action scores,
of people who are found.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import stmixer
from bench.hardware import measured_on
from bench.tracked_sets import RATES, Annotation, Floats, TrackedVideo, validation, with_found_people
from stmixer.model.smoothing import ActionScores, SmoothedActions
from stmixer.model.tracks import Tracks
from stmixer.service.events.runs import HOLD
from stmixer.trainer.evaluators.frames import FRAMES_CUSTOM, FRAMES_CUSTOM_NEGATIVE, action_outcomes, evaluate_frames
from stmixer.trainer.evaluators.reliability import reliability
from stmixer.trainer.evaluators.tables import UNKNOWN_ACTION, Detections, GroundTruth

SETS = ("interaction", "exercise", "fall", "caviar")
LEAST_SCORE, SAID_FROM = 0.6, 0.5
LONGEST_S = 2.0


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


def figures(
    truth: GroundTruth, videos: list[TrackedVideo], scores: list[list[Floats]], ids: list[list[list[int]]],
    labels: dict[int, str], columns: dict[int, int], *, negative: bool,
) -> dict[str, float]:  # fmt: skip
    """Of one kind of scores."""
    protocol = FRAMES_CUSTOM_NEGATIVE if negative else FRAMES_CUSTOM
    rows = [
        (video.name, k.frame, box / (video.size * 2), label, float(score[columns[label]]))
        for video, told in zip(videos, scores, strict=True)
        for k, said in zip(video.keyframes, told, strict=True)
        for box, score in zip(k.boxes, said, strict=True)
        for label in labels
    ]
    names, frames, boxes, said_labels, values = zip(*rows, strict=True)
    found = Detections(
        np.array(names), np.array(frames), np.array(boxes).clip(0, 1), np.array(said_labels), np.array(values)
    )
    score = evaluate_frames(truth, found, labels, protocol)
    counts, there = action_outcomes(truth, found, protocol)
    true_share = reliability(found.score[counts], there[counts]).ece
    known = [columns[label] for label in labels]
    return {
        "map": round(100 * score.mean_ap, 1),
        "flicker": round(changes_a_second(videos, scores, ids, known), 2),
        "held": round(changes_a_second(videos, scores, ids, known, HOLD * SAID_FROM), 2),
        "ece": round(100 * (true_share or 0.0), 1),
        "brier": round(100 * float(np.mean((found.score[counts] - there[counts]) ** 2)), 2),
    }


def changes_a_second(
    videos: list[TrackedVideo], scores: list[list[Floats]], ids: list[list[list[int]]], columns: list[int],
    until: float = SAID_FROM,
) -> float:  # fmt: skip
    """How often scores of people go over ``SAID_FROM``, or those over it under ``until``, a second that somebody is
    followed.
    """
    changes, seconds = 0, 0.0
    for video, told, numbers in zip(videos, scores, ids, strict=True):
        last: dict[int, tuple[float, Floats]] = {}
        for k, said, people in zip(video.keyframes, told, numbers, strict=True):
            for number, values in zip(people, said, strict=True):
                shown = values[columns] >= SAID_FROM
                if number in last:
                    shown = np.where(last[number][1], values[columns] >= until, shown)
                    changes += int((shown != last[number][1]).sum())
                    seconds += k.at_s - last[number][0]
                last[number] = k.at_s, shown
    return changes / max(seconds, 1e-9)


def true_changes_a_second(truth: GroundTruth, videos: list[TrackedVideo]) -> float:
    """How often what people do changes from one annotated keyframe to the next, each second that somebody is there."""
    at_s = {(video.name, k.frame): k.at_s for video in videos for k in video.keyframes}
    people: dict[tuple[str, int], dict[int, set[int]]] = {}
    rows = zip(*(each.tolist() for each in (truth.video, truth.track, truth.frame, truth.label)), strict=True)
    for video, track, frame, label in rows:
        people.setdefault((video, track), {}).setdefault(frame, set()).add(label)
    changes, seconds = 0, 0.0
    for (video, _), frames in people.items():
        for (before, did), (now, does) in pairwise(sorted(frames.items())):
            changes += len((did ^ does) - {UNKNOWN_ACTION})
            seconds += at_s[video, now] - at_s[video, before]
    return changes / max(seconds, 1e-9)


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
    rows = []
    for name in SETS:
        annotations = validation(data, name)[1]
        for hz in RATES:
            videos = with_found_people(data, found, name, hz, LEAST_SCORE)
            truth = truth_of(annotations, videos, numbers)
            labels = {label.id: label.name for label in known if label.id in set(truth.label.tolist())}
            told = [followed(video, hz, tuple(columns)) for video in videos]
            ids = [each.ids for each in told]
            judged = len({(str(v), int(f)) for v, f in zip(truth.video, truth.frame, strict=True)})
            changes = round(true_changes_a_second(truth, videos), 2)
            row = {"set": name, "hz": hz, "keyframes": judged, "true_changes": changes}
            for kind in ("single", "smoothed"):
                scores = [getattr(each, kind) for each in told]
                row[kind] = figures(truth, videos, scores, ids, labels, columns, negative=name == "interaction")
            rows.append(row)
            typer.echo(json.dumps(row))
    output.write_text(json.dumps({**measured_on(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
