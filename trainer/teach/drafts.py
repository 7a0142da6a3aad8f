"""Who is in each clip, and whom of them it is about: looked for once a clip, and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stmixer.media.draw import DrawnActor, draw_actors
from stmixer.media.errors import MediaError
from stmixer.trainer.annotate.draft import Draft, LabelOptions, draft_video
from stmixer.trainer.annotate.person_detector import PersonFinder
from stmixer.trainer.annotate.tracks import Track
from stmixer.trainer.errors import writing
from stmixer.trainer.teach.actor import actor
from stmixer.trainer.teach.clips import LabelledClip, SkippedClip

EVERY = 5
"""Every how manieth frame is looked at; boxes between lie on the line."""

MIN_LENGTH_S = 0.25
"""Shorter tracks are dropped. Somebody who sits down or jumps may be lost and found again in between."""

SURE = 0.5
"""Whose best score is less is nobody, but in a clip with a label in which nobody is surer: somebody must be there."""

_TILE_PX = 260
_TILES = 3


@dataclass(frozen=True, slots=True, eq=False)
class DraftedClip:
    """A clip and its people. ``actor``: the number of the track that it is about, None where nobody is in it;
    ``picture``: a file that shows it."""

    clip: LabelledClip
    frames: int
    fps: float
    width: int
    height: int
    tracks: tuple[Track, ...]
    actor: int | None
    picture: Path


class Drafts:
    """Drafts in a folder, one for each clip, who found its people and how.

    Args:
        folder: is made where it is missing.
        of: says who finds people: its digest.
    """

    def __init__(self, folder: Path, finder: Callable[[], PersonFinder], of: str) -> None:
        self._folder, self._make, self._of = folder, finder, of
        self._finder: PersonFinder | None = None

    def draft(
        self, clips: Sequence[LabelledClip], progress: Callable[[int, int], None]
    ) -> tuple[list[DraftedClip], list[SkippedClip]]:
        """All of them, and those that cannot be decoded to their end. ``progress`` is told how many are done, of all.

        Raises:
            TrainError: the folder cannot be written.
        """
        done: list[DraftedClip] = []
        skipped: list[SkippedClip] = []
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for number, clip in enumerate(clips, start=1):
                try:
                    done.append(self._one(clip))
                except MediaError as error:
                    skipped.append(SkippedClip(clip.path, str(error)))
                except OSError as error:
                    if os.access(clip.path, os.R_OK):
                        raise
                    skipped.append(SkippedClip(clip.path, f"it cannot be read any more: {error.strerror}"))
                progress(number, len(clips))
        return done, skipped

    def _one(self, clip: LabelledClip) -> DraftedClip:
        stat = clip.path.stat()
        key = json.dumps([str(clip.path.absolute()), stat.st_size, stat.st_mtime_ns, clip.label, EVERY, self._of])
        stem = self._folder / hashlib.sha256(key.encode()).hexdigest()[:24]
        file, picture = stem.with_suffix(".json"), stem.with_suffix(".jpg")
        if not file.exists():
            if self._finder is None:
                self._finder = self._make()
            looked = draft_video(
                clip.name, clip.path, self._finder, LabelOptions(every=EVERY, min_length_s=MIN_LENGTH_S)
            )
            found = replace(looked, tracks=_sure(looked.tracks, clip))
            _write(picture, cv2.imencode(".jpg", _strip(found, clip)[:, :, ::-1])[1].tobytes())
            _write(file, json.dumps(_as_dict(found)).encode())
        values = json.loads(file.read_text(encoding="utf-8"))
        tracks = tuple(
            Track(t["steps"], [np.array(b) for b in t["boxes"]], t["scores"], set(t["filled"]))
            for t in values["tracks"]
        )
        steps = len(range(0, values["frames"], EVERY))
        shape = (values["frames"], values["fps"], values["width"], values["height"])
        return DraftedClip(clip, *shape, tracks, actor(tracks, steps), picture)


def _sure(tracks: tuple[Track, ...], clip: LabelledClip) -> tuple[Track, ...]:
    sure = tuple(track for track in tracks if max(track.scores) >= SURE)
    return sure if sure or clip.label is None else tracks


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _as_dict(draft: Draft) -> dict[str, object]:
    tracks = [
        {"steps": t.steps, "boxes": [[round(float(v), 5) for v in b] for b in t.boxes],
         "scores": [round(s, 4) for s in t.scores], "filled": sorted(t.filled)}
        for t in draft.tracks
    ]  # fmt: skip
    return {"frames": draft.frames, "fps": draft.fps, "width": draft.width, "height": draft.height, "tracks": tracks}


def _strip(draft: Draft, clip: LabelledClip) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: the clip's beginning, middle and end side by side, all framed and the actor called so."""
    chosen = actor(draft.tracks, len(range(0, draft.frames, EVERY)))
    shown = [draft.shown[round(i * (len(draft.shown) - 1) / (_TILES - 1))] for i in range(_TILES)]
    tiles = []
    for frame, rgb in shown:
        scale = _TILE_PX / rgb.shape[0]
        tile = cv2.resize(rgb, (max(1, round(rgb.shape[1] * scale)), _TILE_PX), interpolation=cv2.INTER_AREA)
        tiles.append(draw_actors(tile, _drawn(draft, clip, frame, tile.shape[1], chosen)))
    return np.hstack(tiles)


def _drawn(draft: Draft, clip: LabelledClip, frame: int, width: int, chosen: int | None) -> list[DrawnActor]:
    size = np.array((width, _TILE_PX, width, _TILE_PX))
    drawn = []
    for number, track in enumerate(draft.tracks):
        named = [("actor", 1.0)] if number == chosen and clip.label is not None else []
        for at, step in enumerate(track.steps):
            if step * EVERY == frame:
                x1, y1, x2, y2 = (float(v) for v in track.boxes[at] * size)
                drawn.append(DrawnActor((x1, y1, x2, y2), track.scores[at], named, number))
    return drawn
