"""When a picture was taken: a sender's own timestamps on the stream's clock, by the rules that containers follow.

t = 0 is the first picture. A step back of up to a second is a picture out of order; a longer one, or a leap of over an
hour, is a clock that was set anew, after which time goes on without a gap (media.timeline). Without that rule one
wrong timestamp would make millions of keyframes fall due at once.
"""

from __future__ import annotations

from fractions import Fraction

from stmixer.media.timeline import Timeline

_NOMINAL_RATE = Fraction(30)


class PictureClock:
    """Places pictures in time and knows when t = 0 was on our clock.

    ``origin``: monotonic seconds of t = 0, at the latest: by the picture that was fastest on its way.
    """

    def __init__(self) -> None:
        self.origin: float | None = None
        self._timeline = Timeline(Fraction(1, 1_000_000), _NOMINAL_RATE)
        self._resets = 0

    def place(self, stamp_us: int, received_at: float) -> int | None:
        """A picture's time in µs after the first one's, from its timestamp; None if it is out of order."""
        pts_us = self._timeline.place(stamp_us)
        if pts_us is None:
            return None
        origin = received_at - pts_us / 1e6
        if self.origin is None or self._timeline.resets > self._resets:
            self.origin, self._resets = origin, self._timeline.resets
        self.origin = min(self.origin, origin)
        return pts_us
