"""Training reads the very frames that serving does."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import OWN_CLIPS, shared_clips

from stmixer.media.decode import Limits, VideoReader
from stmixer.model.config import DetectorConfig
from stmixer.model.zoo import variant
from stmixer.service.offline.file import FileResults
from stmixer.service.schemas import DetectOptions
from stmixer.trainer.data.check import frame_times
from stmixer.trainer.data.clips import ClipReader
from stmixer.trainer.data.records import FrameFolder, Video, VideoFile
from stmixer.trainer.data.seek import frames_from

OWN = sorted(OWN_CLIPS.glob("*.mp4"))
SHARED = [p for name in ("fall_vfr_vga.mp4", "jhmdb_catch.avi") for p in shared_clips(name)]
ROTATED = shared_clips("odd/*rot*")[:2]
LIMITS = Limits.unlimited()


def served(path: Path, config: DetectorConfig, hz: float, lookahead_ms: float | None) -> list[tuple[int, np.ndarray]]:
    """(keyframe's moment, frames) of every window that ``stmixer detect`` gives its model."""
    windows: list[np.ndarray] = []

    def run(jobs: list[Any]) -> Any:
        windows.extend(job.frames for job in jobs)
        actors: list[tuple[()]] = [() for _ in jobs]
        kept = [SimpleNamespace(action_scores=np.zeros((0, 0))) for _ in jobs]
        looks = [np.zeros((0, 0), np.float16) for _ in jobs]
        return SimpleNamespace(
            preprocess_s=0.0, inference_s=0.0, postprocess_s=0.0, actors=actors, kept=kept, looks=looks, entries=None
        )

    card = SimpleNamespace(config=config, name=config.name, trained=True, labels=())
    runner = SimpleNamespace(card=card, run=run, forget=lambda stream: None, missing=tuple, bank_bytes=(0, 0))
    options = DetectOptions(keyframe_hz=hz, lookahead_ms=lookahead_ms)
    results = list(FileResults(runner, path, options))  # type: ignore[arg-type]
    return [(result.pts_us, frames) for result, frames in zip(results, windows, strict=True)]


@pytest.mark.parametrize("path", [*OWN, *SHARED, *ROTATED], ids=lambda p: p.name)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "sought"])
def test_same_frames_as_serving(path: Path, whole: bool) -> None:
    config = variant("tiny")
    times = frame_times(path)
    if whole and times[-1] > 30_000_000:
        pytest.skip("too long to be read whole")
    video = Video(path.name, VideoFile(path, int(times[-1]) if whole else None))
    for lookahead_ms in (None, 200):
        reader = ClipReader(config.clip, antialias=False, cache_bytes=1 << 30)
        for pts_us, frames in served(path, config, 1.7, lookahead_ms)[:12]:
            indices = reader.window.indices(pts_us, lookahead_ms)
            ours = reader.read(video, indices, config.preprocess.short_side)
            assert np.array_equal(ours, frames), f"{pts_us} µs, look-ahead {lookahead_ms}"


def test_same_window_as_serving_at_any_moment_and_lookahead() -> None:
    from stmixer.model.clip import window
    from stmixer.service.engine.keyframes import KeyframeSchedule

    for name in ("tiny", "slowfast_r50"):
        clip = variant(name).clip
        ours = ClipReader(clip, antialias=False, cache_bytes=0).window
        for hz in (1.0, 2.3, 29.97):
            for lookahead in (None, 0, 33, 66.7, 100, 533, 5000):
                schedule = KeyframeSchedule(window(clip), hz, lookahead)
                for seq in range(40):
                    keyframe = schedule.keyframe(seq)
                    assert ours.indices(keyframe.pts_us, lookahead) == keyframe.indices


@pytest.mark.parametrize("path", [*OWN, *SHARED, *ROTATED], ids=lambda p: p.name)
def test_times_without_decoding_are_the_decoders(path: Path) -> None:
    with VideoReader(path, limits=LIMITS) as reader:
        assert frame_times(path).tolist() == [frame.pts_us for frame in reader]


@pytest.mark.parametrize("start_us", [0, 700_000, 2_000_000, 3_900_000])
def test_seeking_gives_the_times_and_pictures_of_reading(start_us: int) -> None:
    path = OWN_CLIPS / "walk.mp4"
    with VideoReader(path, limits=LIMITS) as reader:
        read = {frame.pts_us: frame.resized(64, 36) for frame in reader}
    sought = {frame.pts_us: frame.resized(64, 36) for frame in frames_from(path, start_us)}
    assert min(sought) <= start_us
    assert [t for t in read if t >= min(sought)] == list(sought)
    assert all(np.array_equal(read[t], picture) for t, picture in sought.items())


def test_a_frame_folder_gives_the_same_pictures(tmp_path: Path) -> None:
    path = OWN_CLIPS / "fall.mp4"
    with VideoReader(path, limits=LIMITS) as reader:
        for frame in reader:
            cv2.imwrite(str(tmp_path / f"f_{frame.index + 1:05d}.png"), frame.rgb()[:, :, ::-1])
        count = frame.index + 1
    clip = variant("tiny").clip
    reader_of = ClipReader(clip, antialias=False, cache_bytes=1 << 30)
    folder = Video("fall", FrameFolder(tmp_path, "f_", 5, ".png", 1, count, Fraction(15)))
    file = Video("fall", VideoFile(path, int(frame_times(path)[-1])))
    for pts_us in (0, 66_667, 1_900_000, 5_300_000):
        indices = reader_of.window.indices(pts_us)
        assert np.array_equal(reader_of.read(folder, indices, 128), reader_of.read(file, indices, 128))


def test_a_large_input_size_is_resized_from_the_source_each_time() -> None:
    """Small sources are kept at their own size; the frames are those of one resize all the same."""
    path = OWN_CLIPS / "fall.mp4"  # 640 x 360
    reader = ClipReader(variant("tiny").clip, antialias=False, cache_bytes=1 << 30)
    video = Video("fall", VideoFile(path, int(frame_times(path)[-1])))
    indices = reader.window.indices(1_000_000)
    reader.read(video, indices, 400)  # kept at 640 x 360
    from_kept = reader.read(video, indices, 160)
    fresh = ClipReader(variant("tiny").clip, antialias=False, cache_bytes=0).read(video, indices, 160)
    assert np.array_equal(from_kept, fresh)


def test_the_cache_keeps_to_its_size() -> None:
    clip = variant("tiny").clip
    videos = [Video(p.name, VideoFile(p, int(frame_times(p)[-1]))) for p in OWN]
    reader = ClipReader(clip, antialias=False, cache_bytes=8 << 20)
    indices = reader.window.indices(1_000_000)
    first = [reader.read(video, indices, 128) for video in videos * 2]
    assert reader.cached_bytes <= 8 << 20
    for a, b in zip(first[: len(videos)], first[len(videos) :], strict=True):
        assert np.array_equal(a, b)
