"""Sets of pictures: a folder with images.csv, boxes.csv and images/.

- images.csv: ``image, split`` (train or val) and whatever else; a row per picture.
- boxes.csv: ``image, x1, y1, x2, y2`` (0–1); ``posture`` (stand, sit, lie, crouch or unknown), ``crowd`` (1: an area to
  ignore), ``label`` (as in a custom set) and ``origin`` may be there; a row per box and label.

Every picture is a keyframe. One without rows shows nobody, which somebody has looked at.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from stmixer.trainer.config.run import PictureSet
from stmixer.trainer.data.csv_table import CORNERS, Row, corners, outside, read_table, yes
from stmixer.trainer.data.custom import NO_LABEL, origin_of
from stmixer.trainer.data.records import (
    POSTURES,
    UNKNOWN,
    Part,
    Picture,
    Rows,
    Split,
    Video,
    box_faults,
    build_split,
    disagreements,
)
from stmixer.trainer.errors import TrainError


def read_pictures(config: PictureSet, root: Path, part: Part, allowed: tuple[str, ...] | None) -> Split:
    """One split of a set of pictures.

    Args:
        config: the set.
        root: its folder.
        part: ``train`` or ``val``.
        allowed: the run's labels, where the run names them.

    Raises:
        TrainError: a line for every fault found in the two files.
    """
    name = config.name or root.resolve().name
    split_of = _read_images(root / "images.csv")
    path = root / "boxes.csv"
    table = read_table(path, ("image", *CORNERS))
    named = {row.get("label") for row in table} - set(NO_LABEL)
    held = tuple(dict.fromkeys(config.postures.values()))
    if allowed is not None and (strange := [label for label in (*sorted(named), *held) if label not in allowed]):
        raise TrainError(f"sets: {name} has {', '.join(strange)}, not among the run's labels")
    # what a posture says and what a label says, apart: a label of both has two columns
    columns = (*held, *sorted(named))
    images = [image for image, its_part in split_of.items() if its_part == part]
    postures = {str(posture): label for posture, label in config.postures.items()}
    rows, faults = _rows(path, table, split_of, images, columns, postures)
    if faults:
        raise TrainError(faults)
    split = build_split(
        name,
        part,
        columns,
        [Video(image, Picture(root / "images" / image)) for image in images],
        rows,
        empty_keyframes=[(i, 0) for i in range(len(images))],
        origin=origin_of({row.get("origin") or "true" for row in table if split_of[row["image"]] == part}),
    )
    # of whom the posture is said, it is also said which they do not have; so of who has a label of their own
    labels = tuple(dict.fromkeys(columns))
    named_too = split.actions[:, len(held) :].any(1, keepdims=True)
    by_posture = np.isin(labels, held) & (split.posture != 0)[:, None]
    by_label = np.isin(labels, sorted(named)) & named_too
    does = [split.actions[:, np.isin(columns, label)].any(1) for label in labels]
    actions = np.array(does, dtype=np.bool_).reshape(len(labels), len(split.crowd)).T
    return replace(split, labels=labels, actions=actions, annotated=np.asarray(by_posture | by_label, dtype=np.bool_))


def _read_images(path: Path) -> dict[str, str]:
    """The split of every picture. Raises TrainError, a line per fault."""
    split_of: dict[str, str] = {}
    faults = []
    for row in read_table(path, ("image", "split")):
        line, image, part = row.line, row["image"], row["split"]
        if part not in ("train", "val"):
            faults.append(f"{path}:{line}: split {part!r} is neither train nor val")
        if image in split_of:
            faults.append(f"{path}:{line}: {image} a second time")
        if outside(image):
            faults.append(f"{path}:{line}: image {image!r} is no name inside images/")
        split_of[image] = part
    if faults:
        raise TrainError(faults)
    return split_of


def _rows(
    path: Path,
    table: list[Row],
    split_of: dict[str, str],
    images: list[str],
    columns: tuple[str, ...],
    postures: dict[str, str],
) -> tuple[Rows, list[str]]:
    """The rows of the named pictures, one for each of a person's ``columns``: first the labels that postures are, then
    those of the file; and all faults of these rows, and of unknown pictures."""
    number = {image: i for i, image in enumerate(images)}
    faults: list[str] = []
    lines: list[int] = []
    picture, boxes, label, crowd, posture = [], [], [], [], []
    for row in table:
        line = row.line
        if row["image"] not in split_of:
            faults.append(f"{path}:{line}: image {row['image']!r} is not in images.csv")
            continue
        if row["image"] not in number:
            continue
        said, held = row.get("label"), row.get("posture") or POSTURES[0]
        try:
            box, area = corners(row), yes(row, "crowd")
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
            continue
        if held not in POSTURES:
            faults.append(f"{path}:{line}: posture {held!r} is none of {', '.join(POSTURES)}")
            continue
        if area:
            said, held = "", POSTURES[0]
        does = [columns.index(postures[held])] if held in postures else []
        if said not in NO_LABEL:
            does.append(len(columns) - 1 - columns[::-1].index(said))
        for its_label in does or [UNKNOWN]:
            picture.append(number[row["image"]])
            boxes.append(box)
            label.append(its_label)
            crowd.append(area)
            posture.append(POSTURES.index(held))
            lines.append(line)
    n = len(picture)
    rows = Rows.of(picture, [0] * n, boxes, label, [-1] * n, crowd, posture)
    wrong = {lines[row]: fault for row, fault in box_faults(rows.boxes_xyxy) + disagreements(rows)}
    return rows, faults + [f"{path}:{line}: {fault}" for line, fault in wrong.items()]
