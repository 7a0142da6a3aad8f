"""A video drawn into a copy, in a decoder process: the media is as untrusted the second time.

It is no stream: nothing is sampled. A decoder that dies ends it in words; a lost socket cancels it, and ends the
decoder.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from stmixer.media.limits import Limits
from stmixer.service.errors import InputError, media_status, no_room
from stmixer.service.ipc.channel import ChannelError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import DrawnTo, NotStored, Render, Rendered, SourceFailed
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DecoderPool
from stmixer.service.sources.hearing import Hearing
from stmixer.service.sources.patience import STUCK_S, State, until_given_up

log = logging.getLogger("stmixer.rendering")

NOT_DRAWN = "drawing into this video failed ({}); ask for JSON instead"
CPU_PER_SECOND = 20
"""CPU seconds that drawing may take per second that a video may play."""


async def render(
    pool: DecoderPool,
    settings: Settings,
    metrics: Metrics,
    *,
    trained: bool,
    source_fd: int,
    target_fd: int,
    drawing_fd: int,
    progress: Callable[[float, float | None], None] = lambda done_s, of_s: None,
    failed: str = NOT_DRAWN,
) -> None:
    """Draw the keyframes of ``ipc.drawing``, by rising time, into a copy of a video file.

    ``progress`` is told seconds of the video that are drawn and how long it is, None where it does not say; what it
    raises ends it. ``failed``: what is said where the decoder breaks off, with ``{}`` for how. Raises InputError,
    CapacityError.
    """
    limits = Limits(settings.max_width, settings.max_height, settings.max_duration_s)
    order = Render(trained, limits, CPU_PER_SECOND * settings.max_duration_s)
    decoder = await pool.acquire()
    hearing, clean, drawn_us = Hearing(decoder.channel), False, 0

    def come_to() -> tuple[int, int, int, int]:
        read, written = (os.lseek(fd, 0, os.SEEK_CUR) for fd in (source_fd, target_fd))
        return read, written, os.fstat(target_fd).st_size, drawn_us

    looking = asyncio.create_task(_given_up(decoder, come_to))
    try:
        await decoder.channel.send(order, fds=[source_fd, target_fd, drawing_fd])
        while (received := await hearing.next()) is not None and isinstance(received.message, DrawnTo):
            drawn_us, of_us = received.message.done_us, received.message.of_us
            progress(drawn_us / 1e6, None if of_us is None else of_us / 1e6)
            await hearing.rest()
        if received is None:
            stuck = looking.done()
            metrics.decoders_lost.labels("stuck" if stuck else "exit").inc()
            raise ChannelError(f"it made no progress for {STUCK_S:g} s" if stuck else "it ended")
        match received.message:
            case Rendered():
                clean = True
            case SourceFailed(code, message):
                clean = True
                raise InputError(code, message, media_status(code))
            case NotStored(reason):
                clean = True
                log.error("a drawn video cannot be stored: %s", reason)
                raise no_room()
            case other:
                raise ChannelError(f"{type(other).__name__} is no answer to Render")
    except ChannelError as error:
        raise InputError("unreadable", failed.format(error)) from None
    finally:
        looking.cancel()
        await pool.release(decoder, clean=clean)


async def _given_up(decoder: Child, come_to: State) -> None:
    await until_given_up(decoder.pid, come_to, live=False)
    decoder.end_now()
