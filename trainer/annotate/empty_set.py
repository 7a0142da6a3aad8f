"""``stmixer-train empties``: a set of person-free clips out of annotated ones, for training against false people.

Writes a custom set: ``videos.csv``, a ``boxes.csv`` without rows, ``videos/`` and contact sheets in ``previews/``, to
be looked at: a person whom neither the annotation nor the detector knew would be taught as background. Used with
``empty: true`` (trainer.config.run.CustomSet). Its videos keep the split of those they come from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stmixer.media.draw import draw_actors, tile
from stmixer.media.encode import Mp4Writer
from stmixer.media.errors import MediaError
from stmixer.trainer.annotate.empty_clips import AnnotatedVideo, EmptyClip, annotated_videos, empty_clips
from stmixer.trainer.annotate.person_detector import PersonDetector, Pixels
from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.custom import read_custom, video_names
from stmixer.trainer.data.records import Part
from stmixer.trainer.data.set_folder import make_folders, rate_text, write_tables
from stmixer.trainer.errors import TrainError, writing

CRF = 12
"""Of H.264: noise and all, or the clips could be told from others by what the encoder left out."""

_COLUMNS = 6
_THUMBNAIL_PX = 200


@dataclass(frozen=True, slots=True)
class EmptySetOptions:
    """``train`` and ``val``: clips of each set, at most. ``leave_out``: videos that are not used. ``medians_only``:
    videos in which not everybody has a box, of which only backgrounds are taken. ``seed`` chooses videos; ``force``
    replaces an earlier set.
    """

    train: int = 30
    val: int = 20
    leave_out: tuple[str, ...] = ()
    medians_only: tuple[str, ...] = ()
    seed: int = 0
    force: bool = False

    def most(self, part: Part) -> int:
        """Clips of a set's part, at most."""
        return self.train if part == "train" else self.val


@dataclass(frozen=True, slots=True, eq=False)
class WrittenClip:
    """A clip in the new set: its video's row, and a picture of it."""

    name: str
    video: AnnotatedVideo
    clip: EmptyClip
    thumbnail: Pixels


@dataclass(slots=True)
class EmptySet:
    """What was made, and (video, reason) of what was skipped."""

    clips: list[WrittenClip]
    skipped: list[tuple[Path, str]]

    def counts(self) -> dict[tuple[str, Part, str], int]:
        """Clips by set, part and kind."""
        found: dict[tuple[str, Part, str], int] = {}
        for made in self.clips:
            key = (made.video.set, made.video.part, made.clip.kind)
            found[key] = found.get(key, 0) + 1
        return found


def make_empty_set(
    sets: Sequence[Path],
    detector: PersonDetector,
    out: Path,
    options: EmptySetOptions,
    progress: Callable[[str], None] | None = None,
) -> EmptySet:
    """Make the set. Videos are tried in random order until a set's part has enough clips.

    Args:
        sets: folders of custom sets.
        detector: at a low score; what it takes for a person is left out.
        out: the new set's folder.
        progress: told the name of each video.

    Raises:
        TrainError: a set that cannot be read, two of one name, names that no set has, no clip found, or a folder that
            holds a set already or cannot be written.
    """
    groups = _groups(sets, options)
    _prepare(out, options.force)
    done = EmptySet([], [])
    for (_, part), videos in groups.items():
        rng = np.random.default_rng(options.seed)
        before = len(done.clips)
        for video in (videos[i] for i in rng.permutation(len(videos))):
            room = options.most(part) - (len(done.clips) - before)
            if room <= 0:
                break
            if progress is not None:
                progress(f"{video.set}/{video.name}")
            try:
                clips = empty_clips(video, detector)
            except MediaError as error:
                done.skipped.append((video.path, str(error)))
                continue
            with writing(out):
                done.clips += [_write_clip(out, video, clip) for clip in clips[:room]]
    if not done.clips:
        raise TrainError(
            [f"{p} is skipped: {reason}" for p, reason in done.skipped] + ["no place without people found"]
        )
    with writing(out):
        _write_tables(out, done.clips)
        _write_sheets(out, done.clips)
    return done


def _groups(sets: Sequence[Path], options: EmptySetOptions) -> dict[tuple[str, Part], list[AnnotatedVideo]]:
    """The videos to try, by set and part."""
    parts: tuple[Part, ...] = ("train", "val")
    listed = {root: video_names(root) for root in sets}
    known = set[str]().union(*listed.values())
    if strange := [name for name in (*options.leave_out, *options.medians_only) if name not in known]:
        raise TrainError(f"no set has a video {', '.join(strange)}")
    groups: dict[tuple[str, Part], list[AnnotatedVideo]] = {}
    for root, names in listed.items():
        config = CustomSet(kind="custom", exclude=tuple(name for name in options.leave_out if name in names))
        for part in parts:
            split = read_custom(config, root, part, None, step=1)
            if (split.name, part) in groups:
                raise TrainError(f"two sets are called {split.name}: rename a folder")
            groups[split.name, part] = annotated_videos(split, options.medians_only)
    return groups


def _prepare(out: Path, force: bool) -> None:
    """An empty folder. Of an earlier set everything is removed that this command wrote, and nothing else."""
    there = [out / name for name in ("videos.csv", "boxes.csv") if (out / name).exists()]
    if there and not force:
        raise TrainError(f"{out} holds a set: name another folder, or add --force")
    boxes = out / "boxes.csv"
    with writing(out):
        if there and boxes.exists():
            if len(boxes.read_text(encoding="utf-8").splitlines()) > 1:
                raise TrainError(f"{boxes} has boxes: it is not a set of empty clips, and is left alone")
            shutil.rmtree(out / "videos", ignore_errors=True)
            shutil.rmtree(out / "previews", ignore_errors=True)
    make_folders(out)


def _write_clip(out: Path, video: AnnotatedVideo, clip: EmptyClip) -> WrittenClip:
    name = f"{video.set}_{Path(video.name).stem.replace('/', '_')}_{clip.kind}{clip.first}.mp4"
    height, width = clip.pictures[0].shape[:2]
    with Mp4Writer(out / "videos" / name, width, height, _fps(clip), crf=CRF) as writer:
        for rgb, pts_us in zip(clip.pictures, clip.pts_us, strict=True):
            writer.write(rgb, pts_us)
    return WrittenClip(name, video, clip, _thumbnail(clip.pictures[len(clip.pictures) // 2]))


def _fps(clip: EmptyClip) -> float:
    return (len(clip.pts_us) - 1) * 1e6 / (clip.pts_us[-1] - clip.pts_us[0])


def _thumbnail(rgb: Pixels) -> Pixels:
    picture = Image.fromarray(rgb)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return np.asarray(picture)


def _write_tables(out: Path, clips: Sequence[WrittenClip]) -> None:
    rows = []
    for made in clips:
        clip, (height, width) = made.clip, made.clip.pictures[0].shape[:2]
        note = f"{clip.kind} of {made.video.set}/{made.video.name} frames {clip.first}-{clip.last} at "
        note += " ".join(str(side) for side in clip.place)
        row = (made.name, made.video.part, rate_text(_fps(clip)), len(clip.pictures), width, height, note)
        rows.append(row)
    write_tables(out, rows, [])


def _write_sheets(out: Path, clips: Sequence[WrittenClip]) -> None:
    """One picture for each set and part, its clips numbered as in videos.csv."""
    sheets: dict[str, list[Pixels]] = {}
    for number, made in enumerate(clips, start=2):
        shown = draw_actors(made.thumbnail, [], banner=f"row {number} {made.clip.kind}")
        sheets.setdefault(f"{made.video.set}_{made.video.part}", []).append(shown)
    for name, pictures in sheets.items():
        Image.fromarray(tile(pictures, _COLUMNS)).save(out / "previews" / f"{name}.png")
