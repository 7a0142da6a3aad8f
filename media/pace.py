"""How fast timestamps run against the moments at which their pictures arrive, or against a rate that is said: whether
they are in another unit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

_STRETCH_S, _STRETCH_PICTURES = 1.5, 10
"""Over how long at least stamps and arrivals are compared."""
_OFF_BY = 10.0
"""A busy sender or line makes pictures come more slowly than they are taken."""
_EXACTLY = 1.01
"""The same of a rate that is said, which is held or is none: a picture every half a minute or so is a time-lapse's."""
_LEAST_APART_S = 1.0
"""Between pictures whose stamps run a thousand times too fast; those of a file that is sent at once are nearer."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One that stamps seem to be in; ``factor``: times that they run as fast as pictures arrive; ``within``: times that
    a rate that is said may be off by."""

    factor: float
    name: str
    within: float = _EXACTLY

    @property
    def pace(self) -> str:
        """That, in words."""
        return f"{1 / self.factor:,.0f} times slower" if self.factor < 1 else f"{self.factor:,.0f} times faster"


_UNITS = (Unit(1e-6, "seconds"), Unit(1e-3, "milliseconds"), Unit(1e3, "nanoseconds"))
_OF_90_KHZ = (Unit(1 / 90, "milliseconds", 1.05), Unit(100 / 9, "microseconds"))
"""In place of the ticks that MPEG-TS and MPEG-PS count in. By arrivals alone nobody can tell: a file that is sent at
once comes eleven times too fast as well, and one by a slow line too slowly. Of 30 or 60 a second whoever adds whole
milliseconds takes 33 or 16 of them."""
_TICK_OF_MPEG = Fraction(1, 90_000)
_MOST_A_SECOND = 1000
"""Pictures that anything films; those of 25 a second have 2250 where milliseconds are taken for ticks."""
OTHER_UNIT = "whoever writes them counts in another unit than the container says"


class StampPace:
    """Stamps against arrivals, over one stretch of pictures after another.

    Two stretches have to agree: one with a clock that leaps, or with a line that stands still, says nothing of a unit.
    """

    def __init__(self) -> None:
        self._begin: tuple[int, float] | None = None
        self._pictures = 0
        self._before: Unit | None = None

    def unit(self, stamp_us: int, received_at: float) -> Unit | None:
        """With this picture, received at monotonic seconds: in what but microseconds stamps seem to be; None where that
        is no other unit, or not known yet."""
        if self._begin is None:
            self._begin = stamp_us, received_at
        stamp_s, arrived_s = (stamp_us - self._begin[0]) / 1e6, received_at - self._begin[1]
        if self._pictures < _STRETCH_PICTURES or arrived_s < _STRETCH_S:
            self._pictures += 1
            return None
        pace, apart_s, before = stamp_s / arrived_s, stamp_s / self._pictures, self._before
        self._begin, self._pictures = (stamp_us, received_at), 1
        self._before = found = next((unit for unit in _UNITS if _is_near(pace, apart_s, unit)), None)
        return found if found == before else None


def unit_by_rate(
    interval_us: float, rate: Fraction, tick: Fraction | None = None, *, live: bool = False
) -> Unit | None:
    """The same of stamps that lie ``interval_us`` µs apart on average, of pictures that are said to come at ``rate`` a
    second. Their median would not do: it is off by up to a tick.

    ``tick``: seconds of a container's; None: unknown. ``live``: thousandfold ones are seen by when pictures arrive.
    """
    pace = interval_us * float(rate) / 1e6
    units = (*(() if live else _UNITS), *(_OF_90_KHZ if tick == _TICK_OF_MPEG else ()))
    return next((unit for unit in units if unit.factor / unit.within < pace < unit.factor * unit.within), None)


def other_unit(interval_us: float, rate: Fraction | None, tick: Fraction | None, *, live: bool) -> str | None:
    """In words, where stamps are in another unit than their container says; ``rate``: by the video, if it says one."""
    if rate is not None and (unit := unit_by_rate(interval_us, rate, tick, live=live)) is not None:
        what = f"timestamps run {unit.pace} than at the video's own rate of {float(rate):g} frames per second"
    elif rate is None and tick == _TICK_OF_MPEG and interval_us * _MOST_A_SECOND < 1e6:
        what = f"timestamps say {1e6 / interval_us:,.0f} frames per second"
    else:
        return None
    return f"{what}; {OTHER_UNIT}"


def _is_near(pace: float, apart_s: float, unit: Unit) -> bool:
    if unit.factor > 1 and apart_s < _LEAST_APART_S:
        return False
    return unit.factor / _OFF_BY < pace < unit.factor * _OFF_BY
