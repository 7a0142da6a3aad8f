"""Areas of the picture: whether somebody stands in one, and whether its corners make one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def foot(box: Box) -> Point:
    """Where a person stands: the middle of the lower edge of a box of corners."""
    left, _, right, bottom = box
    return (left + right) / 2, bottom


def holds(zone: Sequence[Point], point: Point) -> bool:
    """Whether a polygon has a point inside: every second crossing of a ray to the right leads out."""
    x, y = point
    inside = False
    x1, y1 = zone[-1]
    for x2, y2 in zone:
        if (y1 > y) != (y2 > y) and x < x1 + (x2 - x1) * (y - y1) / (y2 - y1):
            inside = not inside
        x1, y1 = x2, y2
    return inside


def why_no_area(zone: Sequence[Point]) -> str | None:
    """What is wrong with the corners of an area, and what to do; None for good ones."""
    if len(zone) < 3:
        return f"an area has at least 3 corners, not {len(zone)}"
    edges = list(_edges(zone))
    for at, (start, end) in enumerate(edges):
        if start == end:
            return f"corner {at + 1} stands there twice"
    for at, one in enumerate(edges):
        for other in range(at + 1, len(edges)):
            neighbours = other == at + 1 or (at == 0 and other == len(edges) - 1)
            if (_fold_back if neighbours else _meet)(one, edges[other]):
                which = f"the edges from corner {at + 1} and from corner {other + 1} cross"
                return f"{which}: give the corners in order, once around the area"
    return None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes of corners, 0 where either has no area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(one) + _area(other) - shared)


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box with all of them, at least one, in it."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


Edge = tuple[Point, Point]


def _edges(zone: Sequence[Point]) -> Iterator[Edge]:
    return zip(zone, (*zone[1:], *zone[:1]), strict=True)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _side(edge: Edge, point: Point) -> float:
    """Above 0 left of an edge, below 0 right of it."""
    (x1, y1), (x2, y2) = edge
    return (x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)


def _within(edge: Edge, point: Point) -> bool:
    """Whether a point of the edge's line lies between its ends."""
    return all(min(a, b) <= at <= max(a, b) for a, b, at in zip(*edge, point, strict=True))


def _meet(one: Edge, other: Edge) -> bool:
    sides = [_side(one, point) for point in other], [_side(other, point) for point in one]
    if all(first * second < 0 for first, second in sides):
        return True
    touching = [(one, point) for point in other] + [(other, point) for point in one]
    return any(_side(edge, point) == 0 and _within(edge, point) for edge, point in touching)


def _fold_back(one: Edge, other: Edge) -> bool:
    """Whether of two edges with a corner in common one lies on the other."""
    shared = one[1] if one[1] in other else one[0]
    end, other_end = (next(point for point in edge if point != shared) for edge in (one, other))
    return any(_side(edge, at) == 0 and _within(edge, at) for edge, at in ((one, other_end), (other, end)))
