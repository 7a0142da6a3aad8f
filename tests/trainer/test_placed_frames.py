"""Videos without stamps, or with more than one clock: read as the service reads them, or refused by name.

Every frame of a clip here shows its own number: the left half its units of 20, the right half its twenties.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from live_video import piece
from training import run_config

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError
from stmixer.model.config import PreprocessConfig
from stmixer.model.zoo import variant
from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.check import Thoroughness, check_split
from stmixer.trainer.data.clips import ClipReader
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.frame_index import read_index
from stmixer.trainer.data.records import VideoFile
from stmixer.trainer.data.seek import frames_from
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError

FPS, FRAMES = 10, 400


def picture(number: int) -> np.ndarray:
    rgb = np.zeros((96, 128, 3), np.uint8)
    rgb[:, :64], rgb[:, 64:] = number % 20 * 12, number // 20 * 12
    return rgb


def number_on(rgb: np.ndarray) -> int:
    half = rgb.shape[1] // 2
    left, right = rgb[:, : half - 8].mean(), rgb[:, half + 8 :].mean()
    return round(left / 12) + 20 * round(right / 12)


def write(
    path: Path,
    container: str,
    codec: str,
    *,
    frames: range = range(FRAMES),
    b_frames: int = 0,
    start_s: float = 0,
    fps: int = FPS,
    step: int = 1,
) -> Path:
    """A video that shows its numbers from a moment of its clock on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container) as output:
        track = output.add_stream(codec, rate=fps)
        track.width, track.height, track.pix_fmt = 128, 96, "yuv420p"
        track.codec_context.max_b_frames, track.codec_context.gop_size = b_frames, 20
        track.bit_rate = 2_000_000
        for i, number in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = round(start_s * fps) + i * step, Fraction(1, fps)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return path


def joined(path: Path, *starts_s: float, container: str = "mpegts") -> Path:
    """Several recordings one after the other, each with a clock of its own."""
    each = FRAMES // len(starts_s)
    parts = [
        write(path.with_name(f"part{i}"), container, "libx264", frames=range(i * each, (i + 1) * each), start_s=start)
        for i, start in enumerate(starts_s)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


def custom(root: Path, video: str, *frames: int) -> Path:
    rows = [f"{video},{frame},0.1,0.1,0.5,0.9,walk,1" for frame in frames]
    (root / "videos.csv").write_text(f"video,split\n{video},train\n")
    (root / "boxes.csv").write_text("\n".join(["video,frame,x1,y1,x2,y2,label,track", *rows]) + "\n")
    return root


MADE = {
    "h264.avi": lambda path: write(path, "avi", "libx264"),
    "h264_b.avi": lambda path: write(path, "avi", "libx264", b_frames=2),
    "mpeg4_b.avi": lambda path: write(path, "avi", "mpeg4", b_frames=2),
    "restarts.ts": lambda path: joined(path, 0, 0),
    "falls_back.ts": lambda path: joined(path, 100, 50),
    "three.ts": lambda path: joined(path, 7, 7, 7, 7),
    "two.mp4": lambda path: joined(path, 0, 0, container="mp4"),
    "plain.flv": lambda path: write(path, "flv", "libx264", b_frames=2),
    "raw.h264": lambda path: write(path, "h264", "libx264", fps=25),
    "plain.mp4": lambda path: write(path, "mp4", "libx264", b_frames=2),
    "plain.ts": lambda path: write(path, "mpegts", "libx264", b_frames=2, start_s=800),
    "slow.mkv": lambda path: write(path, "matroska", "libx264", fps=30, step=45, frames=range(60)),
}


@pytest.mark.parametrize("cache_mb", [64, 0], ids=["kept", "read again"])
@pytest.mark.parametrize("name", MADE)
def test_clips_hold_the_frames_that_the_service_sees(tmp_path: Path, name: str, cache_mb: int) -> None:
    """At the annotated frame, and before and after it."""
    path = MADE[name](tmp_path / "videos" / name)
    with VideoReader(path, limits=Limits.unlimited()) as reader:
        shown = [(frame.pts_us, number_on(frame.rgb())) for frame in reader]
    assert [number for _, number in shown] == list(range(len(shown)))
    wanted = [n for n in (0, 3, 150, 201, 290, 399) if n < len(shown)]
    split = check_split(read_custom(CustomSet(kind="custom"), custom(tmp_path, name, *wanted), "train", None), "quick")
    assert split.pts_us.tolist() == [shown[n][0] for n in wanted]
    reader_of = ClipReader(variant("tiny").clip, antialias=False, cache_bytes=cache_mb << 20)
    grid = reader_of.window.grid
    for n, pts_us in zip(wanted, split.pts_us.tolist(), strict=True):
        indices = reader_of.window.indices(pts_us)
        frames = reader_of.read(split.videos[0], indices, PreprocessConfig().short_side)
        expected = [max([number for t, number in shown if t <= grid.time_us(i) + 16_667] or [0]) for i in indices]
        assert [number_on(frame) for frame in frames] == expected, (n, indices)
        assert n in expected or abs(grid.time_us(grid.nearest(pts_us)) - pts_us) > 16_667


@pytest.mark.parametrize(
    ("name", "seekable"),
    [
        ("plain.mp4", True),
        ("plain.ts", True),
        ("slow.mkv", True),
        ("h264.avi", False),
        ("mpeg4_b.avi", False),
        ("restarts.ts", False),
        ("falls_back.ts", False),
        ("plain.flv", True),
    ],
)
def test_which_are_sought(tmp_path: Path, name: str, seekable: bool) -> None:
    """Those that are not cost what lies before; the others are not taken for such."""
    path = MADE[name](tmp_path / "videos" / name)
    split = check_split(read_custom(CustomSet(kind="custom"), custom(tmp_path, name, 5), "train", None), "quick")
    source = split.videos[0].source
    assert isinstance(source, VideoFile)
    assert source.duration_us is not None
    assert source.seekable == (seekable or source.duration_us <= 30_000_000)
    first = next(iter(frames_from(path, 35_000_000, seekable=seekable)))
    assert (first.pts_us > 0) == seekable
    assert first.pts_us <= 35_000_000


def test_frames_of_another_video_behind_the_first_are_counted(tmp_path: Path) -> None:
    """Whose packets do not come with the first one's."""
    path = tmp_path / "x.ts"
    path.write_bytes(piece(0, 50) + piece(50, 50, pid=0x200))
    index = read_index(path)
    assert (len(index.times_us), index.sure, index.seekable) == (100, 100, False)
    assert index.times_us.tolist() == [40_000 * n for n in range(100)]


@pytest.mark.parametrize("thoroughness", ["quick", "full"])
def test_a_file_behind_the_first_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, thoroughness: Thoroughness
) -> None:
    """The first alone is not what somebody has described."""
    path = write(tmp_path / "videos" / "two.mp4", "mp4", "libx264", frames=range(100))
    good = read_custom(CustomSet(kind="custom"), custom(tmp_path, "two.mp4", 5), "train", None)
    by_time = check_split(good, thoroughness)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: whole.index(b"moov") - 50])
    with pytest.raises(MediaError, match="index"):
        read_index(path)
    for split in (good, by_time):
        with pytest.raises(TrainError, match=r"two\.mp4: .*index"):
            check_split(split, thoroughness)


def test_a_long_one_that_cannot_be_sought_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "videos" / "long.avi", "avi", "libx264", fps=1, frames=range(399))
    custom(tmp_path, "long.avi", 5)
    assert check_split(read_custom(CustomSet(kind="custom"), tmp_path, "train", None), "quick")
    write(tmp_path / "videos" / "long.avi", "avi", "libx264", fps=1, frames=range(399), step=2)
    with pytest.raises(TrainError) as caught:
        load_data(run_config(tmp_path, sets=[{"kind": "custom", "name": "custom", "parts": ["train"]}]), ("train",))
    (line,) = caught.value.lines
    assert line.startswith(f"custom, train: {tmp_path}/videos/long.avi: its frames cannot be placed reliably")
    assert "runs 13 minutes" in line


def test_frames_that_cannot_be_counted_are_refused_by_name(tmp_path: Path) -> None:
    """A packet that holds nothing: what comes after it has other numbers in every reader."""
    path = write(tmp_path / "videos" / "hole.avi", "avi", "mpeg4", b_frames=2)
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(201):
        place = data.index(b"00dc", place + 1)
    size = int.from_bytes(data[place + 4 : place + 8], "little")
    data[place + 8 : place + 8 + size] = b"\xff" * size
    path.write_bytes(data)
    index = read_index(path)
    assert 190 <= index.sure <= 202
    assert index.left_out == "1 corrupt"
    good = read_custom(CustomSet(kind="custom"), custom(tmp_path, "hole.avi", 5, 180), "train", None)
    assert check_split(good, "quick").pts_us.tolist() == [500_000, 18_000_000]
    with pytest.raises(TrainError, match=r"hole\.avi: which frame is which is in doubt from \d+ on.*\(1 corrupt\)"):
        check_split(read_custom(CustomSet(kind="custom"), custom(tmp_path, "hole.avi", 5, 250), "train", None), "quick")
