"""Interlaced pictures made whole: FFmpeg's ``bwdif``, for those that the stream marks as interlaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import av.filter

_FILTER = "mode=send_frame:parity=auto:deint=interlaced"


@dataclass(frozen=True, slots=True)
class _Said:
    """What a filter might lose of a picture."""

    pts: int | None
    dts: int | None
    time_base: Fraction | None


class Deinterlacer:
    """Pictures in, as many pictures out, in order; nothing is touched before the first that is interlaced.

    From then on one picture is held back, since a field is filled in from those before and after it. Where the size or
    format changes it begins anew.
    """

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._shape = (0, 0, "")
        self._inside: deque[_Said] = deque()
        self.pictures = 0

    def put(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The next picture; gives those that are finished."""
        shape = (picture.width, picture.height, picture.format.name)
        if self._graph is not None and shape != self._shape:
            yield from self.end()
        if self._graph is None:
            if not picture.interlaced_frame:
                yield picture
                return
            self._graph, self._shape = _graph(picture), shape
        self.pictures += bool(picture.interlaced_frame)
        self._inside.append(_Said(picture.pts, picture.dts, picture.time_base))
        self._graph.vpush(picture)
        yield from self._finished()

    def end(self) -> Iterator[av.VideoFrame]:
        """No picture follows: the one that is held back."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._finished()
        self._graph = None
        self._inside.clear()

    def _finished(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None
        while self._inside:
            try:
                picture = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            said = self._inside.popleft()
            picture.pts, picture.dts = said.pts, said.dts
            if said.time_base is not None:  # the filter counts in half of it
                picture.time_base = said.time_base
            yield picture


def _graph(picture: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
    )
    filling = graph.add("bwdif", _FILTER)
    source.link_to(filling)
    filling.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
