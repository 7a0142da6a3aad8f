"""What stamps of pictures say against the times at which the pictures arrive."""

from __future__ import annotations

import pytest

from stmixer.service.sources.clock import PictureClock, TimedPicture

UNITS = {"seconds": 1.0, "milliseconds": 1e3, "nanoseconds": 1e9}


def told(stamps: list[int], arrivals: list[float]) -> list[str]:
    """All that is odd about pictures that come so."""
    clock, found = PictureClock(stamped=True), list[str]()
    for stamp, at in zip(stamps, arrivals, strict=True):
        clock.place(TimedPicture(b"", at), stamp)
        found += clock.oddities(stamp, at)
    return found


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("delay", [1.0, 4.0], ids=["in time", "behind time"])
def test_stamps_in_another_unit_are_told_once(unit: str, delay: float) -> None:
    """A busy machine takes four times as long to send them as they took to be made."""
    times = [n * 0.1 for n in range(100)]
    found = told([round(1e9 + t * UNITS[unit]) for t in times], [t * delay for t in times])
    assert [line for line in found if f"they seem to be {unit}; send microseconds" in line] == found[-1:]


def test_they_are_told_after_a_line_that_stood_still_at_the_start() -> None:
    arrivals = [n * 0.1 + (60 if n >= 5 else 0) for n in range(60)]
    found = told([n * 100_000_000 for n in range(60)], arrivals)
    assert any("nanoseconds" in line for line in found)


@pytest.mark.parametrize("leap_s", [1800, 3480])
@pytest.mark.parametrize("at", [3, 10, 20])
def test_a_clock_that_leaps_is_in_its_unit(leap_s: int, at: int) -> None:
    times = [n * 0.1 for n in range(100)]
    stamps = [round(1e6 * (t + (leap_s if n >= at else 0))) for n, t in enumerate(times)]
    assert not [line for line in told(stamps, times) if "seem to be" in line]
