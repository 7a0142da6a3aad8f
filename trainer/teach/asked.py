"""What is asked of a lesson, and all of it that can be seen to be wrong before a clip is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stmixer.model.card import CheckpointError, ModelCard, read_header
from stmixer.model.zoo import VARIANTS, variant
from stmixer.trainer.config.file import check_values
from stmixer.trainer.errors import TrainError
from stmixer.trainer.teach.clips import check_name
from stmixer.trainer.teach.outcome import TAUGHT, beside, is_taught
from stmixer.trainer.teach.taught_set import check_set

_TEACHS_OWN: Mapping[str, str] = {
    "run_dir": "the run lies in the lesson's folder; -o says where that is",
    "data_root": "the sets lie in the lesson's folder; -o says where that is",
    "sets": "they are made of the clips; --negatives adds another",
    "labels": "they are the clips' folders",
    "phases": "a lesson has one",
    "model": "it is that of the weights; --weights names them",
    "init.weights": "--weights names them",
}
"""Keys of a run's configuration that a lesson sets itself, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is asked for.

    Attributes:
        folder: the clips.
        output: the weights file to write.
        weights: what to start from, and to find people by: a file, or the name of bundled weights.
        negatives: further sets in which nobody does what is taught, but where they say so.
        detector: a YOLOX file that finds people instead.
        settings: keys of a run's configuration, over the preset's.
    """

    folder: Path
    output: Path
    weights: Path = Path("stmixer-rt")
    negatives: tuple[Path, ...] = ()
    detector: Path | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def work(self) -> Path:
        """Where all lies but the outcome."""
        return self.output.with_suffix(".teach")


@dataclass(frozen=True, slots=True)
class Base:
    """What a lesson starts from: the digest of its tensors, and the realtime variant that it is of."""

    digest: str
    model: str

    def values(self) -> dict[str, Any]:
        """What of a run's configuration follows from it: who is found stays as it is where there is a head for it."""
        return {"model": self.model} | ({} if variant(self.model).decoder.cells else {"frozen": ["backbone."]})


def check_asked(lesson: Lesson) -> Base:
    """What the lesson starts from, once nothing is wrong with what is asked for.

    Raises:
        TrainError: one line that says what to do.
    """
    for path in (lesson.folder, lesson.output, *lesson.negatives):
        check_name(path.absolute())
    try:
        card, digest = read_header(lesson.weights)
    except CheckpointError as error:
        raise TrainError(str(error).splitlines()) from None
    base = Base(digest, _variant_of(card, lesson.weights))
    _check_output(lesson)
    _check_settings(lesson.settings or {}, base)
    if lesson.detector is not None and not lesson.detector.is_file():
        raise TrainError(f"{lesson.detector} does not exist; --detector wants a YOLOX file")
    for folder in lesson.negatives:
        check_set(folder)
    return base


def _variant_of(card: ModelCard, weights: Path) -> str:
    """The variant whose network the card describes, whatever it is called and however large its pictures are."""
    for name, config in VARIANTS.items():
        if config.backbone.per_frame:
            theirs = replace(card.config, name=name, preprocess=config.preprocess)
            if theirs == variant(name, classes=card.config.decoder.classes):
                return name
    known = ", ".join(name for name, config in VARIANTS.items() if config.backbone.per_frame)
    raise TrainError(f"{weights} ({card.name}) is of no realtime variant; teach starts from weights of {known}")


def _check_output(lesson: Lesson) -> None:
    """Nothing is written over but what an earlier lesson wrote. Raises TrainError."""
    output, weights = lesson.output, lesson.weights
    work, folder = lesson.work.resolve(), lesson.folder.resolve()
    if work == folder or work in folder.parents:
        raise TrainError(f"{lesson.work} is where the lesson's own files go; name another weights file with -o")
    if output.is_symlink() or (output.exists() and not output.is_file()):
        raise TrainError(f"{output} is a link or no file; name another weights file with -o")
    if output.exists() and weights.exists() and output.samefile(weights):
        raise TrainError(f"{output} is what the lesson starts from; name another weights file with -o")
    if is_taught(output):
        return
    if theirs := [path for path in (output, *beside(output)) if path.exists() or path.is_symlink()]:
        raise TrainError(
            f"{theirs[0]} exists and is not what `{TAUGHT}` made; name another weights file with -o, or move it away"
        )


def _check_settings(settings: Mapping[str, Any], base: Base) -> None:
    """Raises TrainError, a line for each key that is wrong."""
    init = settings.get("init")
    given = {*settings, *(f"init.{key}" for key in (init if isinstance(init, Mapping) else ()))}
    if faults := [f"--set {key}: {why}" for key, why in _TEACHS_OWN.items() if key in given]:
        raise TrainError(faults)
    sets = [{"kind": "custom", "weight": 1.0}]
    check_values({"preset": "teach", "run_dir": ".", "sets": sets} | base.values(), settings, "--set")
