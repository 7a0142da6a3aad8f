"""When a picture was taken: a sender's own timestamps on the stream's clock, by the rules that containers follow.

t = 0 is the first picture. Strays, gaps and clocks that are set anew are told apart as in a container
(``media.timeline``). Without those rules one wrong timestamp would make millions of keyframes fall due at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from stmixer.media.pace import StampPace
from stmixer.media.timeline import Placed, Timeline

_MICROSECOND, _NOMINAL_RATE = Fraction(1, 1_000_000), Fraction(30)


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
        self._pace = StampPace() if stamped else None
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
            how = f"timestamps run {unit.pace} than pictures arrive"
            found.append(f"{how}: they seem to be {unit.name}; send microseconds")
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
