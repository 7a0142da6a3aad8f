import errno
import io
import os
from typing import Any

import numpy as np
import pytest

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.encode import Mp4Writer

TIMES = [0, 33_367, 40_001, 90_000, 1_000_003, 1_000_004]


class Pipe:
    """Takes bytes and can do nothing else."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)
        return len(data)

    def seekable(self):
        return False

    def readable(self):
        return False


def write(target, frames, width, height):
    with Mp4Writer(target, width, height, 29.97) as writer:
        for rgb, pts_us in zip(frames, TIMES, strict=True):
            writer.write(rgb, pts_us)


@pytest.mark.parametrize("kind", ["path", "file", "pipe"])
@pytest.mark.parametrize("size", [(96, 64), (97, 65)])
def test_pictures_and_times_come_back(tmp_path, draw_corners, kind, size, read_corners):
    frames = [draw_corners(*size, 60 + 20 * i) for i in range(len(TIMES))]
    target = {"path": tmp_path / "out.mp4", "file": io.BytesIO(), "pipe": Pipe()}[kind]
    write(target, frames, *size)
    data = target.read_bytes() if kind == "path" else target.getvalue() if kind == "file" else target.data
    assert data.find(b"moov") < data.find(b"mdat")  # plays while it loads
    assert (b"moof" in data) == (kind == "pipe")
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        read = [(f.pts_us, f.rgb()) for f in reader]
    assert [t for t, _ in read] == TIMES
    assert (reader.info.width, reader.info.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    for (_, rgb), frame in zip(read, frames, strict=True):
        assert np.abs(rgb[: size[1], : size[0]].astype(int) - frame).mean() < 8
    assert read_corners(read[-1][1]) == "rgbw"
    assert reader.warnings == []


def test_a_pipe_gets_its_bytes_before_the_end():
    pipe = Pipe()
    rgb = np.zeros((64, 96, 3), np.uint8)
    with Mp4Writer(pipe, 96, 64, 30) as writer:
        for index in range(600):
            writer.write(rgb, index * 33_333)
        assert b"moof" in pipe.data


def test_what_does_not_fit_is_refused(tmp_path):
    rgb = np.zeros((64, 96, 3), np.uint8)
    with Mp4Writer(tmp_path / "a.mp4", 96, 64, 30) as writer:
        with pytest.raises(ValueError, match="expected"):
            writer.write(rgb[:-1], 0)
        with pytest.raises(ValueError, match="expected"):
            writer.write(rgb.astype(np.float32), 0)
        writer.write(rgb, 10)
        with pytest.raises(ValueError, match="not later"):
            writer.write(rgb, 10)


def test_a_callers_file_stays_open_and_closing_twice_is_fine():
    file = io.BytesIO()
    writer = Mp4Writer(file, 96, 64, 30)
    writer.write(np.zeros((64, 96, 3), np.uint8), 0)
    writer.close()
    writer.close()
    assert file.getvalue()


def test_nothing_written_is_no_crash(tmp_path):
    with Mp4Writer(tmp_path / "a.mp4", 96, 64, 30):
        pass


class Full(io.BytesIO):
    """Takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("room", [0, 100, 40_000])
def test_a_full_disk_is_its_own_error_whenever_it_comes(room: int) -> None:
    """Of FFmpeg's own nothing could be told apart."""
    noise = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    with pytest.raises(OSError, match="No space left") as raised, Mp4Writer(Full(room), 128, 96, 25) as writer:  # noqa: PT012
        for number in range(40):
            writer.write(np.roll(noise, number, axis=1), number * 40_000)
    assert raised.value.errno == errno.ENOSPC
