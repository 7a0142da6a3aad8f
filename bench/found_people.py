"""What the bundled model finds in validation videos of custom sets, kept to compare trackers and filters on.

    python -m bench.found_people DATA fall,interaction --into FOUND

Each video is looked at twice, at 8 keyframes a second and at 1; a rate is the nearest that the model's grid has (7.5
and 1). Of every keyframe all people with a person score of 0.1 or more are kept, with the scores of all actions and
what they are told apart by besides their boxes (``model.postprocess.looks_of``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import typer
from numpy.typing import NDArray

import stmixer
from stmixer.service.worker.runner import BatchResult, Job
from stmixer.trainer.data.csv_table import read_table

RATES = (8, 1)
KEPT_FROM = 0.1


@dataclass(frozen=True)
class Found:
    """A video's keyframes (n,) and the people in all of them (m,), boxes as shares of width and height."""

    pts_us: NDArray[np.int64]
    warming: NDArray[np.bool_]
    keyframe: NDArray[np.int64]
    boxes: NDArray[np.float64]
    person_scores: NDArray[np.float64]
    scores: NDArray[np.float32]
    looks: NDArray[np.float16]

    def write(self, path: Path) -> None:
        """Whole, or not at all."""
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **vars(self))
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Found:
        """What ``write`` has written."""
        with np.load(path) as stored:
            return cls(**{name: stored[name] for name in cls.__dataclass_fields__})


def place(folder: Path, name: str, video: str, hz: int) -> Path:
    """Where a video's is kept."""
    return folder / f"{name}.{video}.{hz}.npz"


def look_at(detector: stmixer.ActionDetector, video: Path, hz: int) -> Found:
    """Run the model over a video."""
    looks = list[NDArray[np.float16]]()
    run = detector._runner.run

    def noted(jobs: Sequence[Job]) -> BatchResult:
        done = run(jobs)
        looks.extend(done.looks)
        return done

    with patch.object(detector._runner, "run", noted):
        results = list(detector.detect(video, keyframe_hz=hz, score_threshold=KEPT_FROM))
    people = [(k, actor) for k, result in enumerate(results) for actor in result.actors]
    order = {label.id: column for column, label in enumerate(detector.labels)}
    scores = np.zeros((len(people), len(order)), np.float32)
    for row, (_, actor) in enumerate(people):
        for action in actor.actions:
            scores[row, order[action.id]] = action.score
    return Found(
        np.array([result.pts_us for result in results], np.int64),
        np.array([result.warming for result in results], np.bool_),
        np.array([k for k, _ in people], np.int64),
        np.array([actor.box for _, actor in people], np.float64).reshape(-1, 4),
        np.array([actor.person_score for _, actor in people], np.float64),
        scores,
        np.concatenate(looks),
    )


def main(
    data: Annotated[Path, typer.Argument(help="folder of custom sets (docs/data.md)")],
    sets: Annotated[str, typer.Argument(help="their names, with commas")],
    into: Annotated[Path, typer.Option(help="folder of what is found")],
) -> None:
    """Look at what has not been looked at yet."""
    detector = stmixer.load()
    into.mkdir(parents=True, exist_ok=True)
    for name in sets.split(","):
        for row in read_table(data / name / "videos.csv", ("video", "split")):
            for hz in RATES if row["split"] == "val" else ():
                path = place(into, name, row["video"], hz)
                if not path.exists():
                    look_at(detector, data / name / "videos" / row["video"], hz).write(path)


if __name__ == "__main__":
    typer.run(main)
