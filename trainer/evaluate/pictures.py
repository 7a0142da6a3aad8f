"""Right and wrong pictures: what was found beside what is true, drawn with `media.draw`.

Three kinds, each the telling end of its list: ``right`` (the surest detections that are right), ``wrong`` (the surest
that are wrong) and ``missed`` (labelled people whom no reported detection of their label covers).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from PIL import Image

from stmixer.media.draw import Box, DrawnActor, draw_actors, tile
from stmixer.trainer.evaluators.frames import FrameProtocol, protocol_rows
from stmixer.trainer.evaluators.overlap import areas, overlaps
from stmixer.trainer.evaluators.people import PersonScore, one_row_each
from stmixer.trainer.evaluators.precision import RIGHT, WRONG, Score
from stmixer.trainer.evaluators.tables import (
    UNKNOWN_ACTION,
    UNKNOWN_TRACK,
    Detections,
    Floats,
    GroundTruth,
    Ints,
    PersonDetections,
    keys,
)

if TYPE_CHECKING:
    from stmixer.trainer.evaluate.predictions import Tables

Kind = Literal["right", "wrong", "missed"]
Table = TypeVar("Table", GroundTruth, Detections, PersonDetections)
ReadRgb = Callable[[str, int], "np.ndarray"]
KINDS: tuple[Kind, ...] = ("right", "wrong", "missed")
SHOWN_SCORE = 0.3
PICTURES_EACH = 8
"""Pictures of a kind."""
PERSON_LABEL: Mapping[int, str] = {0: "person"}
"""The list of labels of `as_one_label`."""
MANY = 6
"""People on a picture, from which on those whom it is not about have no text."""
_SHOWN_LABELS = 3
_UNKNOWN = "unlabelled"
_UNLISTED = "not in the list"


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """A picture worth a look.

    Attributes:
        label: the label that it is about.
        score: of the detection; None for a missed person.
        box: (4,) xyxy of the detection or the missed person.
    """

    kind: Kind
    video: str
    frame: int
    label: int
    score: float | None
    box: Floats


@dataclass(frozen=True, slots=True, eq=False)
class ReportPicture:
    """A drawn pick: a JPEG with what was found on the left and what is true on the right; ``what``, in words."""

    pick: Pick
    what: str
    jpeg: bytes

    @property
    def caption(self) -> str:
        """What it is and which frame."""
        return f"{self.what} · frame {self.pick.frame}"


def pick(
    truth: GroundTruth,
    found: Detections,
    score: Score,
    protocol: FrameProtocol,
    *,
    each: int = PICTURES_EACH,
    per_label: int = 2,
) -> list[Pick]:
    """Choose pictures: of each kind at most ``each``, at most ``per_label`` of a label, no picture twice in a kind.

    Args:
        score: of ``found`` against ``truth`` (`evaluate_frames` with the same protocol).
    """
    truth = protocol_rows(truth, found, protocol)[0]
    missed = missed_rows(truth, found, score)
    picks: list[Pick] = []
    for kind, wanted in (("right", RIGHT), ("wrong", WRONG)):
        rows = np.flatnonzero((score.verdict == wanted) & (found.score >= SHOWN_SCORE))
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        for row in _spread(found, rows, each, per_label):
            name: Kind = "right" if kind == "right" else "wrong"
            picks.append(pick_of(name, found, row, float(found.score[row])))
    for row in _spread(truth, missed, each, per_label):
        picks.append(pick_of("missed", truth, row, None))
    return picks


def as_one_label(
    truth: GroundTruth, people: PersonDetections, score: PersonScore
) -> tuple[GroundTruth, Detections, Score]:
    """Who is reported and who is there, as if to be a person were the one label: for `pick` and `draw`."""
    everybody = one_row_each(truth)[0]
    reported = people.score >= score.threshold
    shown = people.take(reported)
    nothing = np.zeros(len(shown), dtype=np.int64)
    found = Detections(shown.video, shown.frame, shown.boxes, nothing, shown.score, shown.unit)
    verdict = Score(score.protocol, score.iou, (), score.verdict[reported])
    return replace(everybody, label=np.zeros_like(everybody.label)), found, verdict


def draw(
    picks: list[Pick],
    truth: GroundTruth,
    found: Detections,
    labels: Mapping[int, str],
    read_rgb: ReadRgb,
    *,
    people: PersonDetections | None = None,
) -> list[ReportPicture]:
    """Draw the picks.

    Args:
        read_rgb: gives the (H, W, 3) uint8 RGB picture of (video, frame).
        people: whose score stands on a box, where one lies on the same box; without, its best action score does.
    """
    return [_drawn(p, truth, found, labels, read_rgb(p.video, p.frame), people) for p in picks]


def _drawn(
    p: Pick,
    truth: GroundTruth,
    found: Detections,
    labels: Mapping[int, str],
    rgb: np.ndarray,
    people: PersonDetections | None,
) -> ReportPicture:
    here, there = _on(found, p.video, p.frame), _on(truth, p.video, p.frame)
    shown = None if people is None else _on(people, p.video, p.frame)
    size = rgb.shape[1], rgb.shape[0]
    about = _to_pixels(p.box, truth.unit, size)
    left = draw_actors(rgb, _among_many(_found_actors(here, labels, shown, size, p), about))
    right = draw_actors(rgb, _among_many(_true_actors(there, labels, size), about))
    file = io.BytesIO()
    Image.fromarray(tile([left, right], 2)).save(file, "JPEG", quality=85)
    sure = "" if p.score is None else f" {p.score:.2f}"
    return ReportPicture(p, f"{p.kind}: {labels[p.label]}{sure} · {p.video}", file.getvalue())


def found_actors(given: Tables, p: Pick, frame: int, size: tuple[int, int]) -> list[DrawnActor]:
    """Who was found on another frame of a pick's video, for a picture of this size, px."""
    found, people = _on(given.actions, p.video, frame), _on(given.people, p.video, frame)
    about = p if frame == p.frame else replace(p, box=np.full(4, np.nan))
    return _shown_alike(_found_actors(found, given.labels, people, size, about), p, size, given)


def true_actors(given: Tables, p: Pick, frame: int, size: tuple[int, int]) -> list[DrawnActor]:
    """Who is there on another frame of a pick's video, for a picture of this size, px."""
    truth = _on(given.truth, p.video, frame)
    return _shown_alike(_true_actors(truth, given.labels, size), p, size, given)


def _shown_alike(actors: list[DrawnActor], p: Pick, size: tuple[int, int], given: Tables) -> list[DrawnActor]:
    return _among_many(actors, _to_pixels(p.box, given.truth.unit, size))


def _among_many(actors: list[DrawnActor], about_px: Box) -> list[DrawnActor]:
    """The same; in a crowd those whom the picture is not about as outlines alone, so that it can be read."""
    if len(actors) <= MANY:
        return actors
    return [actor if _touch(actor.box_px, about_px) else replace(actor, outline_only=True) for actor in actors]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _on(table: Table, video: str, frame: int) -> Table:
    return table.take((table.video == video) & (table.frame == frame))


def _found_actors(
    here: Detections, labels: Mapping[int, str], people: PersonDetections | None, size: tuple[int, int], p: Pick
) -> list[DrawnActor]:
    """One actor per box: its best labels that are likely enough to say, and the one that the picture is about."""
    actors = []
    for box in np.unique(here.boxes, axis=0):
        mine = here.take((here.boxes == box).all(1))
        order = np.argsort(-mine.score, kind="stable")
        sure = [at for at in order if mine.score[at] >= SHOWN_SCORE][:_SHOWN_LABELS]
        sure += [at for at in order if (p.box == box).all() and mine.label[at] == p.label and at not in sure]
        person = float(mine.score.max())
        if people is not None and (same := (people.boxes == box).all(1)).any():
            person = float(people.score[same].max())
        names = [(labels.get(int(mine.label[at]), _UNLISTED), float(mine.score[at])) for at in sure]
        actors.append(DrawnActor(_to_pixels(box, here.unit, size), person, names))
    return actors


def _true_actors(there: GroundTruth, labels: Mapping[int, str], size: tuple[int, int]) -> list[DrawnActor]:
    actors = []
    for row in np.unique(np.column_stack([there.boxes, there.track]), axis=0):
        mine = there.take((there.boxes == row[:4]).all(1) & (there.track == row[4]))
        names = [(labels.get(int(c), _UNKNOWN), 1.0) for c in mine.label.tolist()]
        track = None if row[4] == UNKNOWN_TRACK else int(row[4])
        actors.append(DrawnActor(_to_pixels(row[:4], there.unit, size), 1.0, names, track))
    return actors


def _to_pixels(box: Floats, unit: str, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (box * np.array([*size, *size]) if unit == "normalised" else box).tolist()
    return x1, y1, x2, y2


def missed_rows(truth: GroundTruth, found: Detections, score: Score) -> Ints:
    """Rows of ``truth`` with a label that no detection of that label, likely enough to say, covers; largest first."""
    shown = found.take(found.score >= SHOWN_SCORE)
    truth_key, shown_key = keys(truth, shown)
    i, j, overlap = overlaps(shown.boxes, truth.boxes, shown_key, truth_key, truth.unit)
    covered = (shown.label[i] == truth.label[j]) & (overlap >= score.iou)
    missed = truth.label != UNKNOWN_ACTION
    missed[j[covered]] = False
    rows = np.flatnonzero(missed)
    return rows[np.argsort(-areas(truth.boxes[rows], truth.unit), kind="stable")]


def _spread(table: GroundTruth | Detections, rows: Ints, each: int, per_label: int) -> list[int]:
    """The first rows, in their order, of differing labels and pictures."""
    chosen: list[int] = []
    seen: set[tuple[str, int]] = set()
    count: dict[int, int] = {}
    for row in rows.tolist():
        if len(chosen) == each:
            break
        picture, label = (str(table.video[row]), int(table.frame[row])), int(table.label[row])
        if picture in seen or count.get(label, 0) == per_label:
            continue
        seen.add(picture)
        count[label] = count.get(label, 0) + 1
        chosen.append(row)
    return chosen


def pick_of(kind: Kind, table: GroundTruth | Detections, row: int, score: float | None) -> Pick:
    """A row of a table as a pick."""
    return Pick(kind, str(table.video[row]), int(table.frame[row]), int(table.label[row]), score, table.boxes[row])
