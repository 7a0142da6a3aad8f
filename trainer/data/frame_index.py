"""When every frame of a video is shown, and whether a piece out of its middle can be had without all before it.

The times are `VideoReader`'s, the service's own, whichever way they are found: packets are believed where a decoder
could not say anything else, for that is a hundred times faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av.error
import numpy as np

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.probe import choose_stream, explain, open_container
from stmixer.media.source import SeekableByteSource, open_source
from stmixer.trainer.data.records import Ints

LIMITS = Limits.unlimited()
_FIRST_FRAMES = 24
"""So many are decoded to see that packets and frames agree: where they do not, it is from the first pictures on, which
refer to others that the file does not hold, or never come out of the decoder."""


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The frames of a video.

    Attributes:
        times_us: (n,) when each is shown, µs after the first, rising.
        sure: how many of them can be counted from the beginning without doubt: up to the first that the reader left out
            because it could not be decoded or placed.
        left_out: what was left out after these, in words; empty where nothing was.
        seekable: a frame's stamp tells its time wherever reading starts. Else times depend on all that came before.
    """

    times_us: Ints
    sure: int
    left_out: str
    seekable: bool


def read_index(path: Path) -> FrameIndex:
    """The index of a video.

    Raises:
        MediaError: as VideoReader, and for a file that holds fewer frames than it says, or another one that cannot be
            read behind it.
    """
    stamped = None if is_of_several(path) else _stamped_times(path)
    if stamped is not None and not _jumps(stamped) and _begins_with(path, stamped):
        return FrameIndex(stamped, len(stamped), "", seekable=True)
    decoded = _decoded_index(path)
    same = stamped is not None and np.array_equal(stamped, decoded.times_us)
    return FrameIndex(decoded.times_us, decoded.sure, decoded.left_out, seekable=same)


def is_of_several(path: Path) -> bool:
    """Whether there are recordings behind the first, whose packets do not come with its own."""
    source = open_source(path)
    try:
        return isinstance(source, SeekableByteSource) and source.takes_over()
    finally:
        source.close()


def _stamped_times(path: Path) -> Ints | None:
    """The times that packets state; None where some state none, two the same, or the clock starts anew between them.

    Raises MediaError for a file that cannot be read, or is cut off.
    """
    source = open_source(path)
    try:
        container = open_container(source, LIMITS, low_latency=False)
        with container:
            stream = choose_stream(container)
            packets = [(p.pts, p.is_discard, p.dts) for p in container.demux(stream) if p.size]
            base, claimed = stream.time_base, stream.frames
            # AVI counts ticks, among them those of frames that were left out
            held = (packets[-1][2] or 0) + 1 if packets and container.format.name == "avi" else len(packets)
    except av.error.FFmpegError as error:
        raise explain(source, error) from error
    finally:
        source.close()
    if held < claimed:
        raise MediaError("unreadable", f"the file is cut off: it holds {held} of {claimed} frames")
    stamps = [pts for pts, discarded, _ in packets if not discarded]
    known = sorted(stamp for stamp in stamps if stamp is not None)
    if base is None or len(known) != len(stamps) or not known or (_steps(known) <= 0).any():
        return None
    # frames are decoded in a clock's order, whatever the order in which they are shown
    if (_steps([dts for _, _, dts in packets if dts is not None]) < 0).any():
        return None
    return _in_us(known, base)


def _in_us(stamps: list[int], base: Fraction) -> Ints:
    return np.array([round((stamp - stamps[0]) * base * 1_000_000) for stamp in stamps], dtype=np.int64)


def _steps(stamps: list[int]) -> Ints:
    return np.diff(np.array(stamps, dtype=np.int64)).astype(np.int64)


def _jumps(times_us: Ints) -> bool:
    """Whether timestamps leave a second or more out, which the reader may take for a clock that was reset."""
    return bool((np.diff(times_us) > 1_000_000).any())


def _begins_with(path: Path, times_us: Ints) -> bool:
    """Whether the first frames that the reader gives are shown at these times."""
    with VideoReader(path, limits=LIMITS, threads=1) as reader:
        first = [frame.pts_us for frame in islice(reader, _FIRST_FRAMES)]
    return first == times_us[: len(first)].tolist() and len(first) == min(_FIRST_FRAMES, len(times_us))


def _decoded_index(path: Path) -> FrameIndex:
    """What the reader says of the whole file."""
    times_us: list[int] = []
    sure: int | None = None
    with VideoReader(path, limits=LIMITS, threads=1) as reader:
        for frame in reader:
            if sure is None and reader.dropped:
                sure = frame.index
            times_us.append(frame.pts_us)
        if reader.unread is not None:
            raise reader.unread
        left_out = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reader.dropped.items())
    if left_out and sure is None:
        sure = len(times_us)
    return FrameIndex(
        np.array(times_us, dtype=np.int64), len(times_us) if sure is None else sure, left_out, seekable=False
    )
