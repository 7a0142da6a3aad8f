"""A piece out of the middle of a long video, without decoding from its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from stmixer.media.decode import Limits
from stmixer.media.errors import MediaError
from stmixer.media.frame import Frame
from stmixer.media.probe import choose_stream, explain, open_container
from stmixer.media.source import open_source
from stmixer.media.track_display import TrackDisplay

LIMITS = Limits.unlimited()


def frames_from(path: Path, start_us: int) -> Iterator[Frame]:
    """Frames in presentation order from at or before a moment on, with the times that VideoReader gives them.

    For files whose timestamps rise without starting anew. Where the container cannot seek, or seeks too far, decoding
    starts at the beginning. ``Frame.index`` counts from the first frame yielded.

    Raises:
        MediaError: a file that cannot be read.
    """
    source = open_source(path)
    try:
        container = open_container(source, LIMITS, low_latency=False)
        with container:
            stream = choose_stream(container)
            stream.codec_context.thread_count = 1
            display = TrackDisplay(source, container, stream)
            base = stream.time_base
            first = next(_decode(container, stream), None)
            if first is None or first.pts is None or base is None:
                raise explain(source, None)
            origin = first.pts
            yield from _from(container, stream, display, origin, base, start_us)
    finally:
        source.close()


def _from(
    container: InputContainer, stream: VideoStream, display: TrackDisplay, origin: int, base: Fraction, start_us: int
) -> Iterator[Frame]:
    wanted = origin + int(Fraction(start_us, 1_000_000) / base)
    for target in (wanted, origin):
        try:
            container.seek(max(target, origin), stream=stream, backward=True, any_frame=False)
        except av.error.FFmpegError as error:
            raise MediaError("unreadable", f"the file cannot be wound: {error.strerror}") from None
        pictures = _decode(container, stream)
        begin = next(pictures, None)
        if begin is not None and begin.pts is not None and (begin.pts <= max(wanted, origin) or target == origin):
            break
    else:
        return
    last: int | None = None
    for index, picture in enumerate(chain([begin], pictures)):
        if picture.pts is None or (last is not None and picture.pts <= last):
            continue
        last = picture.pts
        yield Frame(picture, index, round((last - origin) * base * 1_000_000), display.of(picture))


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Decodes until the end, past packets that fail."""
    for packet in container.demux(stream):
        try:
            yield from stream.codec_context.decode(packet if packet.size else None)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            continue
        if not packet.size:
            return
