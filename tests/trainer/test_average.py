"""The mean over splits, and what cannot be averaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stmixer.trainer.errors import TrainError
from stmixer.trainer.evaluate.average import average


def report(path: Path, mean_ap: float | None, video: dict[str, float], protocol: str = "frames-all") -> Path:
    path.write_text(json.dumps({"protocol": protocol, "iou": 0.5, "mean_ap": mean_ap, "video_map": video}))
    return path


def test_the_mean_over_three_splits(tmp_path: Path) -> None:
    values = [(0.80, {"0.2": 0.9, "0.5": 0.7}), (0.90, {"0.2": 0.8, "0.5": 0.6}), (0.70, {"0.2": 0.7})]
    mean = average([report(tmp_path / f"{i}.json", *value) for i, value in enumerate(values)])
    assert mean.frame_map == pytest.approx(0.80)
    assert mean.video_map == {"0.2": pytest.approx(0.80)}  # 0.5 is not in all of them
    assert "3 reports" in str(mean)
    assert "80.00 %" in str(mean)


def test_what_cannot_be_averaged(tmp_path: Path) -> None:
    one = report(tmp_path / "one.json", 0.5, {})
    with pytest.raises(TrainError, match="two reports"):
        average([one])
    with pytest.raises(TrainError, match="different protocols"):
        average([one, report(tmp_path / "two.json", 0.5, {}, "ava-uncapped")])
    with pytest.raises(TrainError, match="no mean average precision"):
        average([one, report(tmp_path / "none.json", None, {})])
    with pytest.raises(TrainError, match=r"missing\.json"):
        average([one, tmp_path / "missing.json"])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(TrainError, match="is no report"):
        average([one, tmp_path / "list.json"])
