"""One lesson from its folder to served weights, phase by phase. What is done is kept: the same lesson again goes on.

Beside ``NAME.safetensors`` its folder ``NAME.teach`` holds ``drafts/`` (who is in each clip), ``draft.html`` (who was
taken for the actor), the sets ``taught/`` and ``none/``, ``run.yaml``, the run of these clips and settings in
``runs/``, and ``report/``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from stmixer.model.named import weights_named
from stmixer.trainer.annotate.person_detector import PersonDetector, PersonFinder
from stmixer.trainer.calibrate.run import Calibrator
from stmixer.trainer.config.file import load_config
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.errors import TrainError, writing
from stmixer.trainer.evaluate.evaluation import Evaluation
from stmixer.trainer.teach.asked import Base, Lesson, check_asked
from stmixer.trainer.teach.clips import (
    LabelledClip,
    SkippedClip,
    check_clips,
    empty_folders,
    find_clips,
    is_handed,
    labels_of,
    look,
)
from stmixer.trainer.teach.done import Done
from stmixer.trainer.teach.drafts import DraftedClip, Drafts
from stmixer.trainer.teach.figures import Figures
from stmixer.trainer.teach.model_people import ModelPeople
from stmixer.trainer.teach.outcome import is_whole, write_outcome
from stmixer.trainer.teach.page import draft_page
from stmixer.trainer.teach.split import ClipPart, split_clips
from stmixer.trainer.teach.taught_set import TaughtSets, write_sets
from stmixer.trainer.teach.told import Teller
from stmixer.trainer.training.fit import fit
from stmixer.trainer.training.run_folder import MAY_CHANGE

SEGMENT_BYTES = 10 << 20
"""What the maps of one segment take on disk, at most."""

_MOST_WORKERS = 4
_OF_A_RUN = re.compile(r"[0-9a-f]{12}")
"""The names of runs' folders, as _state gives them."""


def teach(lesson: Lesson, tell: Teller) -> Figures:
    """Carry a lesson out.

    Raises:
        TrainError: one line that says what to do, for each thing that is wrong.
        DivergedError: training came to no numbers.
        KeyboardInterrupt: somebody stopped it.
    """
    base = check_asked(lesson)
    clips, skipped = _looked(lesson, tell)
    drafts, more = _drafted(lesson, tell, clips, base)
    sets, parts = _written(lesson, tell, drafts, labels_of(clips), [*skipped, *more])
    config = _configured(lesson, sets, labels_of(clips), base)
    done = Done.read(config.run_dir)
    if done is not None and is_whole(lesson.output) and _sha256(lesson.output) == done.sha256:
        tell.note(f"nothing has changed since {lesson.output} was made")
        return done.figures
    _forget_others(lesson.work / "runs", config.run_dir.name)
    weights = _trained(config, tell)
    weights = _calibrated(config, weights, tell)
    with tell.doing("evaluate", "how good it is, on the clips that were kept to check by"):
        result = Evaluation(config, weights, "val", torch.device("cpu"), tell.progress).run(lesson.work / "report")
        figures = Figures.of(result, "taught")
        tell.done(f"{figures.says()}; see {lesson.work / 'report' / 'taught.html'}")
    with tell.doing("write", "the weights, and graphs for machines without PyTorch"):
        learned = sum(part == "train" for part in parts.values())
        trained_on = f"{learned} clips of {lesson.folder.resolve().name} (stmixer teach)"
        write_outcome(weights, lesson.output, lesson.weights, trained_on, figures)
        Done(_sha256(lesson.output), figures).write(config.run_dir)
        shutil.rmtree(config.run_dir / "features", ignore_errors=True)
        tell.done(f"{lesson.output}, with its card and ONNX graphs beside it")
    if not figures.recall:
        tell.note(
            f"nobody is found on the clips that were kept to check by: {lesson.output} says of itself that it is not "
            f"trained; look at {lesson.work / 'draft.html'}, and at whether people can be seen in the clips"
        )
    return figures


def _looked(lesson: Lesson, tell: Teller) -> tuple[list[LabelledClip], list[SkippedClip]]:
    """The clips that can be read. Raises TrainError."""
    with tell.doing("look", "reading the clips"):
        found = find_clips(lesson.folder, lesson.work)
        clips, skipped = look(found, tell.progress)
        labels, none = labels_of(clips), sum(clip.label is None for clip in clips)
        of_none = f" and {none} of none of them" if none else ""
        tell.done(f"{len(clips) - none} clips of {', '.join(labels) or 'no label'}{of_none}")
        for clip in skipped:
            tell.note(f"{clip.path} is left out: {clip.reason}")
        for empty in empty_folders(lesson.folder, found):
            tell.note(f"{empty} holds no video")
        check_clips(clips, labels_of(found), lesson.folder, skipped, others=bool(lesson.negatives))
    return clips, skipped


def _drafted(
    lesson: Lesson, tell: Teller, clips: Sequence[LabelledClip], base: Base
) -> tuple[list[DraftedClip], list[SkippedClip]]:
    """All clips that can be decoded, with their people. Raises TrainError."""
    detector = lesson.detector

    def finder() -> PersonFinder:
        return ModelPeople(lesson.weights) if detector is None else PersonDetector(detector)

    of = base.digest if detector is None else _sha256(detector)
    with tell.doing("draft", "finding who is in the clips"):
        drafts, skipped = Drafts(lesson.work / "drafts", finder, of).draft(clips, tell.progress)
        for clip in skipped:
            tell.note(f"{clip.path} is left out: {clip.reason}")
        labelled = [draft for draft in drafts if draft.clip.label is not None]
        found = sum(draft.actor is not None for draft in labelled)
        tell.done(f"somebody in {found} of {len(labelled)} clips")
    return drafts, skipped


def _written(
    lesson: Lesson,
    tell: Teller,
    drafts: Sequence[DraftedClip],
    labels: Sequence[str],
    skipped: Sequence[SkippedClip],
) -> tuple[TaughtSets, dict[str, ClipPart]]:
    """The sets and the page of pictures. Raises TrainError."""
    used = [draft for draft in drafts if draft.clip.label is None or draft.actor is not None]
    nobody = [SkippedClip(d.clip.path, "nobody was found in it") for d in drafts if d not in used]
    for clip in nobody:
        tell.note(f"{clip.path} is left out: {clip.reason}")
    clips = [draft.clip for draft in used]
    page = lesson.work / "draft.html"
    try:
        check_clips(clips, labels, lesson.folder, [*nobody, *skipped], others=bool(lesson.negatives))
        parts = split_clips(clips, lesson.folder)
    except TrainError:
        with writing(page):
            page.write_text(draft_page(drafts, {}, skipped), encoding="utf-8")
        raise
    with writing(page):
        page.write_text(draft_page(drafts, parts, skipped), encoding="utf-8")
    tell.note(f"{page} shows who was taken for the actor")
    sets = write_sets(lesson.work, used, parts, labels, lesson.negatives)
    if len(labels) == 1 and sets.none is None:
        check_clips(clips, labels, lesson.folder)
    return sets, parts


def _configured(lesson: Lesson, sets: TaughtSets, labels: Sequence[str], base: Base) -> RunConfig:
    """``run.yaml``, which `stmixer-train` reads too, as a configuration. Its run lies in a folder that is named after
    all that it depends on. Raises TrainError."""
    chosen: list[dict[str, Any]] = [{"kind": "custom", "root": "taught", "on_grid": True, "weight": 0.7}]
    if sets.none is not None:
        parts = list(sets.none_parts)
        chosen.append({"kind": "custom", "root": "none", "on_grid": True, "weight": 0.3, "parts": parts})
    weights = lesson.weights if weights_named(lesson.weights) is not None else lesson.weights.resolve()
    cores = len(os.sched_getaffinity(0))
    values: dict[str, Any] = {
        "preset": "teach",
        "run_dir": "runs/new",
        "labels": list(labels),
        "sets": chosen,
        "init": {"weights": str(weights)},
        "workers": min(cores - 2, _MOST_WORKERS) if cores > 2 else 0,
    } | base.values()
    if any(is_handed(label) for label in labels):
        values["augment"] = {"flip": 0.0}  # in a mirror left is right
    file = lesson.work / "run.yaml"
    with writing(file):
        file.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
        run = Path("runs") / _state(load_config(file, lesson.settings), sets, base.digest)
        values["run_dir"] = str(run)
        file.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load_config(file, lesson.settings)


def _state(config: RunConfig, sets: TaughtSets, base: str) -> str:
    """A name for all that a run's weights depend on: configuration, sets, and what it starts from."""
    values = {key: value for key, value in config.model_dump(mode="json").items() if key not in MAY_CHANGE}
    state = hashlib.sha256(json.dumps([base, values, config.epochs]).encode())
    for root in [sets.taught, *([] if sets.none is None else [sets.none])]:
        for table in ("videos.csv", "boxes.csv"):
            state.update((root / table).read_bytes())
    return state.hexdigest()[:12]


def _forget_others(runs: Path, name: str) -> None:
    """Delete the runs of clips or settings that are no more, and nothing that no lesson made."""
    for other in runs.glob("*") if runs.is_dir() else ():
        if other.name != name and _OF_A_RUN.fullmatch(other.name) and not other.is_symlink():
            shutil.rmtree(other, ignore_errors=True)


def _trained(config: RunConfig, tell: Teller) -> Path:
    """The run's weights; one that was cut off goes on, one that is done is passed over. Raises TrainError."""
    folder = config.run_dir
    weights = folder / "weights.safetensors"
    if weights.exists():
        return weights
    _check_room(config)
    begun = (folder / "last.ckpt").exists()
    if not begun:  # cut off before its first step
        (folder / "config.yaml").unlink(missing_ok=True)
    with tell.doing("features", "seeing the clips, many times and ways, once and for all"):
        try:
            fit(config, resume=begun, progress=functools.partial(_learning, tell))
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
        tell.done("the best of what was learned is kept")
    return weights


def _learning(tell: Teller, doing: str, done: int, total: int) -> None:
    """A run's progress, by what it is doing."""
    if doing == "train" and tell.phase == "features":
        tell.done("all are seen")
        tell.next("learn", "learning from them; it ends early when it gets no better")
    tell.progress(done, total)


def _check_room(config: RunConfig) -> None:
    """Raises TrainError where the disk has no room for the features."""
    if config.cached_features is None:
        return
    there = config.run_dir
    while not there.exists():
        there = there.parent
    made = len(list((config.run_dir / "features").glob("*.npz")))
    needed, free = (config.cached_features.segments - made) * SEGMENT_BYTES, shutil.disk_usage(there).free
    if free < needed:
        raise TrainError(
            f"{there} has {free / 1e9:.1f} GB free and about {needed / 1e9:.1f} GB are needed while it learns; make "
            "room, or name a file on another disk with -o"
        )


def _calibrated(config: RunConfig, weights: Path, tell: Teller) -> Path:
    """Weights whose scores mean what they say, or those as they are where there is too little to tell."""
    output = weights.with_name("calibrated.safetensors")
    with tell.doing("calibrate", "making scores mean what they say"):
        try:
            Calibrator(config, weights, torch.device("cpu"), tell.progress).run(output)
        except TrainError as error:
            if "calibration:" not in str(error):
                raise
            tell.done(f"left as they are ({error})")
            return weights
        tell.done("a score of 0.6 is meant to be 60 %")
    return output


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
