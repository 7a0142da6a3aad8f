"""``stmixer-train label``: a first draft of person boxes for videos that nobody has annotated.

Writes a custom set (trainer.data.custom): ``videos.csv``, ``boxes.csv`` and links in ``videos/``, with one picture per
video in ``previews/``. Every box is of origin ``pseudo`` and has an empty label: a person puts the labels in and the
boxes right. Boxes stand on every n-th frame, those that were looked at; with 5, they are the evaluation keyframes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stmixer.media.errors import MediaError
from stmixer.trainer.annotate.draft import Draft, LabelOptions, draft_video, preview
from stmixer.trainer.annotate.person_detector import PersonDetector
from stmixer.trainer.data.records import Part
from stmixer.trainer.data.set_folder import make_folders, rate_text, write_tables
from stmixer.trainer.errors import TrainError, writing

SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv"),
        *(".flv", ".ogv", ".y4m", ".h264", ".hevc"),
    }
)
"""What counts as a video in a folder; a file that is named counts whatever it is called."""


@dataclass(slots=True)
class LabelResult:
    """What ``label`` did: the drafts, and (video, reason) of what was skipped."""

    drafts: list[Draft]
    skipped: list[tuple[Path, str]]


def label(
    sources: Sequence[Path],
    detector: PersonDetector,
    out: Path,
    options: LabelOptions,
    progress: Callable[[str, int, int], None] | None = None,
) -> LabelResult:
    """Draft a custom set. Every fifth video, or the last of two to four, is put into ``val``.

    Args:
        sources: videos, and folders that are searched for some.
        out: the set's folder; made where it is missing.
        progress: told a video's name, frames read and frames in all.

    Raises:
        TrainError: no video, none that can be read, two of one name, a folder that cannot be written or holds a set.
    """
    videos = find_videos(sources, out)
    _prepare(out, videos, options.force)
    done = LabelResult([], [])
    for name, path in videos.items():
        try:
            draft = draft_video(name, path, detector, options, progress)
        except MediaError as error:
            done.skipped.append((path, str(error)))
            continue
        with writing(out):
            _place(out, draft, path, options)
        done.drafts.append(draft)
    if not done.drafts:
        raise TrainError([f"{path} is skipped: {reason}" for path, reason in done.skipped] + ["no video can be read"])
    with writing(out):
        _write_tables(out, done.drafts, options.every)
    return done


def find_videos(sources: Sequence[Path], out: Path) -> dict[str, Path]:
    """Name in the set -> file, in order. A folder's videos are named from the folder on; nothing comes twice.

    Raises:
        TrainError: a line for each source that is missing or holds no video, and for two videos of one name.
    """
    found: dict[str, Path] = {}
    faults: list[str] = []
    seen: set[Path] = set()
    for source in sources:
        names = {source.name: source} if not source.is_dir() else _in_folder(source, out)
        if not source.exists():
            faults.append(f"{source} does not exist")
            continue
        if not names:
            faults.append(f"{source} holds no video ({' '.join(sorted(SUFFIXES))})")
        for name, path in names.items():
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if name in found:
                faults.append(f"{found[name]} and {path} would both be {name}: rename one")
            found.setdefault(name, path)
    if faults:
        raise TrainError(faults)
    return found


def _in_folder(folder: Path, out: Path) -> dict[str, Path]:
    """What lies in the folder, except in an output folder inside it."""
    top, own = folder.absolute(), out.absolute()
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())
    foreign = (path for path in files if top not in own.parents or own not in path.absolute().parents)
    return {path.relative_to(folder).as_posix(): path for path in foreign}


def _prepare(out: Path, videos: Mapping[str, Path], force: bool) -> None:
    """Before hours of work: the folder can be written, and holds nobody's corrections and no other videos."""
    there = [name for name in ("boxes.csv", "videos.csv") if (out / name).exists()]
    if there and not force:
        raise TrainError(f"{out} holds {' and '.join(there)}, perhaps corrected: name another folder, or add --force")
    targets = {path: out / "videos" / name for name, path in videos.items()}
    taken = [(path, target) for path, target in targets.items() if _is_other(target, path)]
    if taken:
        raise TrainError([f"{t} is another video than {p}: move it away, or name another folder" for p, t in taken])
    make_folders(out)


def _is_other(target: Path, path: Path) -> bool:
    """Whether a file stands there that is neither the video nor a copy or link of an earlier draft."""
    if target.is_symlink() or not target.exists():
        return False
    return not target.samefile(path) and target.stat().st_size != path.stat().st_size


def _place(out: Path, draft: Draft, path: Path, options: LabelOptions) -> None:
    """The video and its preview into the set."""
    target, origin = out / "videos" / draft.name, path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()
    if not target.exists():
        if options.copy:
            shutil.copyfile(origin, target)
        else:
            target.symlink_to(origin)
    picture = out / "previews" / f"{draft.name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(preview(draft, options.every)).save(picture)


def _write_tables(out: Path, drafts: Sequence[Draft], every: int) -> None:
    """Both files, each complete or not at all; boxes by video, frame and track."""
    videos, boxes = [], []
    for i, draft in enumerate(drafts):
        note = "draft: boxes to be checked" if draft.tracks else "draft: nobody found"
        part, rate = split_part(i, len(drafts)), rate_text(draft.fps)
        videos.append((draft.name, part, rate, draft.frames, draft.width, draft.height, note))
        boxes += _rows(draft, every)
    write_tables(out, videos, boxes)


def split_part(i: int, videos: int) -> Part:
    """Of the i-th of so many videos: every fifth is for validation, of two to four the last."""
    last_of_few = 1 < videos < 5 and i == videos - 1
    return "val" if i % 5 == 4 or last_of_few else "train"


def _rows(draft: Draft, every: int) -> list[tuple[object, ...]]:
    placed = [
        (step * every, number, [f"{v:.4f}" for v in np.clip(box, 0.0, 1.0)])
        for number, track in enumerate(draft.tracks)
        for step, box in zip(track.steps, track.boxes, strict=True)
    ]
    return [
        (draft.name, frame, *corners, "", number, "pseudo")
        for frame, number, corners in sorted(placed)
        if corners[0] != corners[2] and corners[1] != corners[3]  # a sliver at the edge, rounded away
    ]
