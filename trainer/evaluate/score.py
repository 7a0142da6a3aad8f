"""Anybody's detections under AVA's two protocols, from the public files: no model, no video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from stmixer.trainer.errors import TrainError, reading
from stmixer.trainer.evaluators.ava import AVA_ACTIVITYNET, AVA_UNCAPPED, AvaProtocol, evaluate_ava
from stmixer.trainer.evaluators.ava_csv import read_detections, read_excluded, read_label_map, read_truth
from stmixer.trainer.evaluators.precision import Score

Read = TypeVar("Read")


def score_ava(
    detections: Path, truth: Path, labels: Path, excluded: Path | None = None
) -> list[tuple[AvaProtocol, Score]]:
    """Frame mAP at IoU 0.5 of a file of detections, by protocol; ``excluded`` None where no timestamp is.

    Raises:
        TrainError: a file that cannot be read as what it should be, or truth without a box of any label.
    """
    found, true = _read(detections, read_detections), _read(truth, read_truth)
    names = _read(labels, read_label_map)
    if not any(int(label) in names for label in true.label):
        raise TrainError(f"{truth}: no box has a label of {labels}")
    listed = None if excluded is None else _read(excluded, read_excluded)
    return [
        (protocol, evaluate_ava(true, found, names, protocol, excluded=listed))
        for protocol in (AVA_ACTIVITYNET, AVA_UNCAPPED)
    ]


def told(scores: list[tuple[AvaProtocol, Score]], *, by_label: bool) -> list[str]:
    """Lines for a reader: of each protocol its figure and its rules, and where asked for each label's."""
    lines = list[str]()
    for protocol, score in scores:
        lines.append(f"{protocol.name}: frame mAP at IoU {score.iou:g}: {100 * score.mean_ap:.4f} %")
        lines.append(f"  {protocol.rules}")
        if by_label:
            lines += [f"  {100 * one.ap:8.4f} %  {one.name}" for one in score.classes if one.ap is not None]
    return lines


def _read(path: Path, reader: Callable[[Path], Read]) -> Read:
    with reading(path):
        try:
            return reader(path)
        except TrainError:
            raise
        except ValueError as error:  # it names the file
            said = str(error)
            raise TrainError(said if str(path) in said else f"{path}: {said}") from None
