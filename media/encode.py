"""Writing pictures and video."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import av
import av.codec
import av.error
import cv2
import numpy as np
from av.video.stream import VideoStream

from stmixer.media.jpeg import decode_jpeg, encode_jpeg

__all__ = ["Mp4Writer", "decode_jpeg", "encode_jpeg", "encode_png"]

TIME_BASE = Fraction(1, 1_000_000)
HD_HEIGHT = 720
"""Rows from which video has the colours of BT.709, else of BT.601: what players assume where nothing is said."""
_LIMITED = 1  # AVCOL_RANGE_MPEG
_BT709, _BT601 = (1, 1, 1), (6, 6, 6)  # matrix, primaries, transfer: ITU-T H.273


def encode_png(rgb: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB → PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


class _ReadBack:
    """A second, independent position in a file that is being written: FFmpeg moves the index to the front with it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def read(self, size: int) -> bytes:
        before = self._file.tell()
        self._file.seek(self._at)
        data = self._file.read(size)
        self._file.seek(before)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at


class _NamelessFile:
    """The file object without its name, and without ``seek`` where it cannot.

    ``refused``: why it did not take something, first. FFmpeg goes on after that, and ends with an error of its own.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._write = file.write
        self.refused: OSError | None = None
        if file.seekable():
            self.seek = file.seek
            self.tell = file.tell

    def write(self, data: bytes) -> int:
        try:
            return self._write(data)
        except OSError as error:
            self.refused = self.refused or error
            raise

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Around what writes to it: whatever that ends with, where the file refused something its reason is raised."""
        try:
            yield
        except (av.error.FFmpegError, OSError):
            if self.refused is not None:
                raise self.refused from None
            raise


class Mp4Writer:
    """Writes H.264 in MP4, keeping every frame's own time to the microsecond.

    With a target that can be sought and read back the index comes first (playable while it loads); otherwise the file
    is fragmented, so that it can be sent while it is made. Odd sizes get one more column or row, a copy of the last,
    since 4:2:0 needs even ones. Colours are BT.709's from 720 rows on, else BT.601's, and tagged so.

    Args:
        target: a path, or a binary file object, which is not closed here.
        width, height: pixels of the frames to come.
        rate: nominal frames per second; only a hint.
        crf: x264's quality, lower is closer to what is written; 21 is made for looking at.
    """

    def __init__(self, target: str | Path | BinaryIO, width: int, height: int, rate: float, *, crf: int = 21) -> None:
        self._owned = isinstance(target, str | Path)
        self._file = open(target, "w+b") if isinstance(target, str | Path) else target  # noqa: SIM115
        self._shape = (height, width, 3)
        self._last_us = -1
        self._closed = False
        self._target = _NamelessFile(self._file)
        self._container = av.open(
            self._target, "w", format="mp4", options={"movflags": self._layout()}, io_open=self._read_back
        )
        codec = "libx264" if "libx264" in av.codec.codecs_available else "mpeg4"
        # Half a thousandth is finer than any nominal rate; the times themselves are in microseconds.
        stream = self._container.add_stream(codec, rate=Fraction(rate).limit_denominator(2000))
        self._stream = cast(VideoStream, stream)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = TIME_BASE
        context = self._stream.codec_context
        self._colours = _BT709 if min(width, height) >= HD_HEIGHT else _BT601
        context.colorspace, context.color_primaries, context.color_trc = self._colours
        context.color_range = _LIMITED
        # No B-frames: times then need no edit list, and nothing is held back.
        self._stream.codec_context.max_b_frames = 0
        if codec == "libx264":
            self._stream.codec_context.options = {"preset": "veryfast", "crf": str(crf)}
        else:
            self._stream.codec_context.bit_rate = width * height * 4

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, rgb: np.ndarray, pts_us: int) -> None:
        """Adds a frame: (height, width, 3) uint8; ``pts_us`` must rise.

        Raises:
            ValueError: another shape, or a time no later than the last.
            OSError: the target does not take it.
        """
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"expected {self._shape} uint8, got {rgb.shape} {rgb.dtype}")
        if pts_us <= self._last_us:
            raise ValueError(f"frame at {pts_us} µs is not later than {self._last_us} µs")
        self._last_us = pts_us
        height, width, _ = rgb.shape
        if height % 2 or width % 2:
            rgb = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=self._colours[0], dst_color_range=_LIMITED, threads=1)
        frame.pts, frame.time_base = pts_us, TIME_BASE
        with self._target.heard():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what is outstanding. May be called twice. Raises OSError where the target does not take it."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._target.refused is not None:
                return  # FFmpeg crashes where an end is written to what has no beginning
            with self._target.heard():
                if self._last_us >= 0:
                    self._container.mux(self._stream.encode(None))
                self._container.close()
        finally:
            if self._owned:
                self._file.close()

    def _layout(self) -> str:
        if self._file.seekable() and self._file.readable():
            return "faststart"
        return "frag_keyframe+empty_moov+default_base_moof"

    def _read_back(self, url: str, flags: int, options: dict[str, str]) -> _ReadBack:
        return _ReadBack(self._file)
