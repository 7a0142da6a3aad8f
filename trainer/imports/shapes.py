"""Boxes around what tools draw besides upright boxes, and what of a box lies in its picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stmixer.trainer.imports.export import Corners, LeftOut


def around_points(points: Sequence[tuple[float, float]]) -> Corners:
    """The smallest upright box that holds all of at least one point."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def turned(box: Corners, degrees: float) -> Corners:
    """The upright box around a box that is turned about its middle."""
    if degrees % 360 == 0:
        return box
    x1, y1, x2, y2 = box
    middle_x, middle_y, angle = (x1 + x2) / 2, (y1 + y2) / 2, math.radians(degrees)
    across = abs((x2 - x1) / 2 * math.cos(angle)) + abs((y2 - y1) / 2 * math.sin(angle))
    up = abs((x2 - x1) / 2 * math.sin(angle)) + abs((y2 - y1) / 2 * math.cos(angle))
    return middle_x - across, middle_y - up, middle_x + across, middle_y + up


def cut(shares: Corners, left_out: LeftOut, where: str) -> list[str] | None:
    """Corners within the picture, as a set's tables have them; None of those that have no area there."""
    if not all(map(math.isfinite, shares)):
        left_out.note("boxes have a corner that is no number", where)
        return None
    inside = [f"{min(max(value, 0.0), 1.0):.5f}" for value in shares]
    if float(inside[0]) >= float(inside[2]) or float(inside[1]) >= float(inside[3]):
        left_out.note("boxes lie outside the picture, or have no area", where)
        return None
    return inside
