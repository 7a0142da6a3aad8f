"""`import stmixer`: cheap to import, the same results as the command and as served, lazily, from files and frames."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OWN_CLIPS

import stmixer
from stmixer.media.decode import Limits, VideoReader

ROOT = Path(__file__).resolve().parents[1]
WALK = OWN_CLIPS / "walk.mp4"


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> stmixer.ActionDetector:
    return stmixer.load(tiny_weights, "cpu")


def frames_of(clip: Path) -> list[tuple[np.ndarray, int]]:
    with VideoReader(clip, limits=Limits.unlimited()) as reader:
        return [(frame.rgb(), frame.pts_us) for frame in reader]


def numbers(result: Any) -> dict[str, Any]:
    """A result without the times at which things happened."""
    found = result if isinstance(result, dict) else result.model_dump(mode="json")
    return {k: v for k, v in found.items() if k not in ("received_at_us", "sent_at_us", "timings_ms")}


# -- import


def test_importing_it_imports_next_to_nothing() -> None:
    code = (
        "import stmixer, sys; print(stmixer.__version__, stmixer.Result, stmixer.StmixerError, stmixer.MediaError);"
        "sys.exit(' '.join({'torch', 'av', 'cv2', 'onnxruntime', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr.strip()
    code = "import sys; before = set(sys.modules); import stmixer; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.split(".")[0] for name in done.stdout.split()}
    assert imported - set(sys.stdlib_module_names) == {"stmixer"}


def test_every_name_is_there() -> None:
    assert set(stmixer.__all__) <= set(dir(stmixer))
    for name in stmixer.__all__:
        assert getattr(stmixer, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Detekt'"):
        stmixer.Detekt  # noqa: B018


def test_what_runs_the_model_keeps_no_number_of_this_machine(tmp_path: Path) -> None:
    """By itself ONNX Runtime makes one at home, for its telemetry."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    code = "import stmixer, sys; stmixer.load(device='cpu'); sys.exit('onnxruntime' not in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept | {"HOME": str(tmp_path)}, check=True)
    assert [str(path) for path in tmp_path.rglob("*") if "Microsoft" in path.parts] == []


# -- files


@pytest.mark.slow
def test_readmes_lines_say_what_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.search(r"```python\n(import stmixer\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert lines is not None
    assert len(lines[1].strip().splitlines()) <= 6
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines[1], {})
    path = tmp_path / "out.json"
    command = ["detect", "tests/clips/walk.mp4", "--keyframe-hz", "2", "-o", str(path)]
    subprocess.run([sys.executable, "-m", "stmixer.service.cli", *command], cwd=ROOT, capture_output=True, check=True)
    keyframes = json.loads(path.read_text())["keyframes"]
    assert len(keyframes) > 10
    assert any(keyframe["actors"] for keyframe in keyframes)
    expected = [
        f"{k['pts_us'] / 1e6} {[(tuple(a['box_px']), a['actions'][0]['name']) for a in k['actors']]}" for k in keyframes
    ]
    assert printed.getvalue().splitlines() == expected


@pytest.mark.slow
def test_a_file_gives_what_the_command_writes(
    detector: stmixer.ActionDetector, tiny_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    options = ["--keyframe-hz", "4", "--score-threshold", "0", "--top-k", "2", "--lookahead-ms", "200"]
    command = ["detect", str(WALK), "--weights", str(tiny_weights), "--device", "cpu", *options, "-o", str(path)]
    subprocess.run([sys.executable, "-m", "stmixer.service.cli", *command], cwd=ROOT, capture_output=True, check=True)
    written = json.loads(path.read_text())
    results = detector.detect(str(WALK), keyframe_hz=4, score_threshold=0, top_k=2, lookahead_ms=200)
    found = list(results)
    assert all(isinstance(result, stmixer.Result) for result in found)
    assert all(isinstance(actor, stmixer.Actor) for result in found for actor in result.actors)
    assert [numbers(result) for result in found] == [numbers(keyframe) for keyframe in written["keyframes"]]
    preset = ["--preset", "cctv", *options[:2], *options[4:]]
    command = ["detect", str(WALK), "--weights", str(tiny_weights), "--device", "cpu", *preset, "-o", str(path)]
    subprocess.run([sys.executable, "-m", "stmixer.service.cli", *command], cwd=ROOT, capture_output=True, check=True)
    surer = [numbers(r) for r in detector.detect(WALK, keyframe_hz=4, preset="cctv", top_k=2, lookahead_ms=200)]
    assert surer == [numbers(keyframe) for keyframe in json.loads(path.read_text())["keyframes"]]
    scores = [actor["person_score"] for result in surer for actor in result["actors"]]
    assert min(scores) >= 0.3
    assert min(scores) < 0.6
    assert results.summary.model_dump() == written["summary"]
    assert results.frame.model_dump() == written["frame"]
    assert results.warnings == written["warnings"]
    assert (detector.name, detector.trained, len(detector.labels)) == (written["model"], written["trained"], 80)


def test_results_are_made_while_they_are_iterated(detector: stmixer.ActionDetector) -> None:
    results = detector.detect(WALK, score_threshold=0)
    assert results.summary.received == 0
    first = next(results)
    assert first.seq == 0
    read = results.summary.received
    assert 0 < read < 60, "the file has 205 frames"
    assert next(results).seq == 1
    assert results.summary.received > read
    results.close()
    assert list(results) == []
    assert results.summary.cancelled == results.summary.keyframes_due - results.summary.ok


def test_two_runs_at_a_time_know_nothing_of_each_other() -> None:
    detector = stmixer.load("stmixer-rt", "cpu")  # a model that keeps features, by stream
    options = {"keyframe_hz": 4, "score_threshold": 0.0, "top_k": 1}
    clips = [WALK, OWN_CLIPS / "fall.mp4"]
    alone = []
    for clip in clips:
        results = detector.detect(clip, **options)
        alone.append([numbers(next(results)) for _ in range(4)])
    both = [detector.detect(clip, **options) for clip in clips]
    turns = [[numbers(next(results)) for results in both] for _ in range(4)]
    assert [list(results) for results in zip(*turns, strict=True)] == alone


# -- frames


@pytest.mark.parametrize(
    "options", [{"keyframe_hz": 2}, {"keyframe_hz": 3, "lookahead_ms": 0}], ids=["whole", "at once"]
)
def test_fed_frames_give_what_the_file_gives(detector: stmixer.ActionDetector, options: dict[str, Any]) -> None:
    wanted = {"score_threshold": 0, "top_k": 3, **options}
    results = detector.detect(WALK, **wanted)
    expected = [numbers(result) for result in results]
    found: list[Any] = []
    with detector.stream(**wanted) as stream:
        assert stream.frame is None
        buffer: np.ndarray | None = None
        for picture, pts_us in frames_of(WALK):
            buffer = picture if buffer is None else buffer
            buffer[:] = picture  # a camera that writes every frame to one place
            for result in stream.feed(buffer, pts_us + 7_000_000):
                found.append(result)
                waited_us = pts_us - result.pts_us
                assert waited_us < 200_000 or "lookahead_ms" not in wanted
        assert found
        assert stream.frame == results.frame
        found += stream.end()
        assert stream.summary == results.summary
        assert stream.warnings == []
    assert [numbers(result) for result in found] == expected


def test_frames_that_go_back_are_left_out_and_counted(detector: stmixer.ActionDetector) -> None:
    picture = np.zeros((120, 160, 3), np.uint8)
    with detector.stream(score_threshold=0) as stream:
        results = []
        for pts_us in (0, 400_000, 400_000, 100_000, 800_000, 1_200_000):
            results += stream.feed(picture[::-1], pts_us)
        results += stream.end()
        summary = stream.summary
    assert [result.pts_us for result in results] == [0, 1_000_000]
    assert (summary.received, summary.dropped) == (6, {"out_of_order": 2})
    assert summary.received == summary.sampled + summary.not_sampled + 2
    assert summary.keyframes_due == summary.ok == 2


@pytest.mark.parametrize("leap_us", [-600_000_000, 7_200_000_000], ids=["back", "ahead"])
def test_a_clock_that_is_set_anew_goes_on_without_a_gap(detector: stmixer.ActionDetector, leap_us: int) -> None:
    picture = np.zeros((120, 160, 3), np.uint8)
    with detector.stream(score_threshold=0) as stream:
        results = []
        for number in range(24):
            pts_us = number * 150_000 + (leap_us if number >= 12 else 0)
            results += stream.feed(picture, 10**12 + pts_us)
        results += stream.end()
        summary = stream.summary
    assert [result.pts_us for result in results] == [0, 1_000_000, 2_000_000, 3_000_000]
    assert (summary.received, summary.dropped, summary.superseded) == (24, {}, 0)


def test_another_size_on_the_way_is_said(detector: stmixer.ActionDetector) -> None:
    with detector.stream(score_threshold=0, top_k=1) as stream:
        stream.feed(np.zeros((120, 160, 3), np.uint8), 0)
        stream.feed(np.zeros((240, 320, 3), np.uint8), 500_000)
        assert [result.frame.width for result in stream.end()] == [160]
        assert stream.warnings == ["changes of the picture size: 1"]


def test_a_stream_that_is_left_is_cancelled(detector: stmixer.ActionDetector) -> None:
    with detector.stream() as stream:
        stream.feed(np.zeros((120, 160, 3), np.uint8), 0)
    assert stream.summary.cancelled == stream.summary.keyframes_due == 1
    with pytest.raises(RuntimeError, match="has ended"):
        stream.feed(np.zeros((120, 160, 3), np.uint8), 1)
    with pytest.raises(RuntimeError, match="has ended"):
        stream.end()


def test_a_stream_without_a_frame_ends(detector: stmixer.ActionDetector) -> None:
    with detector.stream() as stream:
        assert stream.end() == []
        assert stream.summary.received == stream.summary.keyframes_due == 0


# -- mistakes


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_what_is_no_frame_is_refused(detector: stmixer.ActionDetector, frame: Any, what: str) -> None:
    with detector.stream() as stream:
        with pytest.raises(stmixer.StmixerError, match=what):
            stream.feed(frame, 0)
        with pytest.raises(TypeError):
            stream.feed(np.zeros((4, 4, 3), np.uint8), 0.5)  # type: ignore[arg-type]
        with pytest.raises(stmixer.MediaError, match="too elongated"):
            stream.feed(np.zeros((10, 400, 3), np.uint8), 0)
        assert stream.feed(np.zeros((120, 160, 3), np.uint8), 0) == [], "the stream goes on"


@pytest.mark.parametrize(
    "options",
    [{"keyframe_hz": 0}, {"score_threshold": 2}, {"top_k": 0}, {"action_threshold": -1}, {"lookahead_ms": -1}],
    ids=lambda o: next(iter(o)),
)
def test_options_out_of_range_are_named(detector: stmixer.ActionDetector, options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(stmixer.StmixerError, match=f"^{name}: "):
        detector.detect(WALK, **options)
    with pytest.raises(stmixer.StmixerError, match=f"^{name}: "):
        detector.stream(**options)


def test_files_that_are_none_are_named_at_once(detector: stmixer.ActionDetector, tmp_path: Path) -> None:
    with pytest.raises(stmixer.MediaError, match="cannot be opened"):
        detector.detect(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(stmixer.MediaError):
        detector.detect(tmp_path / "text.mp4")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("stmixer-xl",), "bundled weights: stmixer-rt"),
        (("none.safetensors",), "there is no file none.safetensors"),
        ((Path("none.onnx"),), "there is no file none.onnx"),
        ((WALK,), "neither a .safetensors or .onnx file"),
        ((None, "cud"), "is not a device"),
        ((None, "cuda:99"), "device|CUDA"),
    ],
)
def test_what_cannot_be_loaded_is_said(arguments: tuple[Any, ...], what: str) -> None:
    with pytest.raises(stmixer.StmixerError, match=what):
        stmixer.load(*arguments)
