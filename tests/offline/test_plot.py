"""`Result.plot` and `.show`: people on the picture that they were found in, from a file or given."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import OWN_CLIPS
from PIL import Image, ImageShow
from ws_client import numbered, read_number

from stmixer.media.annotated import UNTRAINED_BANNER, drawn
from stmixer.media.draw import draw_actors
from stmixer.media.errors import MediaError
from stmixer.media.live import live_container
from stmixer.media.still import still
from stmixer.service.errors import InputError, StartError
from stmixer.service.offline.engine import DetectedKeyframe
from stmixer.service.offline.file import FileResults
from stmixer.service.schemas import Action, Actor, DetectOptions, FrameSize, Result, Timings
from stmixer.service.worker.runner import Runner, start_runtime

WALK = OWN_CLIPS / "walk.mp4"


def a_result(pts_us: int = 2_000_000, width: int = 640, height: int = 360) -> Result:
    actor = Actor((100.0, 50.0, 200.0, 300.0), (0.2, 0.1, 0.4, 0.8), 0.9, (Action(3, "walk", 0.8),), 1)
    return Result(
        seq=1, pts_us=pts_us, received_at_us=0, sent_at_us=0, warming=False, dropped_since_last=0,
        timings_ms=Timings(lookahead=0, decode=0, queue=0, inference=0, postprocess=0),
        frame=FrameSize(width=width, height=height), actors=(actor,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """A video of so many pictures, so many a second, which say which one they are."""

    @functools.cache
    def made(frames: int, fps: int) -> Path:
        path = tmp_path_factory.mktemp("video") / f"{fps}.webm"
        path.write_bytes(live_container((numbered(n) for n in range(frames)), fps, "libvpx")[0])
        return path

    return made


@pytest.mark.parametrize(
    ("fps", "hz", "expected"),
    [
        (1, 15 / 16, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),  # at 8.53, 9.6 and 10.67 s the nearest one is still to come
        (4, 3, [0, 1, 2, 4, 5, 6, 8]),
        (30, 2, [0, 16, 30, 46, 60]),  # 0.5 s lies between two samples, and the later one is looked at
    ],
)
def test_a_still_is_what_the_model_saw(
    tiny_weights: Path, video: Callable[[int, int], Path], fps: int, hz: float, expected: list[int]
) -> None:
    path, seen = video(12 if fps == 1 else 2 * fps + 1, fps), list[DetectedKeyframe]()
    runner = Runner(start_runtime(None, tiny_weights, "cpu", "eager", "fp32"))
    results = list(FileResults(runner, path, DetectOptions(keyframe_hz=hz), on_detected=seen.append))
    assert [read_number(keyframe.picture) for keyframe in seen] == expected
    assert [read_number(still(path, result.pts_us)) for result in results] == expected


@pytest.mark.parametrize(("moment", "number"), [(0, 0), (966_666, 0), (966_667, 1), (10**9, 3)])
def test_it_is_the_last_one_up_to_half_a_frame_after_the_nearest_sample(
    video: Callable[[int, int], Path], moment: int, number: int
) -> None:
    assert read_number(still(video(4, 1), moment)) == number


def test_it_draws_what_the_video_shows() -> None:
    result = a_result()
    result.comes_from(WALK, trained=True)
    picture = result.plot()
    expected = draw_actors(still(WALK, 2_000_000), drawn(result.actors))
    assert isinstance(picture, Image.Image)
    assert (np.asarray(picture) == expected).all()
    assert (expected != still(WALK, 2_000_000)).any()


@pytest.mark.parametrize("kind", ["array", "picture", "path"])
def test_the_picture_may_be_given(kind: str) -> None:
    rgb = still(WALK, 2_000_000)
    given: Any = {"array": rgb, "picture": Image.fromarray(rgb), "path": str(WALK)}[kind]
    untouched = rgb.copy()
    assert (np.asarray(a_result().plot(given)) == draw_actors(rgb, drawn(a_result().actors))).all()
    assert (rgb == untouched).all()


def test_an_untrained_model_is_said_on_it() -> None:
    result = a_result()
    result.comes_from(WALK, trained=False)
    expected = draw_actors(still(WALK, 2_000_000), drawn(result.actors), banner=UNTRAINED_BANNER)
    assert (np.asarray(result.plot()) == expected).all()


def test_where_its_picture_is_does_not_go_over_the_wire() -> None:
    result = a_result()
    result.comes_from(WALK, trained=False)
    assert result.model_dump_json() == a_result().model_dump_json()
    assert set(result.to_dict()) == set(Result.model_fields) - {"capture_at_us"}, "no camera has told its clock"


def test_results_that_say_the_same_are_equal_wherever_they_are_from() -> None:
    result = a_result()
    result.comes_from(WALK, trained=False)
    assert result == a_result() == Result.model_validate_json(result.model_dump_json())
    assert result != a_result(pts_us=1)
    assert result != result.model_dump()


@pytest.mark.parametrize(
    ("picture", "code", "says"),
    [
        (None, "no_picture", "plot(frame)"),
        (np.zeros((4, 4, 3), np.uint8), "bad_frame", "640×360; this one has 4×4"),
        (np.zeros((360, 640), np.uint8), "bad_frame", "uint8 (360, 640)"),
        (np.zeros((360, 640, 3), np.float32), "bad_frame", "float32"),
        (b"", "bad_frame", "not bytes"),
    ],
    ids=["none", "size", "grey", "floats", "bytes"],
)
def test_what_is_no_picture_of_it_is_said(picture: Any, code: str, says: str) -> None:
    with pytest.raises(InputError) as raised:
        a_result().plot(picture)
    assert raised.value.code == code
    assert says in str(raised.value)


def test_a_file_that_has_gone_is_said(tmp_path: Path) -> None:
    result = a_result()
    result.comes_from(tmp_path / "gone.mp4", trained=True)
    with pytest.raises(MediaError, match="cannot be opened"):
        result.plot()


def test_without_what_draws_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stmixer.service.plotting", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(StartError, match="PIL is not installed: pip install stmixer"):
        a_result().plot()


def test_it_is_shown_by_what_shows_pictures_here(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **options: Any) -> int:
            shown.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    rgb = still(WALK, 2_000_000)
    a_result().show(rgb)
    assert (np.asarray(shown[0]) == np.asarray(a_result().plot(rgb))).all()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(StartError, match=r"plot\(\).save"):
        a_result().show(rgb)
    assert len(shown) == 1


def test_where_nothing_shows_pictures_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageShow, "_viewers", [])
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(StartError, match=r"plot\(\).save"):
        a_result().show(np.zeros((360, 640, 3), np.uint8))


def test_a_notebook_shows_it_in_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins of what a notebook's kernel brings."""
    shown: list[Image.Image] = []
    kernel, page, root = (ModuleType(name) for name in ("ipykernel", "IPython.display", "IPython"))
    page.display = shown.append  # type: ignore[attr-defined]
    for module in (kernel, page, root):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(ImageShow, "_viewers", [])
    a_result().show(np.zeros((360, 640, 3), np.uint8))
    assert shown[0].size == (640, 360)


def test_results_of_a_file_know_it(tiny_weights: Path) -> None:
    import stmixer

    detector = stmixer.load(tiny_weights, "cpu")
    first = next(detector.detect(WALK, score_threshold=0, top_k=1))
    expected = draw_actors(still(WALK, 0), drawn(first.actors), banner=UNTRAINED_BANNER)
    assert (np.asarray(first.plot()) == expected).all()
    assert os.fspath(WALK) not in first.model_dump_json()
    with detector.stream(score_threshold=0) as stream:
        by_feed = [r for n in range(14) for r in stream.feed(still(WALK, 0), n * 100_000)]
        results = by_feed + stream.end()
    assert 0 < len(by_feed) < len(results)
    for result in results:
        with pytest.raises(InputError, match="plot"):
            result.plot()
        expected = draw_actors(still(WALK, 0), drawn(result.actors), banner=UNTRAINED_BANNER)
        assert (np.asarray(result.plot(still(WALK, 0))) == expected).all()
