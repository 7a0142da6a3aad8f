"""Which clips are learned from, and which are kept to check by: whole scenes, for every label some of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from stmixer.trainer.errors import TrainError
from stmixer.trainer.teach.clips import LabelledClip, labels_of

SHARE = 0.25
"""Of a label's clips that are kept to check by, as near as scenes allow."""

ClipPart = Literal["train", "val"]


def split_clips(clips: Sequence[LabelledClip], folder: Path) -> dict[str, ClipPart]:
    """The part of every clip, by its name.

    The smallest scenes go first, by name where they are equal, so that the same folder is split the same way.

    Raises:
        TrainError: a line for each label whose clips are all of one scene, or of scenes that others need.
    """
    scenes: dict[str, list[LabelledClip]] = defaultdict(list)
    for clip in clips:
        scenes[clip.scene].append(clip)
    kept: set[str] = set()
    labels: list[str | None] = sorted(labels_of(clips), key=lambda label: (len(_scenes_of(label, scenes)), label))
    faults = []
    for label in [*labels, None]:
        own = _scenes_of(label, scenes)
        wanted = max(1, round(SHARE * sum(clip.label == label for clip in clips)))
        while sum(_count(label, scenes[scene]) for scene in kept) < wanted:
            free = [scene for scene in own if scene not in kept and _can_go(scene, kept, scenes)]
            if not free:
                break
            kept.add(min(free, key=lambda scene: (len(scenes[scene]), scene)))
        if label is not None and not any(scene in kept for scene in own):
            faults.append(
                f"{label} cannot be checked: {_where(own)}; add a clip of another scene to {folder / label}, or put "
                "clips that have nothing to do with each other into scenes of their own"
            )
    if faults:
        raise TrainError(faults)
    return {clip.name: "val" if clip.scene in kept else "train" for clip in clips}


def _scenes_of(label: str | None, scenes: Mapping[str, Sequence[LabelledClip]]) -> list[str]:
    return [scene for scene, clips in scenes.items() if _count(label, clips)]


def _count(label: str | None, clips: Sequence[LabelledClip]) -> int:
    return sum(clip.label == label for clip in clips)


def _can_go(scene: str, kept: set[str], scenes: Mapping[str, Sequence[LabelledClip]]) -> bool:
    """Whether every label of a scene has another one to learn from."""
    labels = {clip.label for clip in scenes[scene]}
    return all(any(other != scene and other not in kept for other in _scenes_of(label, scenes)) for label in labels)


def _where(scenes: Sequence[str]) -> str:
    return f"all its clips are of {scenes[0]}" if len(scenes) == 1 else "other labels need its scenes to learn from"
