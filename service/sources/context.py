"""What a source works with and for: its stream, the engine, decoders, and whom it tells how it goes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stmixer.media.limits import Limits
from stmixer.service.engine.engine import Engine
from stmixer.service.engine.frame_counts import FrameCounts
from stmixer.service.engine.stream import Stream
from stmixer.service.errors import StmixerError
from stmixer.service.ipc.messages import Instants, SamplingOrder
from stmixer.service.settings import Settings
from stmixer.service.sources.clip_desk import ClipDesk
from stmixer.service.sources.decoder_pool import DecoderPool

ENDLESS_S = 1e9
"""Of a source that may last as long as it likes."""
MAX_NOTICES = 32
"""Notices that wait to be sent, the newest of them."""


class Notice(NamedTuple):
    """What a live client is to know at once."""

    code: str
    message: str


@dataclass(slots=True)
class SourceContext:
    """``fail`` is told what ends the source badly, ``finish`` what was odd about one that is done, ``changed`` that
    there is something new. ``codec``: FFmpeg's name, once it is known.

    ``room`` is set where a keyframe was settled: there may be room in the ring. ``origin``: monotonic seconds of t = 0
    by the source's own clock, where it has one; ``capture_origin_us``: epoch µs of it by the camera's.

    ``clips``: where clips of its packets are asked for; None where none ever are.

    ``warnings``: what was odd, in words, for the end; ``notices``: what a live client is to know at once.
    """

    engine: Engine
    pool: DecoderPool
    settings: Settings
    stream: Stream
    counts: FrameCounts
    fail: Callable[[StmixerError], None]
    finish: Callable[[Sequence[str]], None]
    changed: Callable[[], None]
    warnings: list[str] = field(default_factory=list)
    notices: deque[Notice] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))
    room: asyncio.Event = field(default_factory=asyncio.Event)
    origin: float | None = None
    capture_origin_us: int | None = None
    codec: str = ""
    clips: ClipDesk | None = None

    def notice(self, code: str, message: str) -> None:
        """Let a live client know."""
        self.notices.append(Notice(code, message))

    def sampling(self, *, longest_s: float = ENDLESS_S, threads: int = 1, cpu_s: float | None = None) -> SamplingOrder:
        """How a decoder samples this stream, and what the source may cost it."""
        settings, schedule = self.settings, self.stream.schedule
        config = self.engine.models.of(self.stream).info.config
        width, height = settings.max_width, settings.max_height
        instants = None
        if self.stream.policy == "latest":
            instants = Instants(schedule.hz, round(schedule.lookahead_ms * 1000))
        return SamplingOrder(
            grid_step=(config.clip.grid_s.numerator, config.clip.grid_s.denominator),
            short_side=config.preprocess.short_side,
            antialias=config.preprocess.antialias,
            limits=Limits(width, height, longest_s, width * height),
            instants=instants,
            threads=threads,
            cpu_s=cpu_s,
        )
