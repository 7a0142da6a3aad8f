"""Clips of a live stream's own packets: asked for here, cut by whichever decoder reads the stream.

A clip is asked for once its last picture has come, or when its decoder is given back: then it is what there is. A
decoder that has died, or does not answer, takes its packets with it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from stmixer.service.ipc.messages import MAX_CLIP, CutPackets, KeepPackets, NothingCut, PacketsCut

MOST_WAITING = 256
"""Clips of one stream at a time, from being asked for until they are stored. Until it is cut one is two moments and
who waits for it: what bounds memory is bytes (``CutBytes``, and the decoder's ring), and this what waits for events
that no sensible rule has. The one that is too many is the newest: were it the oldest, none would ever become whole."""

MOST_CUT = 4 * MAX_CLIP
"""Bytes of all that are being cut, or are cut and not stored yet."""
LEAST_COUNTED = 2**20
"""What a small one counts for: it holds a descriptor."""

MOST_NOTED = 4096
"""Keyframes whose arrival is known: minutes at the highest rate."""


class ClipLost(Exception):
    """There is no clip; ``reason``: as a decoder has it (``ipc.messages.NothingCut``), ``decoder`` where it is gone,
    ``ended`` where the stream is, ``busy`` where too many are wanted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class CutBytes:
    """Memory of all streams' clips, from being asked of a decoder until they are closed. Over ``most`` the next one
    waits for its turn, in the decoder's ring; one at a time there always is."""

    most: int = MOST_CUT
    held: int = 0
    _waiting: set[asyncio.Event] = field(default_factory=set)

    def take(self, size: int, free: asyncio.Event) -> bool:
        """Whether there was room for so much; else ``free`` is set once there may be."""
        if self.held and self.held + size > self.most:
            self._waiting.add(free)
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """So much is free again."""
        self.held -= size
        waiting, self._waiting = self._waiting, set()
        for free in waiting:
            free.set()


@dataclass(slots=True)
class CutClip:
    """A video in nameless memory of its own. ``from_us``, ``to_us``: its first and last picture by the stream's time;
    ``plays``: it is an mp4 that browsers show; ``among``: where it counts. Whoever has it closes it."""

    fd: int
    size: int
    from_us: int
    to_us: int
    codec: str
    plays: bool
    among: CutBytes

    @property
    def counted(self) -> int:
        """Bytes that it counts for."""
        return max(self.size, LEAST_COUNTED)

    def close(self) -> None:
        """Free the memory."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.among.give_back(self.counted)


@dataclass(eq=False, slots=True)
class WantedClip:
    """``among``: where it counts; ``paper``: what it is written to, once it is asked for; ``room``: what it has taken
    of ``among`` for that, before it is known how large it is."""

    from_us: int
    to_us: int
    cut: asyncio.Future[CutClip]
    among: CutBytes
    paper: int = -1
    room: int = 0

    def order(self) -> CutPackets:
        """What a decoder is asked, with ``paper``. Raises OSError where there is no memory or no descriptor for it."""
        self.paper = os.memfd_create("stmixer-clip", os.MFD_CLOEXEC)
        os.ftruncate(self.paper, MAX_CLIP)
        return CutPackets(self.from_us, self.to_us, MAX_CLIP)

    def answer(self, message: PacketsCut | NothingCut) -> None:
        """What the decoder says to that."""
        if isinstance(message, NothingCut):
            self.lose(message.reason)
            return
        if self.cut.done():
            self._give_up()
            return
        os.ftruncate(self.paper, message.size)
        paper, self.paper, room, self.room = self.paper, -1, self.room, 0
        clip = CutClip(paper, message.size, message.from_us, message.to_us, message.codec, message.plays, self.among)
        self.cut.set_result(clip)
        self.among.give_back(room - clip.counted)

    def lose(self, reason: str) -> None:
        """It does not come any more."""
        self._give_up()
        if not self.cut.done():
            self.cut.set_exception(ClipLost(reason))

    def _give_up(self) -> None:
        if self.paper >= 0:
            os.close(self.paper)
            self.paper = -1
        room, self.room = self.room, 0
        self.among.give_back(room)


@dataclass(eq=False)
class ClipDesk:
    """Of one stream. ``seconds``: what is kept of its packets, 0 for nothing; ``wished``: what would do for its rules.
    ``moved``: there is something to ask a decoder for, or ``seconds`` is another. ``waiting``: clips that no decoder
    has been asked for yet; ``wanted``: those, and all that ``let_go`` has not seen."""

    newest_us: Callable[[], int]
    seconds: float = 0.0
    wished: float = 0.0
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: list[WantedClip] = field(default_factory=list)
    wanted: set[WantedClip] = field(default_factory=set)
    among: CutBytes = field(default_factory=CutBytes)
    _seen: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MOST_NOTED))
    _closed: bool = False

    def keep(self, seconds: float) -> None:
        """Have so much be kept from now on."""
        if seconds != self.seconds:
            self.seconds = seconds
            self.moved.set()

    def kept(self) -> KeepPackets:
        """What a decoder is told of that."""
        return KeepPackets(self.seconds, MAX_CLIP)

    def note(self, at_us: int, pts_us: int) -> None:
        """A keyframe of ``pts_us`` was received at ``at_us``, epoch µs."""
        self._seen.append((at_us, pts_us))

    def moment_of(self, at_us: int) -> int | None:
        """What the stream's time was at a moment by our clock, by the keyframe nearest to it; None before the first."""
        if not self._seen:
            return None
        seen_us, pts_us = min(self._seen, key=lambda seen: abs(seen[0] - at_us))
        return pts_us + at_us - seen_us

    def want(self, from_us: int, to_us: int) -> WantedClip:
        """Ask for what was shown between two moments, µs of the stream, once the later has come. ``let_go`` of it.
        Raises ClipLost."""
        if self._closed or len(self.wanted) >= MOST_WAITING:
            raise ClipLost("ended" if self._closed else "busy")
        wanted = WantedClip(max(0, from_us), max(0, to_us), asyncio.get_running_loop().create_future(), self.among)
        self.waiting.append(wanted)
        self.wanted.add(wanted)
        self.look()
        return wanted

    def end_at(self, wanted: WantedClip, to_us: int) -> None:
        """It is to end sooner than was said, where it is not cut yet."""
        wanted.to_us = max(0, min(wanted.to_us, to_us))
        self.look()

    def let_go(self, wanted: WantedClip) -> None:
        """Nobody wants it any more; what was cut of it is closed."""
        self.wanted.discard(wanted)
        if wanted in self.waiting:
            self.waiting.remove(wanted)
        if not wanted.cut.cancel() and not wanted.cut.cancelled() and wanted.cut.exception() is None:
            wanted.cut.result().close()

    def look(self) -> None:
        """Pictures have come: maybe the last of a clip."""
        if self.waiting and any(wanted.to_us <= self.newest_us() for wanted in self.waiting):
            self.moved.set()

    def is_due(self, wanted: WantedClip) -> bool:
        """Whether its last picture has come, and no decoder has been asked for it."""
        return wanted in self.waiting and wanted.to_us <= self.newest_us()

    def take_due(self, *, all_of_them: bool = False) -> list[WantedClip]:
        """Those whose last picture has come, to be asked for now, as far as there is room; for others ``moved`` is set
        when there is."""
        newest_us, due = self.newest_us(), list[WantedClip]()
        for wanted in list(self.waiting):
            if all_of_them or wanted.to_us <= newest_us:
                if not self.among.take(MAX_CLIP, self.moved):
                    break
                wanted.room = MAX_CLIP
                self.waiting.remove(wanted)
                due.append(wanted)
        return due

    def lose(self, reason: str) -> None:
        """What was to be cut is gone."""
        waiting, self.waiting = self.waiting, []
        for wanted in waiting:
            wanted.lose(reason)

    def close(self) -> None:
        """The stream has ended."""
        self._closed = True
        self.lose("ended")
