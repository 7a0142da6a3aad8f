"""How many are borne: by doubling, then halving what lies between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

NEAR = 0.1
"""What is found may be this part of it too small."""


@dataclass(frozen=True, slots=True)
class Found:
    """The most that were seen to be borne, 0 for none, and the fewest that were not, None where the search ended
    before."""

    borne: int
    too_many: int | None


def most_borne(borne: Callable[[int], bool], first: int, most: int, goes_on: Callable[[], bool]) -> Found:
    """Try numbers from ``first`` on, up to ``most``, while ``goes_on`` says so. One that fails is not tried again."""
    low, high, number = 0, None, first
    while goes_on():
        if borne(number):
            low = number
        else:
            high = number
        if high is None:
            if low >= most:
                break
            number = min(2 * low, most)
        elif high - low <= max(1, NEAR * low):
            break
        else:
            number = high // 2 if low == 0 else (low + high) // 2
    return Found(low, high)
