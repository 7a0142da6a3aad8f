"""The service on a GPU: a worker that is shut in as it is in service, its results, its death. On CUDA alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import OWN_CLIPS
from posting import WORKER, conserved, eventually, metric, post, same_actors
from serving import running_server

from stmixer.service.errors import StartError
from stmixer.service.worker.runner import pick_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
FALL = OWN_CLIPS / "fall.mp4"


@pytest.mark.parametrize("runtime", ["eager", "cudagraph"])
def test_the_same_people_as_on_a_cpu_also_after_a_workers_death(runtime: str, tiny_weights: Path) -> None:
    asked = {"keyframe_hz": 2, "score_threshold": 0}
    with running_server(weights=tiny_weights, device="cpu") as server:
        expected = post(server, FALL, **asked).json()["keyframes"]
    with running_server(
        weights=tiny_weights, device="cuda", runtime=runtime, precision="fp32", spare_workers=1
    ) as server:
        for killed in (False, True):
            if killed:
                server.children_of(WORKER)[0].kill()
                eventually(lambda: metric(server, "worker_restarts_total", worker="0", reason="exit"))
            answer = post(server, FALL, **asked).json()
            conserved(answer["summary"])
            assert len(answer["keyframes"]) == len(expected) > 0
            for ours, theirs in zip(answer["keyframes"], expected, strict=True):
                same_actors(ours["actors"], theirs["actors"], 1e-3)
        assert metric(server, "gpu_memory_bytes", worker="0") > 0


def test_a_gpu_that_is_not_there_is_told() -> None:
    there = torch.cuda.device_count()
    with pytest.raises(StartError, match=f"--device cuda:{there}: there (is|are) {there} CUDA device"):
        pick_device(f"cuda:{there}")
