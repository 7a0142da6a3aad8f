"""Linking frame detections into tubes, one label at a time.

The online, greedy linking of Singh et al. (Online Real-Time Multiple Spatiotemporal Action Localisation and
Prediction, ICCV 2017, section 3.3): frame by frame, the live tubes of a class choose by falling mean score, each the
best free detection that overlaps its last box; a tube that misses more than ``max_gap`` frames in a row ends; a
detection that nobody chose begins a tube; a tube's score is the mean of its detections' scores. It needs only the past,
so that it can also run on a live stream.

Deliberate deviations: a tube takes the detection of greatest **score + IoU** with its last box (the link energy of
Gkioxari and Malik, Finding Action Tubes, CVPR 2015) instead of greatest score, so that people who cross keep their own
tubes; missed frames are filled by straight lines between the boxes at both ends; there is no Viterbi trimming in time,
a tube is where its class scores at least ``min_score``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stmixer.model.linking import Association, pairs_by_turns
from stmixer.trainer.evaluators.overlap import iou
from stmixer.trainer.evaluators.tables import Detections, Ints, Keyframes, Tubes, codes, keys


@dataclass(frozen=True, slots=True)
class Linking:
    """How to link.

    Attributes:
        min_score: detections below it take no part.
        per_frame: detections of a class and frame that take part, best first.
        min_iou: least IoU with the tube's last box.
        max_gap: pictures in a row that a tube may miss; counted in pictures of the video, not in frames.
    """

    min_score: float = 0.05
    per_frame: int = 10
    min_iou: float = 0.1
    max_gap: int = 5

    def __post_init__(self) -> None:
        if self.per_frame < 1 or self.max_gap < 0 or not 0 <= self.min_iou <= 1:
            raise ValueError(f"cannot link with {self}")

    @property
    def association(self) -> Association:
        """When a tube goes on."""
        return Association(self.min_iou, self.max_gap)


@dataclass(slots=True)
class _Tube:
    """Rows of the detections chosen so far, the last one's picture number and the sum of scores."""

    rows: list[int]
    picture: int
    total: float = field(default=0.0)

    @property
    def score(self) -> float:
        return self.total / len(self.rows)


def link(found: Detections, how: Linking | None = None, *, pictures: Keyframes | None = None) -> Tubes:
    """Tubes of every video and label.

    Args:
        found: detections on frames or on keyframes.
        how: None for the defaults.
        pictures: all pictures that the detector looked at, so that one without detections counts as missed; None:
            those with a detection of any label.

    Returns:
        Tubes in the unit of ``found``; numbers rise with the first frame, from 0 per video and label.

    Raises:
        ValueError: a detection lies on none of the pictures.
    """
    how = how or Linking()
    frames, picture = _pictures(found, pictures)
    rows = np.flatnonzero(found.score >= how.min_score)
    video = codes(found.video)[0]
    rows = rows[np.lexsort((-found.score[rows], picture[rows], found.label[rows], video[rows]))]
    if not len(rows):
        none = found.take(rows)
        return Tubes(none.video, none.frame, none.label, none.label, none.score, none.boxes, none.unit)
    changes = np.diff(video[rows]) | np.diff(found.label[rows])
    numbered: list[tuple[int, _Tube]] = []
    for mine in np.split(rows, np.flatnonzero(changes) + 1):
        numbered += enumerate(_link_group(found, mine, picture, how))
    return _table(found, numbered, frames, picture)


def _pictures(found: Detections, pictures: Keyframes | None) -> tuple[Ints, Ints]:
    """Each picture's frame, by video, then frame; and the picture of each detection as an index into it."""
    looked = found if pictures is None else pictures
    looked_key, found_key = keys(looked, found)
    known, first = np.unique(looked_key, return_index=True)
    strange = ~np.isin(found_key, known)
    if strange.any():
        row = int(strange.argmax())
        raise ValueError(f"row {row} ({found.video[row]}, frame {found.frame[row]}) lies on none of the pictures")
    return looked.frame[first], np.searchsorted(known, found_key)


def _link_group(found: Detections, rows: Ints, picture: Ints, how: Linking) -> list[_Tube]:
    """Tubes of one video and label; ``rows`` by picture, then falling score."""
    live: list[_Tube] = []
    done: list[_Tube] = []
    for here in np.split(rows, np.flatnonzero(np.diff(picture[rows])) + 1):
        now = int(picture[here[0]])
        here = here[: how.per_frame]
        done += [t for t in live if not how.association.is_alive(t.picture, now)]
        live = [t for t in live if how.association.is_alive(t.picture, now)]
        free = _extend(live, found, here, now, how.association)
        live += [_Tube([row], now, float(found.score[row])) for row in free]
    return sorted(done + live, key=lambda t: (int(found.frame[t.rows[0]]), t.rows[0]))


def _extend(live: list[_Tube], found: Detections, here: Ints, now: int, association: Association) -> list[int]:
    """Let the live tubes choose among this picture's detections; returns the rows that nobody chose."""
    if not live:
        return [int(row) for row in here]
    last = found.boxes[[t.rows[-1] for t in live]]
    n, m = len(live), len(here)
    overlap = iou(np.repeat(last, m, axis=0), np.tile(found.boxes[here], (n, 1)), found.unit).reshape(n, m)
    gains = association.gains(overlap, found.score[here])
    pairs = pairs_by_turns(gains, sorted(range(n), key=lambda k: -live[k].score))
    for at, best in pairs:
        tube, row = live[at], int(here[best])
        tube.rows.append(row)
        tube.picture = now
        tube.total += float(found.score[row])
    taken = {best for _, best in pairs}
    return [int(row) for i, row in enumerate(here) if i not in taken]


def _table(found: Detections, numbered: list[tuple[int, _Tube]], frames: Ints, picture: Ints) -> Tubes:
    """One table of all tubes, each with a box on every picture from its first to its last."""
    shown, boxes = [], []
    for _, tube in numbered:
        here = frames[picture[tube.rows[0]] : picture[tube.rows[-1]] + 1]
        seen, corners = found.frame[tube.rows], found.boxes[tube.rows]
        shown.append(here)
        boxes.append(np.stack([np.interp(here, seen, corners[:, side]) for side in range(4)], axis=1))
    rows = np.repeat([tube.rows[0] for _, tube in numbered], [len(here) for here in shown])
    return Tubes(
        video=found.video[rows],
        frame=np.concatenate(shown),
        label=found.label[rows],
        tube=np.repeat([number for number, _ in numbered], [len(here) for here in shown]),
        score=np.repeat([tube.score for _, tube in numbered], [len(here) for here in shown]),
        boxes=np.concatenate(boxes),
        unit=found.unit,
    )
