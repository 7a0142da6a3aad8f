"""The clips that somebody teaches by: ``FOLDER/<label>/...`` and ``FOLDER/none/...``.

A clip's scene is the folder below its label's that it lies in, or what stands before ``__`` in its name; clips of a
scene are never on both sides of the split, whatever their labels. A clip without one is a scene of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError
from stmixer.model.clip import MAX_ASPECT, input_size
from stmixer.trainer.annotate.label import SUFFIXES
from stmixer.trainer.errors import TrainError, reading

NONE = "none"
"""The folder of clips in which nobody does any of what is taught."""

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".heic"})
"""What somebody may take for clips."""


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A video; ``name`` is its path from the folder on, ``label`` None where nobody does any of what is taught."""

    name: str
    path: Path
    label: str | None
    scene: str


@dataclass(frozen=True, slots=True)
class SkippedClip:
    """One that is left out, and why, in words."""

    path: Path
    reason: str


def find_clips(folder: Path, work: Path) -> list[LabelledClip]:
    """All clips of a folder, by name. ``work`` is a folder that may lie in it and holds none.

    Raises:
        TrainError: no folder, no clip in it, a label that cannot be one: one line that says what to do.
    """
    if not folder.is_dir():
        raise TrainError(f"{folder} is no folder; put your clips into {folder}/LABEL/, a folder for each label")
    with reading(folder):
        files = _files(folder, work.resolve())
    videos = [path for path in files if path.suffix.lower() in SUFFIXES]
    loose = [path for path in videos if path.parent == folder]
    if not videos:
        pictures = sum(path.suffix.lower() in PICTURES for path in files)
        found = f"{pictures} pictures and no video" if pictures else "no video"
        raise TrainError(f"{folder} holds {found}; put short videos of each action into {folder}/LABEL/")
    if loose:
        raise TrainError(f"{loose[0]} lies beside the labels; put every clip into the folder of its label")
    for path in videos:
        check_name(path)
    for label in sorted({path.relative_to(folder).parts[0] for path in videos}):
        if ";" in label:
            raise TrainError(f"a label may not have a semicolon in it; rename the folder {folder / label}")
        if label != label.strip() or not label.isprintable():
            shown = str(folder / label)
            raise TrainError(f"a label may not begin or end with a blank, nor break its line; rename {shown!r}")
    return [_clip(folder, path) for path in videos]


def check_name(path: Path) -> None:
    """Raises TrainError where a name is none that tables can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="surrogateescape").decode(errors="replace")
        raise TrainError(f"{shown}: its name is no UTF-8; rename it") from None


def empty_folders(folder: Path, clips: Sequence[LabelledClip]) -> list[Path]:
    """Labels' folders without a clip in them. Raises TrainError."""
    used = {Path(clip.name).parts[0] for clip in clips}
    with reading(folder):
        return sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in used and _counts(path))


def _files(folder: Path, work: Path) -> list[Path]:
    """All below a folder by name, through links too, but what is hidden, ``work`` and other lessons' folders. Raises
    OSError."""
    found: list[Path] = []
    left: list[tuple[Path, frozenset[Path]]] = [(folder, frozenset())]
    while left:
        place, above = left.pop()
        real = place.resolve()
        if real == work or real in above:  # a link to where it lies in has no end
            continue
        for path in place.iterdir():
            if path.is_dir():
                if _counts(path) if place == folder else not path.name.startswith("."):
                    left.append((path, above | {real}))
            elif path.is_file() and not path.name.startswith("."):
                found.append(path)
    return sorted(found)


def _counts(path: Path) -> bool:
    """Whether a folder may be a label's: it is not hidden, nor an earlier lesson's."""
    return not path.name.startswith(".") and path.suffix != ".teach"


def is_handed(label: str) -> bool:
    """Whether a label says left or right, as a word: ``turn_left``, ``LeftHand``, ``left-handed``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return any(word.lower().startswith(("left", "right")) for word in re.split(r"[\W\d_]+", words))


def _clip(folder: Path, path: Path) -> LabelledClip:
    name = path.relative_to(folder)
    label, *between = name.parts[:-1]
    before, mark, _ = path.stem.partition("__")
    scene = f"scene {between[0]}" if between else f"scene {before}" if mark and before else f"clip {name.as_posix()}"
    return LabelledClip(name.as_posix(), path, None if label.casefold() == NONE else label, scene)


def look(
    clips: Sequence[LabelledClip], progress: Callable[[int, int], None]
) -> tuple[list[LabelledClip], list[SkippedClip]]:
    """Those that open and show a picture of a shape that a model can see, and the others. ``progress`` is told how many
    were looked at, and of how many."""
    good: list[LabelledClip] = []
    skipped: list[SkippedClip] = []
    for number, clip in enumerate(clips, start=1):
        try:
            with VideoReader(clip.path, limits=Limits.unlimited(), threads=1) as reader:
                input_size(reader.info.width, reader.info.height, 256, 256 * MAX_ASPECT)
                next(iter(reader), None)
            good.append(clip)
        except (MediaError, OSError) as error:
            skipped.append(SkippedClip(clip.path, str(error)))
        progress(number, len(clips))
    return good, skipped


def labels_of(clips: Sequence[LabelledClip]) -> tuple[str, ...]:
    """What is taught, by name."""
    return tuple(sorted({clip.label for clip in clips if clip.label is not None}))


def check_clips(
    clips: Sequence[LabelledClip],
    labels: Sequence[str],
    folder: Path,
    skipped: Sequence[SkippedClip] = (),
    *,
    others: bool = False,
) -> None:
    """Whether there is enough to learn from.

    Args:
        clips: what can be used.
        labels: what is to be taught.
        skipped: what cannot be used; told where that is why.
        others: people of other sets do none of it, too.

    Raises:
        TrainError: one line for each label with too little, or one for all, that says what to do.
    """
    count = Counter(clip.label for clip in clips)
    why = f" ({len(skipped)} were left out, the first since: {skipped[0].reason})" if skipped else ""
    if not labels_of(clips):
        raise TrainError(f"{folder} holds no clip to learn from{why}; put short videos of people into {folder}/LABEL/")
    if few := [label for label in labels if count[label] < 2]:
        has = {0: f"no clip to use{why}; add two", 1: f"one clip{why}; add another one"}
        faults = [f"{label} has {has[count[label]]} to {folder / label}" for label in few]
        raise TrainError([f"{fault}: one to learn from, one to check it by" for fault in faults])
    if len(labels) == 1 and not count[None] and not others:
        raise TrainError(
            f"{labels[0]} alone cannot be told from anything; add the folder of another label, or {folder / NONE} with "
            "clips of people who do something else"
        )
