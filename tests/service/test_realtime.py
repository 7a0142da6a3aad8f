"""A realtime variant, served: the numbers of a direct call without the feature ring, through a worker's death too."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OWN_CLIPS
from posting import eventually, post, same_actors
from serving import Server, running_server
from ws_client import jpeg, stream

from stmixer.model.runtimes.choose import open_runtime
from stmixer.service.offline.file import FileResults
from stmixer.service.schemas import DetectOptions
from stmixer.service.worker.runner import Runner

FALL = OWN_CLIPS / "fall.mp4"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def realtime() -> Iterator[Server]:
    with running_server(model="rt_lite0") as server:
        yield server


def computed_anew(clip: Path, **options: Any) -> list[dict[str, Any]]:
    """In this process, every window from its pixels."""
    runner = Runner(open_runtime("rt_lite0", None, torch.device("cpu")), keep_features=False)
    return [result.model_dump(mode="json") for result in FileResults(runner, clip, DetectOptions(**options))]


def same_keyframes(answer: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert [k["pts_us"] for k in answer["keyframes"]] == [k["pts_us"] for k in expected]
    for ours, theirs in zip(answer["keyframes"], expected, strict=True):
        assert theirs["actors"]
        same_actors(ours["actors"], theirs["actors"])


def test_a_posted_clip_gives_the_numbers_of_a_direct_call(realtime: Server) -> None:
    answer = post(realtime, FALL, timeout=200, score_threshold=0, keyframe_hz=8)
    assert answer.status_code == 200
    same_keyframes(answer.json(), computed_anew(FALL, score_threshold=0, keyframe_hz=8))


def test_a_workers_death_costs_features_and_nothing_else(realtime: Server) -> None:
    expected = computed_anew(FALL, score_threshold=0, keyframe_hz=4)
    with stream(realtime, policy="all", timestamps="prefix", keyframe_hz=4, lookahead_ms=0) as live:
        ready = live.first("ready")
        assert ready["keyframe_hz"] == pytest.approx(3.75), "the effective rate"
        for number in range(20):
            live.picture(jpeg(number), number * 125_000)
        worker = realtime.children_of("stmixer.service.worker.process")[0]
        os.kill(worker.pid, signal.SIGKILL)
        summary = live.stop()
    answer = post(realtime, FALL, timeout=200, score_threshold=0, keyframe_hz=4)
    same_keyframes(answer.json(), expected)
    assert summary["keyframes_due"] == summary["ok"] >= 2
    assert eventually(lambda: realtime.children_of("stmixer.service.worker.process"))[0].pid != worker.pid
