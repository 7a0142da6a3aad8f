"""Areas to ignore: what is found in them is neither right nor wrong.

A detection that takes no true box is ignored if at least half of its own area lies in one ignore area of its picture
(intersection over foreground, as COCO counts its crowds). Where an area covers a true box the true box wins: whoever
takes it is right.
"""

from __future__ import annotations

import numpy as np

from stmixer.trainer.evaluators.overlap import inside, pairs
from stmixer.trainer.evaluators.tables import Detections, IgnoreAreas, Mask, PersonDetections, keys

IGNORED_FROM = 0.5
"""Share of a detection's own area that lies in an ignore area; inclusive."""


def in_ignore_area(found: Detections | PersonDetections, areas: IgnoreAreas | None) -> Mask:
    """(n,) which detections lie in an ignore area of their picture; none where there are no areas.

    Raises:
        ValueError: different units.
    """
    covered = np.zeros(len(found), dtype=np.bool_)
    if areas is None or not len(areas):
        return covered
    if areas.unit != found.unit:
        raise ValueError(f"ignore areas are {areas.unit}, detected boxes {found.unit}")
    i, j = pairs(*keys(found, areas))
    covered[i[inside(found.boxes[i], areas.boxes[j], found.unit) >= IGNORED_FROM]] = True
    return covered
