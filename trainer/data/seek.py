"""A piece out of the middle of a long video, where its stamps allow it without decoding from its beginning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.frame import Frame
from stmixer.media.probe import choose_stream, open_container
from stmixer.media.source import open_source
from stmixer.media.track_display import TrackDisplay

LIMITS = Limits.unlimited()

SHORT_US = 30_000_000
"""Videos up to this long are decoded whole; of longer ones pieces are sought."""

NEAR_US = 2_000_000
"""A moment up to this is reached by decoding from the beginning."""

_BACK_S = (0, 2, 10)
"""How far before a moment a file is wound, s, one attempt after the other."""

_COMPARED = 8


def frames_from(path: Path, start_us: int, *, seekable: bool = True) -> Iterator[Frame]:
    """Frames in presentation order from at or before a moment on, with the times that VideoReader gives them.

    Where the file is not ``seekable``, the container cannot seek, or seeks too far, decoding starts at the beginning.
    ``Frame.index`` counts from the first frame yielded.

    Raises:
        MediaError: a file that cannot be read.
    """
    if seekable:
        yield from _sought(path, start_us)
    else:
        with VideoReader(path, limits=LIMITS, threads=1) as reader:
            yield from reader


def is_sought_alike(path: Path) -> bool:
    """Whether a file's first frames, decoded here, have the times and pictures that VideoReader gives them: it may lay
    more hands on a picture than decoding it. Raises MediaError for a file that cannot be read."""
    with VideoReader(path, limits=LIMITS, threads=1) as reader:
        wanted = [(frame.pts_us, frame.rgb()) for frame in islice(reader, _COMPARED)]
    try:
        found = [(frame.pts_us, frame.rgb()) for frame in islice(_sought(path, 0), _COMPARED)]
    except MediaError:
        return False
    return len(found) == len(wanted) and all(
        a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(found, wanted, strict=True)
    )


def _sought(path: Path, start_us: int) -> Iterator[Frame]:
    with _opened(path) as (container, stream, display):
        base, pictures = stream.time_base, _decode(container, stream)
        first = next(pictures, None)
        if first is None or first.pts is None or base is None:
            raise MediaError("no_frames", "the video holds no picture whose time is stated; check that it is complete")
        origin = first.pts
        wanted = origin + int(Fraction(start_us, 1_000_000) / base)
        begun: av.VideoFrame | None = first
        if start_us > NEAR_US:
            # some containers are wound to what is no keyframe, from which on nothing can be shown until the next one
            for back_s in _BACK_S:
                target = max(wanted - int(back_s / base), origin)
                pictures = _wound(container, stream, target)
                begun = next(pictures, None)
                if begun is not None and begun.pts is not None and begun.pts <= wanted:
                    break
            else:
                begun = None
        if begun is not None:
            yield from _timed(chain([begun], pictures), display, origin, base)
            return
    with _opened(path) as (container, stream, display):
        yield from _timed(_decode(container, stream), display, origin, base)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream, TrackDisplay]]:
    source = open_source(path)
    try:
        container = open_container(source, LIMITS, low_latency=False)
        with container:
            stream = choose_stream(container)
            stream.codec_context.thread_count = 1
            yield container, stream, TrackDisplay(source, container, stream)
    finally:
        source.close()


def _wound(container: InputContainer, stream: VideoStream, target: int) -> Iterator[av.VideoFrame]:
    """What comes from about there on; nothing where the container cannot be wound."""
    try:
        container.seek(target, stream=stream, backward=True, any_frame=False)
    except av.error.FFmpegError:
        return iter(())
    return _decode(container, stream)


def _timed(pictures: Iterable[av.VideoFrame], display: TrackDisplay, origin: int, base: Fraction) -> Iterator[Frame]:
    last: int | None = None
    for index, picture in enumerate(pictures):
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
