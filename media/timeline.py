"""From a source's timestamps to microseconds after the first frame, rising without exception.

The rules (docs/protocol.md, Time): t = 0 is the first frame that is delivered; edit lists, a late start and a pre-roll
only move it. A frame that follows the one before it by no more than a few intervals is placed at once. Any other is
held until its neighbours say what it is:

- time goes on where it was: the held ones had stray timestamps. They are put between their neighbours where there is
  room for them, else left out (so are repeats, and frames out of order);
- time goes on from the held one: a gap, if it lies up to an hour ahead, else a clock that was set anew (recordings put
  behind each other, a camera that restarted), after which time goes on by one median interval;
- nothing fits together: the timestamps are of no use, and frames follow each other by the median interval.

A counter that runs over (33 bits of an MPEG clock, 32 of RTP, 16 of a Matroska cluster) is no jump: time goes on. A
frame without a presentation time (AVI) takes its decoding time, which decoders hand on in the order of presentation;
where that is missing too, or not later, it comes one frame interval after the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import lcm
from statistics import median_low
from typing import Generic, TypeVar

T = TypeVar("T")

REORDER_US = 1_000_000
"""A step back of up to this is more likely a frame out of order than a clock that was set anew."""
JUMP_US = 3_600_000_000
"""A step ahead of over this is no gap but a clock that was set anew."""
MAX_HELD = 4
"""Frames held at most; so many in a row that lie up to ``REORDER_US`` back are a clock that was set anew."""
INTERVALS = 31
"""The median interval is that of so many frames."""
USUAL_INTERVALS = 3
"""A frame is placed at once where it comes within so many median intervals."""
UNKNOWN_LIMIT_US = 1_000_000
"""The same before any interval is known."""
LONE_GAP_US = 10_000_000
"""A last frame that lies further ahead than this has nobody to confirm it."""
WRAP_SLACK_US = 10_000_000
"""How far from where it was a clock that ran over may go on, where it runs for hours before it does."""
_REFRESHED_EVERY = 8


@dataclass(frozen=True, slots=True)
class Placed(Generic[T]):
    """A frame and its time, µs; None for one that is left out, there being no room for it between its neighbours."""

    item: T
    pts_us: int | None


@dataclass(slots=True)
class _Held(Generic[T]):
    """``at``: by its timestamp, in units after t = 0."""

    item: T
    at: int


class Timeline(Generic[T]):
    """Places frames in time, one after the other, holding back at most ``MAX_HELD`` of them.

    Args:
        time_base: seconds per tick of the timestamps.
        rate: frames per second, for frames without a timestamp.
        assumed: nothing says the rate: such frames take the median interval, once that is known.
        wraps: after how many ticks the clock begins anew without meaning it.
        hold: False where timestamps are known to be in order, as times of arrival are: every frame is placed at once.

    Attributes:
        resets: times that the clock was set anew.
        wrapped: times that it ran over.
        missing: frames without a timestamp.
        strays: frames whose timestamps lay elsewhere, put between their neighbours.
        left_out: frames that were not placed.
    """

    def __init__(
        self,
        time_base: Fraction,
        rate: Fraction,
        wraps: Sequence[int] = (),
        *,
        hold: bool = True,
        assumed: bool = False,
    ) -> None:
        tick_us, frame_us = time_base * 1_000_000, Fraction(1_000_000) / rate
        # whole numbers of a unit in which both are whole: exact, and much faster than fractions
        self._us = lcm(tick_us.denominator, frame_us.denominator)
        self._tick, self._frame = int(tick_us * self._us), max(int(frame_us * self._us), self._us)
        self._wraps = tuple(sorted(ticks * self._tick for ticks in wraps))
        self._hold, self._assumed = hold, assumed
        self._origin: int | None = None
        self._carried = 0
        self._last = -1
        self._intervals: deque[int] = deque(maxlen=INTERVALS)
        self._interval, self._limit, self._refresh_in = self._frame, UNKNOWN_LIMIT_US * self._us, 0
        self._held: list[_Held[T]] = []
        self._anew = False
        self.resets = 0
        self.wrapped = 0
        self.missing = 0
        self.strays = 0
        self.left_out = 0

    def place(self, item: T, pts: int | None, dts: int | None = None) -> list[Placed[T]]:
        """What is certain with this frame: none, itself, or those before it that were held, in order.

        Args:
            pts: the frame's presentation time in ticks.
            dts: its decoding time in ticks, for want of a ``pts``.
        """
        at = self._at(pts, dts)
        if not self._held:
            if at is None:
                return [self._accept(item, self._last + self._step if self._last >= 0 else 0)]
            if self._last < 0 or self._follows(at):
                return [self._accept(item, at)]
        elif at is None:
            at = self._held[-1].at + self._step
        self._held.append(_Held(item, at))
        return self._judge() if self._hold else self.end()

    def end(self) -> list[Placed[T]]:
        """No frame follows, or none is waited for: those that are held."""
        placed: list[Placed[T]] = []
        held, self._held, moved = self._held, [], 0
        for one in held:
            one.at -= moved
            step = one.at - self._last
            if not -REORDER_US * self._us <= step <= JUMP_US * self._us:
                moved += one.at - self._last - self._interval
                placed += self._set_anew([one])
            elif not self._rises(one.at):
                placed.append(self._leave_out(one.item))
            elif self._hold and self._intervals and step > LONE_GAP_US * self._us:
                self.strays += 1
                placed.append(self._accept(one.item, self._last + self._interval))
            else:
                placed.append(self._accept(one.item, one.at))
        return placed

    def begin_anew(self, rate: Fraction, *, assumed: bool = False) -> list[Placed[T]]:
        """What comes next is of another recording, of this ``rate``: those that are held, which nothing follows any
        more. Where its clock does not go on from the last one's, it was set anew, without a doubt."""
        placed, self._anew = self.end(), self._last >= 0
        self._frame, self._assumed = max(round(1_000_000 * self._us / rate), self._us), assumed
        return placed

    @property
    def _step(self) -> int:
        """To a frame without a timestamp."""
        return self._interval if self._assumed else self._frame

    @property
    def taken_as(self) -> float:
        """Frames per second that those without a timestamp are taken as."""
        return 1e6 * self._us / self._step

    # -- where a timestamp lies

    def _at(self, pts: int | None, dts: int | None) -> int | None:
        """Units after t = 0 by its timestamp; None for a frame that has none to go by."""
        if pts is None and (dts is None or (self._is_late(dts) and not self._anew)):
            self.missing += 1
            return None
        stamp = (pts if pts is not None else dts or 0) * self._tick
        if self._origin is None:
            # frames before this one had no timestamp: it follows them
            self._origin = stamp if self._last < 0 else stamp - self._last - self._frame
        if self._anew:
            self._anew = False
            self._set_origin_anew(stamp)
        return self._carried_on(stamp - self._origin)

    def _set_origin_anew(self, stamp: int) -> None:
        """Where another recording does not go on from the last one."""
        assert self._origin is not None
        at = stamp - self._origin + self._carried
        if not 0 < at - self._last <= JUMP_US * self._us:
            self.resets += 1
            self._origin, self._carried = stamp - self._last - self._interval, 0

    def _is_late(self, dts: int) -> bool:
        return self._origin is not None and dts * self._tick - self._origin + self._carried <= self._last

    def _carried_on(self, at: int) -> int:
        """Over the end of a counter, or back to where it would be without."""
        at += self._carried
        step, reach = at - self._last, self._limit * (1 + len(self._held))
        if self._last < 0 or 0 < step <= reach:
            return at
        for wrap in self._wraps:
            slack = max(reach, WRAP_SLACK_US * self._us) if wrap > JUMP_US * self._us else reach
            for turn in (wrap, -wrap):
                if 0 < step + turn <= slack and self._carried + turn >= 0:
                    self._carried += turn
                    self.wrapped += 1
                    return at + turn
        return at

    def _rises(self, at: int) -> bool:
        return self._rounded(at) > self._rounded(self._last)

    def _follows(self, at: int, held: int = 0) -> bool:
        """Whether it is where time goes on, ``held`` frames having come in between."""
        return 0 < at - self._last <= self._limit * (1 + held) and self._rises(at)

    # -- what the held ones are

    def _judge(self) -> list[Placed[T]]:
        held, newest = self._held, self._held[-1].at
        if self._follows(newest, len(held) - 1):
            self._held = []
            return [*self._between(held[:-1], newest), self._accept(held[-1].item, newest)]
        start = self._run_start()
        before, run = held[:start], held[start:]
        ahead = run[0].at - self._last
        back_a_little = -REORDER_US * self._us <= ahead <= 0
        if len(run) >= (MAX_HELD if back_a_little else 2):
            self._held = []
            return self._go_on_from(before, run, ahead)
        first = held[0].at
        halting = self._rises(first) and first < newest and first - self._last <= LONE_GAP_US * self._us
        if halting:  # but in order
            self._held = held[1:]
            return [self._accept(held[0].item, first), *self._judge()]
        if len(held) < MAX_HELD:
            return []
        self._held = []
        if all(earlier.at + self._us <= later.at for earlier, later in pairwise(held)) and self._rises(first):
            return self._go_on_from([], held, ahead)
        self.strays += len(held)
        placed = [self._accept(one.item, self._last + self._interval) for one in held]
        self._move_origin(newest, self._last)
        return placed

    def _run_start(self) -> int:
        """Of the held ones, the first from which on each follows the one before it."""
        start = len(self._held) - 1
        while start > 0:
            if not self._us <= self._held[start].at - self._held[start - 1].at <= self._limit:
                break
            start -= 1
        return start

    def _go_on_from(self, before: list[_Held[T]], run: list[_Held[T]], ahead: int) -> list[Placed[T]]:
        if not 0 < ahead <= JUMP_US * self._us:
            return self._set_anew(run, before)
        return [*self._between(before, run[0].at), *self._in_turn(run)]

    def _set_anew(self, run: list[_Held[T]], before: Sequence[_Held[T]] = ()) -> list[Placed[T]]:
        """The clock was set anew: the first of the run comes an interval after the last, strays before it between."""
        self.resets += 1
        first = self._last + self._interval * (1 + len(before))
        old = run[0].at
        placed = self._between(before, first)
        self._move_origin(old, first)
        for one in run:
            one.at += first - old
        return [*placed, *self._in_turn(run, joined=True)]

    def _in_turn(self, run: Sequence[_Held[T]], *, joined: bool = False) -> list[Placed[T]]:
        """``joined``: the step to the first of them is ours, and no interval of the source's."""
        return [self._accept(one.item, one.at, counted=not (joined and n == 0)) for n, one in enumerate(run)]

    def _between(self, strays: Sequence[_Held[T]], end: int) -> list[Placed[T]]:
        """Frames whose timestamps say nothing, evenly between the last and ``end``; if in order, where they say."""
        if not strays:
            return []
        rising = [self._last, *(one.at for one in strays), end]
        if all(self._rounded(earlier) < self._rounded(later) for earlier, later in pairwise(rising)):
            return [self._accept(one.item, one.at) for one in strays]
        step = (end - self._last) // (len(strays) + 1)
        if 4 * step < 3 * self._interval:
            return [self._leave_out(one.item) for one in strays]
        self.strays += len(strays)
        return [self._accept(one.item, self._last + step) for one in strays]

    # -- placing

    def _accept(self, item: T, at: int, *, counted: bool = True) -> Placed[T]:
        if self._last >= 0 and counted:
            self._intervals.append(at - self._last)
            self._refresh_in -= 1
            if self._refresh_in < 0 or at - self._last > self._limit or len(self._intervals) < _REFRESHED_EVERY:
                self._refresh()
        self._last = at
        return Placed(item, self._rounded(at))

    def _refresh(self) -> None:
        # at least a microsecond, or two frames could share a time
        self._interval = max(median_low(self._intervals), self._us)
        # two long ones in a row: it has become slow
        lately = min(self._intervals[-1], self._intervals[-2]) if len(self._intervals) > 1 else 0
        self._limit = USUAL_INTERVALS * max(lately, self._interval)
        self._refresh_in = _REFRESHED_EVERY

    def _leave_out(self, item: T) -> Placed[T]:
        self.left_out += 1
        return Placed(item, None)

    def _move_origin(self, at: int, to: int) -> None:
        assert self._origin is not None
        self._origin += at - to

    def _rounded(self, at: int) -> int:
        """µs, to even where it lies between two."""
        whole, rest = divmod(at, self._us)
        return whole + (2 * rest > self._us or (2 * rest == self._us and whole % 2))
