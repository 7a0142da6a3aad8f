"""From a container's timestamps to microseconds after the first frame, rising without exception.

The rules: t = 0 is the first frame that is delivered (edit lists, a positive start and a pre-roll only move it).
A frame without a presentation time (AVI) takes its decoding time, which decoders hand on in the order of presentation;
where that is missing too, or not later, it comes one frame interval after the last. A step back of up to a second, or
none at all, is a frame out of order, which is dropped; a longer one, or a jump of over an hour, is a clock that was
reset (a concatenated transport stream, a camera that restarted), after which time goes on by one median interval.
"""

from collections import deque
from fractions import Fraction
from statistics import median

REORDER_US = 1_000_000
JUMP_US = 3_600_000_000
INTERVALS = 31


class Timeline:
    """Places frames in time, one after the other.

    Args:
        time_base: seconds per tick of the container's timestamps.
        rate: frames per second, for frames without a timestamp.
    """

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self._tick_us = time_base * 1_000_000
        self._frame_us = Fraction(1_000_000) / rate
        self._origin: Fraction | None = None
        self._last = Fraction(-1)
        self._intervals: deque[Fraction] = deque(maxlen=INTERVALS)
        self.resets = 0
        self.missing = 0

    def place(self, pts: int | None, dts: int | None = None) -> int | None:
        """Time of the next frame in µs, or None for a frame out of order.

        Args:
            pts: the frame's presentation time in ticks.
            dts: its decoding time in ticks, for want of a ``pts``.
        """
        now = self._now(pts, dts)
        if now is None:
            return None
        if self._last >= 0:
            self._intervals.append(now - self._last)
        self._last = now
        return round(now)

    def _now(self, pts: int | None, dts: int | None) -> Fraction | None:
        if pts is None and (dts is None or self._is_late(dts)):
            self.missing += 1
            return self._last + self._frame_us if self._last >= 0 else Fraction(0)
        ticks = (pts if pts is not None else dts or 0) * self._tick_us
        if self._origin is None:
            # Frames before this one had no timestamp: it follows them.
            self._origin = ticks if self._last < 0 else ticks - self._last - self._frame_us
            return ticks - self._origin
        now = ticks - self._origin
        step = now - self._last
        if step >= -REORDER_US and round(now) <= round(self._last):
            return None
        if step < 0 or step > JUMP_US:
            self.resets += 1
            now = self._last + self._interval()
            self._origin = ticks - now
        return now

    def _is_late(self, dts: int) -> bool:
        return self._origin is not None and dts * self._tick_us - self._origin <= self._last

    def _interval(self) -> Fraction:
        # At least a microsecond, or two frames could share a time.
        return max(median(self._intervals), Fraction(1)) if self._intervals else self._frame_us
