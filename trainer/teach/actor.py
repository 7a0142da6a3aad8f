"""Who of those in a clip does what the clip is labelled with."""

from __future__ import annotations

import numpy as np

from stmixer.trainer.annotate.tracks import Track

OFF_CENTRE = 0.5
"""How much less somebody counts who is in a corner, than in the middle."""


def actor(tracks: tuple[Track, ...], steps: int) -> int | None:
    """The number of the track that is most there, largest and most in the middle; None without tracks.

    Args:
        steps: pictures of the clip that were looked at.
    """
    if not tracks:
        return None
    return int(np.argmax([prominence(track, steps) for track in tracks]))


def prominence(track: Track, steps: int) -> float:
    """How likely somebody is whom the clip is about: the share of it that they are seen for, times the square root of
    their share of the picture, times their mean score; half as much in a corner as in the middle."""
    boxes = np.array(track.boxes)
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, 1)
    off = np.abs((boxes[:, 2:] + boxes[:, :2]) / 2 - 0.5).max(1) * 2
    there = len(track.steps) / max(steps, 1)
    size = np.sqrt(sides.prod(1).mean())
    return float(there * size * np.mean(track.scores) * (1 - OFF_CENTRE * off.mean()))
