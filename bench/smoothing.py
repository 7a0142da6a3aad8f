"""What smoothed scores are worth beside a keyframe's own: frame mAP, flicker, and whether they mean what they say.

    python -m bench.found_people DATA interaction,exercise,fall,caviar --into FOUND
    python -m bench.smoothing DATA FOUND -o bench/results/smoothing.json

On validation, on what the bundled model finds from a person score of 0.6 on, through the service's own tracks and
filters. Frame mAP by the rules of `trainer.evaluators.frames`, on the keyframes of the rate that are annotated; labels
are those that the set has on them and the model knows. **Flicker**: how often, each second that somebody is followed, a
label's score goes over 0.5 or under it again. **ECE** and Brier score of action scores, of people who are found.
``cost``: CPU time of a keyframe with 20 people and all labels of the bundled model, of tracks, filters and what they
change in its result.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import stmixer
from bench.hardware import measured_on
from bench.tracked_sets import RATES, Annotation, Floats, TrackedVideo, validation, with_found_people
from stmixer.model.clip import Window
from stmixer.model.smoothing import ActionScores, SmoothedActions
from stmixer.model.tracks import Tracks
from stmixer.service.engine.engine import result_of
from stmixer.service.engine.keyframes import KeyframeSchedule
from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.schemas import Action, Actor, DetectOptions
from stmixer.trainer.evaluators.frames import FRAMES_CUSTOM, FRAMES_CUSTOM_NEGATIVE, action_outcomes, evaluate_frames
from stmixer.trainer.evaluators.reliability import reliability
from stmixer.trainer.evaluators.tables import UNKNOWN_ACTION, Detections, GroundTruth

SETS = ("interaction", "exercise", "fall", "caviar")
LEAST_SCORE, SAID_FROM = 0.6, 0.5
LONGEST_S = 2.0
PEOPLE, KEYFRAMES = 20, 500


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
        changes = tracks.update(k.at_s, k.boxes, k.height, max(LONGEST_S, 1.5 / hz))
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
    changed = changes_a_second(videos, scores, ids, [columns[label] for label in labels])
    return {
        "map": round(100 * score.mean_ap, 1),
        "flicker": round(changed, 2),
        "ece": round(100 * (true_share or 0.0), 1),
        "brier": round(100 * float(np.mean((found.score[counts] - there[counts]) ** 2)), 2),
    }


def changes_a_second(
    videos: list[TrackedVideo], scores: list[list[Floats]], ids: list[list[list[int]]], columns: list[int]
) -> float:
    """How often the scores of people go over ``SAID_FROM`` or under it, each second that somebody is followed."""
    changes, seconds = 0, 0.0
    for video, told, numbers in zip(videos, scores, ids, strict=True):
        last: dict[int, tuple[float, Floats]] = {}
        for k, said, people in zip(video.keyframes, told, numbers, strict=True):
            for number, values in zip(people, said, strict=True):
                shown = values[columns] >= SAID_FROM
                if number in last:
                    changes += int((shown != last[number][1]).sum())
                    seconds += k.at_s - last[number][0]
                last[number] = k.at_s, shown
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


def cost(labels: tuple[int, ...]) -> dict[str, float]:
    """CPU ms a keyframe of all that a stream does to say who is who and what they have been doing; of five rounds."""
    rng, rounds = np.random.default_rng(0), []
    places = np.array([(30 + 60 * (n % 10), 90 + 120 * (n // 10)) for n in range(PEOPLE)], np.float64)
    around = np.array((-12, -60, 12, 0))
    window = Window((0,), Fraction(1, 15))
    for _ in range(5):
        schedule = KeyframeSchedule(window, 4.0, None)
        stream = Stream(0, "ws", "latest", schedule, DetectOptions(keyframe_hz=4), math.inf, lambda _: None)
        spent = 0.0
        for k in range(KEYFRAMES):
            values = rng.random((PEOPLE, len(labels)), dtype=np.float32)
            corners = places + rng.normal(0, 3, (PEOPLE, 2))
            boxes = (np.tile(corners, 2) + around).tolist()
            actors = [
                Actor(tuple(box), (0.0, 0.0, 1.0, 1.0), 0.9, tuple(map(Action, labels, map(str, labels), said)))
                for box, said in zip(boxes, values.tolist(), strict=True)
            ]
            pending = Pending(schedule.keyframe(k), 0.0, stream, width=640, height=360)
            pending.scores, result = ActionScores(labels, values), result_of(pending, tuple(actors), 0.0, 0.0, "")
            began = time.process_time()
            stream._track(pending, result)
            spent += time.process_time() - began
        rounds.append(1000 * spent / KEYFRAMES)
    return {"people": PEOPLE, "labels": len(labels), "cpu_ms": round(statistics.median(rounds), 3)}


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
            row = {"set": name, "hz": hz, "keyframes": judged}
            for kind in ("single", "smoothed"):
                scores = [getattr(each, kind) for each in told]
                row[kind] = figures(truth, videos, scores, ids, labels, columns, negative=name == "interaction")
            rows.append(row)
            typer.echo(json.dumps(row))
    output.write_text(json.dumps({**measured_on(), "rows": rows, "cost": cost(tuple(columns))}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
