"""How often what is said of people changes, how often what they do does, and how often the one without the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from bench.tracked_sets import Floats, TrackedVideo
from stmixer.model.boxes import pairwise_iou
from stmixer.model.linking import pairs_of_most_gain
from stmixer.trainer.evaluators.tables import UNKNOWN_ACTION, GroundTruth

SAID_FROM = 0.5
SAME = 0.5
"""Of two boxes (intersection over union) that are one person's."""
STAYS_S = 1.0
"""A score that is over for so long is meant."""

Numbers = list[list[list[int]]]
"""Of each video and keyframe, its people's."""
Scores = list[list[Floats]]
"""Of each video and keyframe, (people, labels)."""


def changes_a_second(
    videos: list[TrackedVideo], scores: Scores, ids: Numbers, columns: list[int], until: float = SAID_FROM
) -> float:
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
    for (video, frame), there in _annotated(truth).items():
        for track, does in there.items():
            people.setdefault((video, track), {})[frame] = does
    changes, seconds = 0, 0.0
    for (video, _), frames in people.items():
        for (before, did), (now, does) in pairwise(sorted(frames.items())):
            changes += len((did ^ does) - {UNKNOWN_ACTION})
            seconds += at_s[video, now] - at_s[video, before]
    return changes / max(seconds, 1e-9)


def what_people_do(truth: GroundTruth, videos: list[TrackedVideo], labels: Sequence[int], *, negative: bool) -> Scores:
    """Of whom is found: 1 of what somebody in their place is annotated with, 0 of what not, NaN where nobody says.

    ``negative``: who is annotated with nothing does none of the labels.
    """
    annotated, result = _annotated(truth), []
    for video in videos:
        found = []
        for k in video.keyframes:
            doing = np.full((len(k.boxes), len(labels)), np.nan)
            overlap = pairwise_iou(k.true_boxes, k.boxes)
            for true, person in pairs_of_most_gain(np.where(overlap >= SAME, overlap, 0.0)):
                does = annotated[video.name, k.frame][k.true_ids[true]] - {UNKNOWN_ACTION}
                if does or negative:
                    doing[person] = [label in does for label in labels]
            found.append(doing)
        result.append(found)
    return result


def superfluous_a_second(
    videos: list[TrackedVideo], scores: Scores, ids: Numbers, columns: list[int], doing: Scores
) -> float:
    """How many of a label's changes go beyond those, up and down, that the same person's annotation makes on the same
    keyframes, a second of those. ``doing``: ``what_people_do``, in the order of ``columns``.
    """
    changes, seconds = 0, 0.0
    for video, told, numbers, does in zip(videos, scores, ids, doing, strict=True):
        people: dict[int, list[tuple[float, Floats, Floats]]] = {}
        for k, said, there, done in zip(video.keyframes, told, numbers, does, strict=True):
            for number, values, annotated in zip(there, said, done, strict=True):
                if not np.isnan(annotated).any():
                    shown = (values[columns] >= SAID_FROM).astype(np.float64)
                    people.setdefault(number, []).append((k.at_s, shown, annotated))
        for seen in people.values():
            seconds += seen[-1][0] - seen[0][0]
            shown, annotated = (np.diff(np.array(each), axis=0) for each in list(zip(*seen, strict=True))[1:])
            for way in (1, -1):
                changes += int(np.maximum((shown == way).sum(0) - (annotated == way).sum(0), 0).sum())
    return changes / max(seconds, 1e-9)


def told_after_s(
    videos: list[TrackedVideo], single: Scores, smoothed: Scores, ids: Numbers, columns: list[int]
) -> float | None:
    """How many seconds after a single score that goes over ``SAID_FROM`` for ``STAYS_S`` or longer a smoothed one is
    over it too, to the track's end where it never is: the mean, None where none does.
    """
    found = []
    for video, scores, told, numbers in zip(videos, single, smoothed, ids, strict=True):
        people: dict[int, list[tuple[float, Floats, Floats]]] = {}
        for k, said, shown, there in zip(video.keyframes, scores, told, numbers, strict=True):
            for number, one, other in zip(there, said, shown, strict=True):
                seen = (k.at_s, one[columns] >= SAID_FROM, other[columns] >= SAID_FROM)
                people.setdefault(number, []).append(seen)
        for each in people.values():
            at_s, over, over_too = (np.array(values) for values in zip(*each, strict=True))
            for before, label in np.argwhere(over[1:] & ~over[:-1] & ~over_too[:-1]):
                later = before + 1
                since = at_s[later:] - at_s[later]
                if since[-1] >= STAYS_S and over[later:, label][since <= STAYS_S].all():
                    after = np.flatnonzero(over_too[later:, label])
                    found.append(since[after[0] if len(after) else -1])
    return round(float(np.mean(found)), 1) if found else None


def _annotated(truth: GroundTruth) -> dict[tuple[str, int], dict[int, set[int]]]:
    """Of each keyframe its people's labels, by their tracks."""
    found: dict[tuple[str, int], dict[int, set[int]]] = {}
    rows = zip(*(each.tolist() for each in (truth.video, truth.track, truth.frame, truth.label)), strict=True)
    for video, track, frame, label in rows:
        found.setdefault((video, frame), {}).setdefault(track, set()).add(label)
    return found
