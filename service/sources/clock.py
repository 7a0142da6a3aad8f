"""When a picture was taken: a sender's own timestamps on the stream's clock, by the rules that containers follow.

t = 0 is the first picture. Strays, gaps and clocks that are set anew are told apart as in a container
(``media.timeline``). Without those rules one wrong timestamp would make millions of keyframes fall due at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from stmixer.media.timeline import Placed, Timeline

_MICROSECOND, _NOMINAL_RATE = Fraction(1, 1_000_000), Fraction(30)
_STRETCH_S, _STRETCH_PICTURES = 1.5, 10
"""Over how long at least stamps and arrivals are compared."""
_UNITS = ((1e-6, "seconds"), (1e-3, "milliseconds"), (1e3, "nanoseconds"))
"""Times that stamps run as fast as pictures arrive, and what they are in then."""
_OFF_BY = 10.0
"""A busy sender or line makes pictures come more slowly than they are taken."""


@dataclass(frozen=True, slots=True)
class TimedPicture:
    """A JPEG and when it arrived, monotonic seconds."""

    data: bytes
    received_at: float


class PictureClock:
    """Places pictures in time and knows when t = 0 was on our clock.

    ``stamped``: by the sender's timestamps, which may be anything; else by their arrival, which is always in order.
    ``origin``: monotonic seconds of t = 0, at the latest: by the picture that was fastest on its way.
    """

    def __init__(self, *, stamped: bool) -> None:
        self.origin: float | None = None
        self._timeline: Timeline[TimedPicture] = Timeline(_MICROSECOND, _NOMINAL_RATE, hold=stamped)
        self._resets = 0
        self._pace = _Pace() if stamped else None
        self._told: set[str] = set()

    def place(self, picture: TimedPicture, stamp_us: int) -> list[Placed[TimedPicture]]:
        """What is certain with this picture: itself or held ones, in order, µs after the first, or left out."""
        return self._placed(self._timeline.place(picture, stamp_us))

    def release(self) -> list[Placed[TimedPicture]]:
        """Those that are held, since nobody waits for the ones after them."""
        return self._placed(self._timeline.end())

    def oddities(self, stamp_us: int, received_at: float) -> Sequence[str]:
        """What is odd about the timestamps up to this one, in words, each once."""
        found, timeline = [], self._timeline
        if timeline.resets:
            found.append("the timestamps start anew; time goes on without a gap")
        if timeline.strays:
            found.append("timestamps lie far from those before and after; such pictures are put between them")
        if timeline.left_out:
            found.append("pictures are left out, their timestamps being no later than the last")
        if self._pace is not None and (unit := self._pace.unit(stamp_us, received_at)) is not None:
            found.append(unit)
        new = [line for line in found if line not in self._told]
        self._told.update(new)
        return new

    def _placed(self, placed: list[Placed[TimedPicture]]) -> list[Placed[TimedPicture]]:
        for one in placed:
            if one.pts_us is None:
                continue
            origin = one.item.received_at - one.pts_us / 1e6
            if self.origin is None or self._timeline.resets > self._resets:
                self.origin, self._resets = origin, self._timeline.resets
            self.origin = min(self.origin, origin)
        return placed


class _Pace:
    """How fast stamps run against arrivals, over one stretch of pictures after another.

    Two stretches have to agree: one with a clock that leaps, or with a line that stands still, says nothing of a unit.
    """

    def __init__(self) -> None:
        self._begin: tuple[int, float] | None = None
        self._pictures = 0
        self._before: int | None = None

    def unit(self, stamp_us: int, received_at: float) -> str | None:
        """With this picture: in what unit but microseconds stamps seem to be, in words; None for none."""
        if self._begin is None:
            self._begin = stamp_us, received_at
        stamp_s, arrived_s = (stamp_us - self._begin[0]) / 1e6, received_at - self._begin[1]
        if self._pictures < _STRETCH_PICTURES or arrived_s < _STRETCH_S:
            self._pictures += 1
            return None
        self._begin, self._pictures = (stamp_us, received_at), 1
        pace, before = stamp_s / arrived_s, self._before
        near = (n for n, (factor, _) in enumerate(_UNITS) if factor / _OFF_BY < pace < factor * _OFF_BY)
        self._before = found = next(near, None)
        if found is None or found != before:
            return None
        factor, unit = _UNITS[found]
        how = f"{1 / factor:,.0f} times slower" if factor < 1 else f"{factor:,.0f} times faster"
        return f"timestamps run {how} than pictures arrive: they seem to be {unit}; send microseconds"
