"""Footage in its set's folder: a link to its video, or one that is made of its pictures; and boxes on its frames."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.encode import Mp4Writer
from stmixer.media.errors import MediaError
from stmixer.media.grid import HALF_RAW_US
from stmixer.model.clip import MAX_ASPECT, input_size
from stmixer.trainer.data.check import read_picture
from stmixer.trainer.data.frame_index import read_index
from stmixer.trainer.data.records import Ints
from stmixer.trainer.imports.export import Footage, LeftOut, SeenBox

CRF = 14
"""Of videos that are made of pictures: hardly to be told from these."""

BEYOND_US = 1_000_000
"""So far behind the last frame a moment still means it."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedVideo:
    """A video of the new set.

    Attributes:
        name: its file below videos/.
        times_us: (n,) when each frame is shown; ``seekable``: found wherever reading starts.
        size_wh: of its pictures, px; ``shown_wh``: what of that its pictures fill.
        frames: of one that is made of pictures, the number that the export has for each of its frames; else None.
        own: it was put there; else it lay there itself.
    """

    footage: Footage
    name: str
    times_us: Ints
    size_wh: tuple[int, int]
    shown_wh: tuple[int, int]
    frames: Mapping[int, int] | None = None
    seekable: bool = True
    own: bool = True

    @property
    def fps(self) -> float:
        """Frames per second, the mean; 0 of a single one."""
        return (len(self.times_us) - 1) * 1e6 / float(self.times_us[-1]) if len(self.times_us) > 1 else 0.0

    def frame(self, box: SeenBox) -> int | None:
        """The frame that a box is on; None behind the end, and between made frames."""
        if box.frame is not None:
            if self.frames is not None:
                return self.frames.get(box.frame)
            return box.frame if box.frame < len(self.times_us) else None
        assert box.second is not None
        if not 0 <= box.second * 1e6 <= float(self.times_us[-1]) + BEYOND_US:
            return None
        t_us = round(box.second * 1e6)
        return max(int(np.searchsorted(self.times_us, t_us + HALF_RAW_US, side="right")) - 1, 0)

    def shares(self, box: SeenBox) -> tuple[float, float, float, float]:
        """Its corners as shares of the picture; they may lie outside."""
        wide, high = box.size_wh or self.shown_wh
        x, y = (shown / size for shown, size in zip(self.shown_wh, self.size_wh, strict=True))
        x1, y1, x2, y2 = box.xyxy
        return x1 / wide * x, y1 / high * y, x2 / wide * x, y2 / high * y


def place_video(footage: Footage, source: Path, folder: Path, name: str, *, copy: bool, force: bool) -> PlacedVideo:
    """Link a video into a folder, or copy it; as `put`.

    Raises:
        MediaError: one that training could not use.
        OSError: the folder does not take it.
    """
    with VideoReader(source, limits=Limits.unlimited(), threads=1) as reader:
        size = reader.info.width, reader.info.height
    input_size(*size, 256, 256 * MAX_ASPECT)
    index = read_index(source)
    own = put(source, folder / name, copy=copy, force=force)
    return PlacedVideo(footage, name, index.times_us, size, size, seekable=index.seekable, own=own)


def make_video(
    footage: Footage,
    pictures: Mapping[int, Path],
    fps: float,
    folder: Path,
    name: str,
    left_out: LeftOut,
    *,
    force: bool,
) -> PlacedVideo:
    """Write a sequence of pictures as a video, each at its number's time. ``force``: over what is there.

    Raises:
        MediaError: a first picture that cannot be used.
        OSError: the folder does not take it.
    """
    numbers = sorted(pictures)
    first = read_picture(pictures[numbers[0]])
    height, width = first.shape[:2]
    input_size(width, height, 256, 256 * MAX_ASPECT)
    target = folder / name
    _make_room(target, force=force)
    frames: dict[int, int] = {}
    times: list[int] = []
    with _whole_or_not(target), Mp4Writer(target, width, height, fps, crf=CRF) as writer:
        for number in numbers:
            where = pictures[number].name
            try:
                rgb = first if number == numbers[0] else read_picture(pictures[number])
            except MediaError as error:
                left_out.note(f"pictures of a sequence cannot be read ({error.code})", where)
                continue
            if rgb.shape != first.shape:
                left_out.note("pictures of a sequence are of another size than its first", where)
                continue
            times.append(round((number - numbers[0]) * 1_000_000 / fps))
            writer.write(rgb, times[-1])
            frames[number] = len(frames)
    even = width + width % 2, height + height % 2
    return PlacedVideo(footage, name, np.array(times, dtype=np.int64), even, (width, height), frames)


def put(source: Path, target: Path, *, copy: bool, force: bool) -> bool:
    """A link to a file, or a copy, in place of an earlier link, or with ``force`` of anything; a file that lies there
    itself stays, and False says so. Raises OSError."""
    if not target.is_symlink() and target.exists() and target.samefile(source):
        return False
    _make_room(target, force=force)
    with _whole_or_not(target):
        if copy:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source.resolve())
    return True


@contextmanager
def _whole_or_not(target: Path) -> Iterator[None]:
    """Takes away what was not finished."""
    try:
        yield
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _make_room(target: Path, *, force: bool) -> None:
    """Raises OSError where another file lies there that is no link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_symlink() and not force:
        raise FileExistsError(errno.EEXIST, f"{target.name} lies there already; move it away, or add --force")
    target.unlink(missing_ok=True)


def inner_name(name: str, suffix: str | None = None) -> str:
    """A name that leads nowhere outside its folder, with another ending if given."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    path = PurePosixPath(*(parts or ["unnamed"]))
    return path.as_posix() if suffix is None else path.with_name(path.name + suffix).as_posix()
