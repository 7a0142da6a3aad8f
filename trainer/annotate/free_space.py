"""Where nobody is: masks of what boxes leave free, and the largest rectangle in them.

Masks are (H, W) bool, boxes (n, 4) corners 0–1 of width and height, rectangles (x1, y1, x2, y2) whole px, x2 and y2
excluded.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stmixer.model.clip import MAX_ASPECT

Boxes = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rectangle = tuple[int, int, int, int]

CELL = 4
"""px; rectangles are looked for on a grid of cells, of which a cell is free only where all of its pixels are."""


def covered(boxes_xyxy: Boxes, width: int, height: int, margin: float) -> Mask:
    """The pixels that boxes touch, each grown by ``margin`` of its own size on every side."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for x1, y1, x2, y2 in boxes_xyxy:
        across, down = margin * (x2 - x1), margin * (y2 - y1)
        left, top = max(0, int((x1 - across) * width)), max(0, int((y1 - down) * height))
        mask[top : int(np.ceil((y2 + down) * height)), left : int(np.ceil((x2 + across) * width))] = True
    return mask


def largest_rectangle(free: Mask, least_px: int) -> Rectangle | None:
    """The largest free rectangle, cut down in the middle to what a model accepts (model.clip.MAX_ASPECT).

    Sides are multiples of CELL. None where it is shorter than ``least_px`` on a side.
    """
    height, width = free.shape[0] // CELL * CELL, free.shape[1] // CELL * CELL
    # all pixels of a cell free: the least of them
    cells = cv2.erode(free[:height, :width].astype(np.uint8), np.ones((CELL, CELL), np.uint8), anchor=(0, 0))
    x1, y1, x2, y2 = (CELL * side for side in _largest(cells[::CELL, ::CELL].astype(np.bool_)))
    x1, x2 = _cut(x1, x2, MAX_ASPECT * (y2 - y1))
    y1, y2 = _cut(y1, y2, MAX_ASPECT * (x2 - x1))
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= max(least_px, CELL) else None


def _cut(start: int, end: int, most: int) -> tuple[int, int]:
    """The middle of a stretch that is too long."""
    spare = max(0, end - start - most)
    before = spare // 2 // CELL * CELL
    return start + before, end - (spare - before)


def _largest(free: Mask) -> Rectangle:
    """The largest all-true rectangle: for each row, the largest one under a skyline of free columns, with a stack."""
    best, area = (0, 0, 0, 0), 0
    heights = np.zeros(free.shape[1], dtype=np.int64)
    for row, line in enumerate(free):
        heights = np.where(line, heights + 1, 0)
        open_at: list[tuple[int, int]] = []  # (left edge, height), heights ascending
        for column, height in enumerate((*heights.tolist(), 0)):
            left = column
            while open_at and open_at[-1][1] >= height:
                left, tall = open_at.pop()
                if tall * (column - left) > area:
                    area, best = tall * (column - left), (left, row + 1 - tall, column, row + 1)
            open_at.append((left, height))
    return best
