"""What `stmixer teach` makes of a few clips, from a folder to served weights: time, and figures on clips it never saw.

    python -m bench.teach DATA -o bench/results/teach.json [--weights FILE] [--negatives SET]

DATA holds the sets `exercise` and `everyday` (docs/data.md). Folders are made of them, as a person would have them, and
the documented command is run on the first two:

- ``renamed``: three exercises under other names, UCF's groups 4 and 5 to learn from (a group is a scene), 6 to test.
- ``unknown``: five activities that the bundled weights have no label for, 4 clips each to learn from, the others to
  test, often of the same people. The bundled weights have seen most of these clips as what people do who do none of
  their labels; ``--weights`` of a training without them is the true test.
- ``others``: 30 clips of none of these labels, for both, of the half of ``everyday`` that the bundled weights were
  checked by: of the people of the other half they learned that these do nothing that they know.

Seconds are those of the wall and those of all processors together.
"""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import stmixer
from bench.hardware import measured_on

RENAMED = {"squat": "knee bend", "lunge": "long step", "jumping jack": "star jump"}
UNKNOWN = {
    "ex:plank": "plank",
    "ex:butt bridge": "butt bridge",
    "ex:bicycle crunch": "bicycle crunch",
    "ex:wall push-up": "wall push-up",
    "asl:sign language": "sign language",
}
LEARNED = 4
OTHERS = 30
SHOWN_FROM = 0.5
"""Action score from which a label is shown."""


@dataclass(frozen=True)
class Clip:
    """A video of a set: its file, what it is of, and the name that it gets in a folder of clips."""

    file: Path
    label: str
    name: str


@dataclass(frozen=True)
class Task:
    """What to learn from, and what to test."""

    name: str
    learn: Sequence[Clip]
    test: Sequence[Clip]


def renamed(exercise: Path) -> Task:
    """UCF's clips are called v_<class>_g<group>_c<clip>."""
    labels = {row["video"]: row["label"] for row in _rows(exercise / "boxes.csv") if row["label"]}
    learn, test = [], []
    for video, label in sorted(labels.items()):
        if label in RENAMED and video.startswith("v_"):
            group, number = video.removesuffix(".mp4").split("_")[-2:]
            clip = Clip(exercise / "videos" / video, RENAMED[label], f"{group}__{number}.mp4")
            (learn if group in ("g04", "g05") else test if group == "g06" else []).append(clip)
    return Task("renamed", learn, test)


def unknown(everyday: Path) -> Task:
    """The first clips of each source, by name, are learned from."""
    clips: dict[str, list[Clip]] = defaultdict(list)
    for row in sorted(_rows(everyday / "videos.csv"), key=lambda row: row["video"]):
        if row["source"] in UNKNOWN:
            label = UNKNOWN[row["source"]]
            clips[label].append(Clip(everyday / "videos" / row["video"], label, row["video"]))
    learn = [clip for of_label in clips.values() for clip in of_label[:LEARNED]]
    return Task("unknown", learn, [clip for of_label in clips.values() for clip in of_label[LEARNED:]])


def others(everyday: Path) -> list[Path]:
    """Clips in which nobody does anything that either task teaches, and which no weights were trained on, from the
    first to the last by name."""
    words = {*RENAMED, *UNKNOWN.values()}
    free = [
        everyday / "videos" / row["video"]
        for row in sorted(_rows(everyday / "videos.csv"), key=lambda row: row["video"])
        if row["split"] == "val" and not any(word in row["source"].casefold() for word in words)
    ]
    return [free[round(i * (len(free) - 1) / (OTHERS - 1))] for i in range(min(OTHERS, len(free)))]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def taught(task: Task, folder: Path, options: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The weights that the documented command makes, and what it took and said."""
    clips = folder / task.name
    for clip in task.learn:
        link = clips / clip.label / clip.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(clip.file.resolve())
    output = folder / f"{task.name}.safetensors"
    before, began = _cpu_s(), time.perf_counter()
    command = [sys.executable, "-m", "stmixer.cli", "teach", str(clips), "-o", str(output), "--json", *options]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    took = {"wall_s": round(time.perf_counter() - began, 1), "cpu_s": round(_cpu_s() - before, 1)}
    last = json.loads(said[-1])
    return output, took | {"learned_from": len(task.learn), "on_what_it_kept_to_check_by": last["figures"]}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def evaluated(weights: Path, task: Task, source: Path, folder: Path) -> dict[str, Any]:
    """mAP, recall and false people on the test clips, by the set's boxes under the new names."""
    names, root = {clip.file.name: clip.label for clip in task.test}, folder / "test"
    (root / "videos").mkdir(parents=True)
    for clip in task.test:
        (root / "videos" / clip.file.name).symlink_to(clip.file.resolve())
    for table in ("videos.csv", "boxes.csv"):
        rows = [row for row in _rows(source / table) if row["video"] in names]
        for row in rows:
            row.update({"split": "val"} if table == "videos.csv" else {"label": RENAMED.get(row["label"], "")})
        with (root / table).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    command = [sys.executable, "-m", "stmixer.trainer.cli", "eval", str(weights), "--custom", str(root), "--every", "5"]
    subprocess.run([*command, "-o", str(folder / "report")], stdout=subprocess.DEVNULL, check=True)
    (found,) = json.loads((folder / "report" / "summary.json").read_text())["sets"]
    kept = ("mean_ap", "person_recall", "false_people_per_keyframe", "keyframes")
    return {key: round(found[key], 3) for key in kept}


def top_labels(weights: Path, clips: Sequence[Clip]) -> dict[str, Any]:
    """The mean over the labels of the share of clips whose top label is right: that with the highest mean score of the
    largest person of each keyframe. A clip in which nobody is found is wrong."""
    detector = stmixer.load(weights)
    right: dict[str, list[bool]] = defaultdict(list)
    for clip in clips:
        scores: dict[str, float] = defaultdict(float)
        for result in detector.detect(clip.file, keyframe_hz=2):
            for actor in sorted(result.actors, key=_area)[-1:]:
                for action in actor.actions:
                    scores[action.name] += action.score
        right[clip.label].append(bool(scores) and max(scores, key=lambda name: scores[name]) == clip.label)
    shares = {label: round(sum(of) / len(of), 3) for label, of in right.items()}
    return {"mean": round(sum(shares.values()) / len(shares), 3), "by_label": shares, "clips": len(clips)}


def named(weights: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The share of keyframes on which any label is shown of anybody, of clips in which nobody does what it says."""
    detector = stmixer.load(weights)
    shown = [
        any(action.score >= SHOWN_FROM for actor in result.actors for action in actor.actions)
        for file in files
        for result in detector.detect(file, keyframe_hz=2)
    ]
    return {"share_of_keyframes": round(sum(shown) / len(shown), 3), "keyframes": len(shown), "clips": len(files)}


def _area(actor: stmixer.Actor) -> float:
    x1, y1, x2, y2 = actor.box_px
    return (x2 - x1) * (y2 - y1)


def main(
    data: Annotated[Path, typer.Argument(help="the folder of the sets")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    weights: Annotated[str, typer.Option(help="to start from")] = "stmixer-rt",
    negatives: Annotated[Path | None, typer.Option(help="as of `stmixer teach`; not everyday, which tests")] = None,
    only: Annotated[str | None, typer.Option(help="renamed or unknown; default: both")] = None,
) -> None:
    """Teach, test, and write down."""
    exercise, everyday = data / "exercise", data / "everyday"
    options = ["--weights", weights, *(["--negatives", str(negatives)] if negatives is not None else [])]
    tasks: Mapping[str, tuple[Task, Callable[[Path, Task, Path], dict[str, Any]]]] = {
        "renamed": (renamed(exercise), lambda made, task, folder: evaluated(made, task, exercise, folder)),
        "unknown": (unknown(everyday), lambda made, task, _: top_labels(made, task.test)),
    }
    result: dict[str, Any] = {
        "what": "stmixer teach: from a folder of clips to weights that are served",
        **measured_on(),
        "started_from": Path(weights).name,
        "negatives": None if negatives is None else negatives.name,
    }
    for name, (task, test) in tasks.items():
        if only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            made, took = taught(task, Path(folder), options)
            tested = test(made, task, Path(folder))
            clips = {"learned": _names(task.learn), "tested": _names(task.test)}
            result[name] = took | {"tested": tested, "named_of_others": named(made, others(everyday)), "clips": clips}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _names(clips: Sequence[Clip]) -> list[str]:
    return [clip.file.name for clip in clips]


if __name__ == "__main__":
    typer.run(main)
