"""A run's sets: read, labelled in one list, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from stmixer.media.grid import TimeGrid
from stmixer.model.clip import window
from stmixer.model.labels import AVA_LABELS, Label
from stmixer.model.zoo import VARIANTS
from stmixer.trainer.config.run import AvaSet, CustomSet, PictureSet, RunConfig, SetConfig, TubeSet
from stmixer.trainer.data.ava import read_ava
from stmixer.trainer.data.check import check_split
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.pictures import read_pictures
from stmixer.trainer.data.records import Part, Split, on_grid
from stmixer.trainer.data.tubes import read_tubes
from stmixer.trainer.errors import TrainError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run trains on and is evaluated on; ``labels`` in the logits' order."""

    labels: tuple[str, ...]
    train: tuple[ClipSource, ...]
    val: tuple[ClipSource, ...]


def load_data(config: RunConfig, parts: Sequence[Part] = ("train", "val")) -> RunData:
    """Read and check all sets of a run.

    Raises:
        TrainError: every fault of every set, a line each.
    """
    wanted = [(chosen, part) for part in parts for chosen in config.sets if part in chosen.parts]
    for part in parts:
        if all(its_part != part for _, its_part in wanted):
            raise TrainError(f"sets: none is used for {part}")
    splits = _all([partial(read_set, config, chosen, part) for chosen, part in wanted])
    labels = config.labels or tuple(dict.fromkeys(label for split in splits for label in split.labels))
    strange = [(split.name, label) for split in splits for label in split.labels if label not in labels]
    if strange:
        raise TrainError([f"{name}: label {label!r} is not in the run's list" for name, label in strange])
    if not labels:
        raise TrainError("no set holds a label; nothing can be learned but people")
    if lacking := [name for group in config.exclusive for name in group if name not in labels]:
        raise TrainError(f"exclusive names {', '.join(lacking)}, not among the run's labels")
    checked = _all([partial(check_split, split, config.check) for split in splits])
    grid = TimeGrid(window(VARIANTS[config.model].clip).grid_s)
    splits = [on_grid(s, grid) if _wants_grid(c, s) else s for (c, _), s in zip(wanted, checked, strict=True)]
    sources = [
        ClipSource.of(chosen, split, labels, config.exclusive)
        for (chosen, _), split in zip(wanted, splits, strict=True)
    ]
    train = tuple(s for s in sources if s.split.part == "train")
    return RunData(labels, train, tuple(s for s in sources if s.split.part == "val"))


def _wants_grid(chosen: SetConfig, split: Split) -> bool:
    return isinstance(chosen, CustomSet) and chosen.on_grid and split.part == "train"


def read_set(config: RunConfig, chosen: SetConfig, part: Part) -> Split:
    """One part of one set, its videos not looked at yet. Raises TrainError."""
    root = config.data_root / chosen.root
    if not root.is_dir():
        raise TrainError(f"{root} is not a folder")
    match chosen:
        case CustomSet():
            step = config.evaluate.every if part == "val" else None
            return read_custom(chosen, root, part, config.labels, step=step)
        case PictureSet():
            return read_pictures(chosen, root, part, config.labels)
        case AvaSet():
            return read_ava(chosen, root, part)
        case TubeSet():
            return read_tubes(chosen, root, part, config.split)


def label_list(names: Sequence[str]) -> tuple[Label, ...]:
    """The run's labels as a model file states them: AVA's with its numbers, others from 1."""
    ava = {label.name: label for label in AVA_LABELS}
    if all(name in ava for name in names):
        return tuple(ava[name] for name in names)
    return tuple(Label(i, name) for i, name in enumerate(names, start=1))


def _all(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Every job's result, or all their faults together."""
    results: list[T] = []
    faults: list[str] = []
    for job in jobs:
        try:
            results.append(job())
        except TrainError as error:
            faults += [line for line in error.lines if line not in faults]
    if faults:
        raise TrainError(faults)
    return results
