"""`stmixer detect` on real files: keyframes where the container's own timestamps put them, odd files answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from conftest import OWN_CLIPS, REFERENCE, shared_clips

GOOD = [*sorted(OWN_CLIPS.glob("*.mp4")), *shared_clips("*")]
ODD = shared_clips("odd/*")
SLOW = {"long_4k_av1.mp4"}
STMIXER = [sys.executable, "-m", "stmixer.service.cli"]


def detect(clip: Path, *options: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [*STMIXER, "detect", str(clip), *options]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)


def container_times(clip: Path) -> list[Fraction]:
    """Times of all frames in order of presentation, straight from PyAV.

    AVI has no presentation times: what PyAV then reports goes back and forth (6, 5), and the decoding times, which
    decoders hand on in order, are the ones that hold; the last frames, flushed out, come one interval after.
    """
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        frames = [(f.pts, f.dts, f.time_base) for f in container.decode(stream)]
        interval = 1 / Fraction(stream.average_rate)
    times = [pts * base for pts, _, base in frames]
    if all(a < b for a, b in pairwise(times)):
        return times
    times = []
    for _, dts, base in frames:
        times.append(times[-1] + interval if dts is None else dts * base)
    return times


def displayed_size(clip: Path) -> tuple[int, int]:
    with av.open(str(clip)) as container:
        frame = next(container.decode(container.streams.video[0]))
        ratio = container.streams.video[0].sample_aspect_ratio or 1  # the longer side grows, none shrinks
        size = (round(frame.width * max(ratio, 1)), round(frame.height / min(ratio, 1)))
        return size[::-1] if frame.rotation % 180 else size


@pytest.fixture(scope="module")
def in_process(tiny_weights: Path):  # type: ignore[no-untyped-def]
    """The same pipeline as the command, without a new process for each clip."""
    import torch

    from stmixer.model.checkpoint import load
    from stmixer.model.runtimes.choose import torch_runtime
    from stmixer.service.offline.file import FileResults
    from stmixer.service.schemas import DetectOptions
    from stmixer.service.worker.runner import Runner

    runner = Runner(torch_runtime(load(tiny_weights), torch.device("cpu")))

    def run(clip: Path, **options: object):  # type: ignore[no-untyped-def]
        detected = FileResults(runner, clip, DetectOptions(**options))
        return list(detected), detected

    return run


@pytest.mark.skipif(not shared_clips("*"), reason="the shared clips are not here")
def test_the_shared_clips_are_all_there() -> None:
    assert len(shared_clips("*")) == 14
    assert len(ODD) >= 50


@pytest.mark.parametrize("clip", GOOD, ids=lambda p: p.name)
@pytest.mark.parametrize("hz", [1.0, pytest.param(2.5, marks=pytest.mark.slow)])
def test_keyframes_fall_where_the_time_section_says(in_process, clip: Path, hz: float) -> None:  # type: ignore[no-untyped-def]
    results, detected = in_process(clip, keyframe_hz=hz, score_threshold=0.0, top_k=1)
    times = container_times(clip)
    length, step = times[-1] - times[0], 1 / Fraction(hz)
    expected = [round(k * step * 1_000_000) for k in range(int(length / step) + 1)]
    assert [r.pts_us for r in results] == expected
    assert [r.seq for r in results] == list(range(len(expected)))
    assert (detected.frame.width, detected.frame.height) == displayed_size(clip)
    assert all(len(r.actors) >= 1 for r in results)
    summary = detected.summary
    assert summary.received == len(times)
    assert summary.received == summary.sampled + summary.not_sampled + sum(summary.dropped.values())
    assert summary.keyframes_due == summary.ok == len(expected)
    # a window of 64 raw frames reaches 32 of them, 1.0667 s, back from its keyframe
    assert [r.warming for r in results if r.pts_us < 1_033_000] == [True] * sum(t < 1_033_000 for t in expected)


BEFORE = json.loads((REFERENCE / "odd_clips.json").read_text())
"""What each odd clip was answered with at c64a1a4: `tiny` with random weights, a keyframe a second."""
NO_RATE = "the stream does not say its rate; taken as 25 frames per second"
TWO_VIDEOS = "the file holds 2 video streams; stream 0 is read, as a player would show it"
SINCE: dict[str, dict[str, object]] = {
    # a rate that nothing says is told
    "BA_MW_D_IDR_LOST.264": {"warnings": [NO_RATE, ...]},
    "null_video_320x240.264": {"warnings": [NO_RATE, ...]},
    "Error_I_P.264": {"warnings": [NO_RATE, ...]},
    # it is interlaced besides
    "CAMA3_Sand_E.264": {"warnings": [NO_RATE, ..., "interlaced frames, made whole from both fields: 50"]},
    # its own headers say 12.5 a second
    "H264_bad_decoding.264": {
        "sampled": 11,
        "warnings": [
            "frames that are damaged, delivered all the same: 11",
            "frames without a timestamp: 11, taken as 12.5 per second",
        ],
    },
    # pixels as their container says, which is before their codec
    "bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4": {"frame": [1137, 640]},
    "bbb_800x640_768kbps_30fps_vp9.mp4": {"frame": [1138, 640]},
    # a word about the others
    "mv_with_2_top_shots.mp4": {"warnings": [TWO_VIDEOS]},
    "sample_empty_track.mp4": {"warnings": [TWO_VIDEOS]},
}
"""What is another answer now, and has to be (`...`: the warnings of before)."""


def expected(name: str) -> dict[str, Any]:
    """The answer of before, but for what has to be otherwise."""
    before, since = BEFORE[name], dict(SINCE.get(name, {}))
    if isinstance(warnings := since.get("warnings"), list) and ... in warnings:
        at = warnings.index(...)
        since["warnings"] = [*warnings[:at], *before["warnings"], *warnings[at + 1 :]]
    return {**before, **since}


@pytest.mark.parametrize("clip", [p for p in ODD if p.name not in SLOW], ids=lambda p: p.name)
def test_odd_files_are_answered_as_before(in_process, clip: Path) -> None:  # type: ignore[no-untyped-def]
    from stmixer.media.errors import MediaError

    if "error" in (answer := expected(clip.name)):
        with pytest.raises(MediaError) as raised:
            in_process(clip, score_threshold=0.0, top_k=1)
        assert "\n" not in raised.value.message
        assert {"error": raised.value.code} == answer
        return
    results, detected = in_process(clip, score_threshold=0.0, top_k=1)
    assert results
    assert all(r.actors for r in results)
    summary = detected.summary
    assert summary.received == summary.sampled + summary.not_sampled + sum(summary.dropped.values())
    assert answer == {
        "frame": [detected.frame.width, detected.frame.height], "received": summary.received,
        "sampled": summary.sampled, "dropped": summary.dropped, "keyframes_us": [r.pts_us for r in results],
        "warnings": detected.warnings,
    }  # fmt: skip


LENGTHY = {"long_4k_av1.mp4": pytest.mark.drill}
"""Minutes by themselves; test_rest_resources.py posts it, and tests/media/test_clips.py reads it, in every CI."""


@pytest.mark.slow
@pytest.mark.timeout(960)  # minutes of AV1 in 4K
@pytest.mark.parametrize(
    "clip", [pytest.param(clip, marks=LENGTHY.get(clip.name, ())) for clip in ODD], ids=lambda p: p.name
)
def test_the_command_on_odd_files(clip: Path, tmp_path: Path) -> None:
    done = detect(clip, "-o", str(tmp_path / "out.json"), "--score-threshold", "0", timeout=900)
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert json.loads((tmp_path / "out.json").read_text())["keyframes"]
    else:
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith("stmixer: ")


def test_the_command_writes_json_and_video(tiny_weights: Path, tmp_path: Path) -> None:
    json_path, video_path, pictures = tmp_path / "o.json", tmp_path / "o.mp4", tmp_path / "explained"
    clip = OWN_CLIPS / "fall.mp4"
    done = detect(
        clip, "--weights", str(tiny_weights), "--score-threshold", "0", "--top-k", "3",
        "-o", str(json_path), "-o", str(video_path), "--explain", str(pictures),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    response = json.loads(json_path.read_text())
    assert response["model"] == "tiny"
    assert response["trained"] is False
    assert "UNTRAINED" in done.stderr
    assert set(response) == {"model", "trained", "frame", "keyframes", "summary", "warnings"}
    assert all(len(actor["actions"]) == 3 for k in response["keyframes"] for actor in k["actors"])
    assert len(list(pictures.glob("*.png"))) == len(response["keyframes"])
    with av.open(str(video_path)) as drawn:
        assert drawn.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in drawn.decode(video=0)) == len(container_times(clip))


def test_results_do_not_depend_on_the_batch(in_process, tiny_weights: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import torch

    from stmixer.model.checkpoint import load
    from stmixer.model.runtimes.choose import torch_runtime
    from stmixer.service.offline.file import FileResults
    from stmixer.service.schemas import DetectOptions
    from stmixer.service.worker.runner import Runner

    clip = OWN_CLIPS / "walk.mp4"
    alone, _ = in_process(clip, keyframe_hz=2, score_threshold=0.0)
    runner = Runner(torch_runtime(load(tiny_weights), torch.device("cpu")))
    options = DetectOptions(keyframe_hz=2, score_threshold=0.0)
    batched = list(FileResults(runner, clip, options, batch_size=5))
    assert len(alone) == len(batched) == 14
    for a, b in zip(alone, batched, strict=True):
        for actor, other in zip(a.actors, b.actors, strict=True):
            assert actor.box == pytest.approx(other.box, abs=1e-4)
            assert actor.person_score == pytest.approx(other.person_score, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["missing.mp4"], "does not exist"),
        ([str(OWN_CLIPS.parents[1] / "docker")], "is a folder without videos"),
        ([str(OWN_CLIPS / "walk.mp4"), "-o", "x.gif"], ".json, .mp4 or .mot.txt"),
        ([str(OWN_CLIPS / "walk.mp4"), "-o", "/nowhere/x.json"], "does not exist"),
        ([str(OWN_CLIPS / "walk.mp4"), "--keyframe-hz", "0"], "keyframe-hz"),
        pytest.param([str(OWN_CLIPS / "walk.mp4"), "--model", "resnet"], "known: slowonly_r50", marks=pytest.mark.slow),
        pytest.param(
            [str(OWN_CLIPS / "walk.mp4"), "--weights", "none.safetensors"], "does not exist", marks=pytest.mark.slow
        ),
        pytest.param([str(OWN_CLIPS / "walk.mp4"), "--device", "cud"], "device", marks=pytest.mark.slow),
        pytest.param([str(OWN_CLIPS / "README.md")], "stmixer", marks=pytest.mark.slow),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], cause: str) -> None:
    done = detect(Path(arguments[0]), *arguments[1:])
    assert done.returncode == 2
    assert cause in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("stmixer: ")]) == 1
