"""Who is who, by IDF1, HOTA and identity switches, beside ByteTrack on the same detections.

    python -m bench.found_people DATA interaction,exercise,fall --into FOUND
    python -m bench.tracks DATA FOUND -o bench/results/tracks.json

In an environment of its own (``trackeval`` brings another OpenCV over ours) that has this project's and

    pip install trackeval==1.3.0 supervision==0.30.9

Figures are trackeval's, at its defaults (IDF1 and switches at an overlap of 0.5). ByteTrack is supervision's, with its
defaults and ``frame_rate`` the keyframe rate. ``caviar``: the detector sees the true boxes; ``made up``: 20 scenes by
seed (``made_up_scenes.py``); the others: what the bundled model finds from a person score of 0.6 on, judged where the
set says who is there. ``boxes``: ours without what the decoder knows of people; ``highest``: IDF1 of
whoever tells the same detections apart without a fault. A pooled figure counts all videos as one set.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from bench.hardware import measured_on
from bench.made_up_scenes import scene
from bench.tracked_sets import RATES, TrackedVideo, with_found_people, with_true_boxes
from stmixer.model.boxes import pairwise_iou
from stmixer.model.linking import pairs_of_most_gain
from stmixer.model.tracks import Tracks

SCENES = 20
LEAST_SCORE = 0.6
LONGEST_S = 2.0
SAME = 0.5
"""Of two boxes (intersection over union) that are one person's, as IDF1 has it by default."""
MODELLED = ("interaction", "exercise", "fall")


@dataclass(frozen=True)
class Told:
    """Whom a tracker names on a keyframe: numbers (n,) and where, corners in px (n, 4)."""

    ids: NDArray[np.int64]
    boxes: NDArray[np.float64]


Tracker = Callable[[TrackedVideo, int], list[Told]]


def ours(video: TrackedVideo, hz: int) -> list[Told]:
    """As a stream has it, at its default gap."""
    tracks, longest_s = Tracks(), max(LONGEST_S, 1.5 / hz)
    return [Told(tracks.update(k.at_s, k.boxes, k.height, longest_s, k.looks).ids, k.boxes) for k in video.keyframes]


def by_boxes(video: TrackedVideo, hz: int) -> list[Told]:
    """The same without what the decoder knows of people."""
    return ours(replace(video, keyframes=tuple([replace(k, looks=None) for k in video.keyframes])), hz)


def bytetrack(video: TrackedVideo, hz: int) -> list[Told]:
    """Supervision's."""
    import supervision

    tracker, told = supervision.ByteTrack(frame_rate=hz), []
    for k in video.keyframes:
        given = supervision.Detections(
            xyxy=k.boxes.astype(np.float32),
            confidence=k.person_scores.astype(np.float32),
            class_id=np.zeros(len(k.boxes), int),
        )
        found = tracker.update_with_detections(given)
        ids = [] if found.tracker_id is None else found.tracker_id
        told.append(Told(np.array(ids, np.int64), np.asarray(found.xyxy, np.float64).reshape(-1, 4)))
    return told


def highest_idf1(videos: list[TrackedVideo]) -> float:
    """In %, of whoever tells the same detections apart without a fault and names all of them: what is left of it is the
    detector's.
    """
    met = named = 0
    for k in (k for video in videos for k in video.keyframes if k.annotated):
        overlap = pairwise_iou(k.true_boxes, k.boxes)
        met += len(pairs_of_most_gain(np.where(overlap >= SAME, overlap, 0.0)))
        named += len(k.true_ids) + len(k.boxes)
    return round(100 * 2 * met / named, 1)


TRACKERS: dict[str, Tracker] = {"ours": ours, "boxes": by_boxes, "bytetrack": bytetrack}


def figures(videos: list[TrackedVideo], tracker: Tracker, hz: int) -> dict[str, float]:
    """IDF1 and HOTA in %, and switches."""
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        from trackeval.metrics import CLEAR, HOTA, Identity

        metrics = [HOTA(), Identity({"PRINT_CONFIG": False}), CLEAR({"PRINT_CONFIG": False})]
        scores: list[dict[str, Any]] = [{} for _ in metrics]
        for number, video in enumerate(videos):
            data = as_trackeval(video, tracker(video, hz))
            for metric, each in zip(metrics, scores, strict=True):
                each[str(number)] = metric.eval_sequence(data)
        hota, identity, clear = [m.combine_sequences(each) for m, each in zip(metrics, scores, strict=True)]
    return {
        "idf1": round(100 * float(identity["IDF1"]), 1),
        "hota": round(100 * float(np.mean(hota["HOTA"])), 1),
        "switches": int(clear["IDSW"]),
    }


def as_trackeval(video: TrackedVideo, told: list[Told]) -> dict[str, Any]:
    """One sequence as its metrics take it: numbers from 0 without gaps, the keyframes that are judged."""
    judged = [(k, t) for k, t in zip(video.keyframes, told, strict=True) if k.annotated]
    true, named = dict[int, int](), dict[int, int]()
    true_ids = [np.array([true.setdefault(n, len(true)) for n in k.true_ids], int) for k, _ in judged]
    named_ids = [np.array([named.setdefault(n, len(named)) for n in t.ids.tolist()], int) for _, t in judged]
    return {
        "gt_ids": true_ids,
        "tracker_ids": named_ids,
        "similarity_scores": [pairwise_iou(k.true_boxes, t.boxes) for k, t in judged],
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, named_ids)),
        "num_gt_ids": len(true),
        "num_tracker_ids": len(named),
        "num_timesteps": len(judged),
    }


def sets_at(data: Path, found: Path, hz: int) -> dict[str, list[TrackedVideo]]:
    """What is compared at a rate."""
    made_up = [scene(seed, hz) for seed in range(SCENES)]
    caviar = with_true_boxes(data, "caviar", hz)
    others = {name: with_found_people(data, found, name, hz, LEAST_SCORE) for name in MODELLED}
    return {"caviar": caviar, "made up": made_up, "caviar and made up": caviar + made_up, **others}


def main(
    data: Annotated[Path, typer.Argument(help="folder of custom sets (docs/data.md)")],
    found: Annotated[Path, typer.Argument(help="what bench.found_people has kept")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
) -> None:
    """Compare on every set at every rate."""
    warnings.simplefilter("ignore")  # supervision's of its own tracker
    rows = []
    for hz in RATES:
        for name, videos in sets_at(data, found, hz).items():
            keyframes = sum(k.annotated for video in videos for k in video.keyframes)
            row = {
                "set": name,
                "hz": hz,
                "videos": len(videos),
                "keyframes": keyframes,
                "highest": highest_idf1(videos),
            }
            rows.append(row | {each: figures(videos, tracker, hz) for each, tracker in TRACKERS.items()})
            typer.echo(json.dumps(rows[-1]))
    versions = {name: metadata.version(name) for name in ("trackeval", "supervision")}
    output.write_text(json.dumps({**measured_on(), "trackers": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
