"""A picture of each video of an imported set, to see at a glance whether boxes lie where people are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stmixer.media.draw import DrawnActor, draw_actors
from stmixer.trainer.data.seek import frames_from
from stmixer.trainer.data.set_folder import Row
from stmixer.trainer.imports.placed import PlacedVideo

SIDE = 640
"""px of the longer side, at most."""


def write_preview(out: Path, video: PlacedVideo, rows: Sequence[Row]) -> None:
    """The frame with the most boxes, with these, as a JPEG in ``previews/``.

    Args:
        rows: of the video, as the set's ``boxes.csv`` has them.

    Raises:
        MediaError: the frame cannot be decoded.
        OSError: the folder does not take it.
    """
    frame = Counter(row[1] for row in rows).most_common(1)[0][0]
    t_us = int(video.times_us[int(str(frame))])
    path = out / "videos" / video.name
    there = (picture for picture in frames_from(path, t_us, seekable=video.seekable) if picture.pts_us >= t_us)
    if (shown := next(there, None)) is not None:
        target = out / "previews" / f"{video.name}.jpg"
        save_preview(target, shown.rgb(), [row for row in rows if row[1] == frame], corner=2)


def save_preview(target: Path, rgb: np.ndarray, rows: Sequence[Row], corner: int) -> None:
    """(H, W, 3) uint8 RGB with the boxes of ``rows``, whose corners begin at column ``corner`` and whose label comes
    after them. Raises OSError."""
    height, width = rgb.shape[:2]
    boxes: dict[tuple[float, float, float, float], list[str]] = {}
    for row in rows:
        x1, y1, x2, y2 = (float(str(value)) for value in row[corner : corner + 4])
        label = str(row[corner + 4])
        boxes.setdefault((x1 * width, y1 * height, x2 * width, y2 * height), []).extend([label] if label else [])
    actors = [DrawnActor(box, 1.0, [(label, 1.0) for label in labels]) for box, labels in boxes.items()]
    picture = Image.fromarray(draw_actors(rgb, actors))
    picture.thumbnail((SIDE, SIDE))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, "JPEG", quality=85)
