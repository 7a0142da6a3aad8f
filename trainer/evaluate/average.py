"""The mean of several reports: JHMDB's figure is the mean over its three splits (paper §4.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from stmixer.trainer.errors import TrainError


@dataclass(frozen=True, slots=True)
class Average:
    """Means over ``reports`` of one protocol: ``frame_map`` 0..1 and ``video_map`` by threshold."""

    protocol: str
    reports: int
    frame_map: float
    video_map: dict[str, float]

    def __str__(self) -> str:
        tubes = "".join(f" · video mAP {name}: {100 * value:.2f} %" for name, value in self.video_map.items())
        return f"mean of {self.reports} reports ({self.protocol}): frame mAP {100 * self.frame_map:.2f} %{tubes}"


def average(paths: Sequence[Path]) -> Average:
    """Read the JSON reports of ``stmixer-train eval`` and average them.

    Raises:
        TrainError: fewer than two reports, one that cannot be read, or reports of different protocols.
    """
    if len(paths) < 2:
        raise TrainError("average wants two reports or more")
    reports = [_read(path) for path in paths]
    protocols = {(report["protocol"], report["iou"]) for report in reports}
    if len(protocols) != 1:
        named = ", ".join(sorted(f"{protocol} at IoU {iou}" for protocol, iou in protocols))
        raise TrainError(f"these reports follow different protocols: {named}")
    if any(report["mean_ap"] is None for report in reports):
        raise TrainError("a report has no mean average precision: its split holds no box of any label")
    thresholds = set.intersection(*(set(report.get("video_map") or {}) for report in reports))
    video = {name: fmean(report["video_map"][name] for report in reports) for name in sorted(thresholds)}
    return Average(reports[0]["protocol"], len(reports), fmean(r["mean_ap"] for r in reports), video)


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TrainError(f"{path} cannot be read as a report: {error}") from None
    if not isinstance(report, dict) or not {"protocol", "iou", "mean_ap"} <= report.keys():
        raise TrainError(f"{path} is no report of stmixer-train eval")
    return report
