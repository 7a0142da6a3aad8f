"""What a service on a GPU does when its worker dies, when that says it has no memory, and when the card is full."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import httpx

from bench.gpu.cameras import Service, served, value
from bench.gpu.environment import nvidia_smi
from bench.gpu.notes import Notes
from bench.gpu.scene import TESTS, Scene

CAMERAS = 2
WAIT_S = 30.0
LEFT_FREE = 256 * 2**20
"""Bytes of a full card that are free: less than a CUDA context takes with a model."""
NO_MEMORY_TOP_K = 4244
"""The ``top_k`` at which tests/faulty_worker.py runs out of memory."""


def faults(notes: Notes, scene: Scene, _: str) -> None:
    """A killed worker with a spare behind it; a worker without memory; a card that is full at the start."""
    name = scene.models[0]
    with served(scene, name, ("auto", "auto"), spare_workers=1) as service:
        service.film(CAMERAS)
        until(lambda: value(service.samples(), "keyframes_total", source="pull", outcome="ok") >= CAMERAS)
        until(lambda: len(service.processes.by_role()["worker"]) == 2)
        notes.add(fault="worker killed", **killed(service))
        notes.add(fault="after it", gpu=nvidia_smi())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    with served(scene, name, ("auto", "auto"), worker_module="faulty_worker") as service:
        notes.add(fault="worker without memory", **without_memory(service))
    if scene.on_gpu:
        notes.add(fault="card full at the start", **full_card(name))


def until(seen: Callable[[], bool]) -> float:
    """Seconds until it is so, infinite where it is not in time."""
    began = time.monotonic()
    while not seen():
        if time.monotonic() - began > WAIT_S:
            return float("inf")
        time.sleep(0.05)
    return round(time.monotonic() - began, 2)


def killed(service: Service) -> dict[str, object]:
    """Seconds until results come again, and what was lost."""

    def ok() -> float:
        return value(service.samples(), "keyframes_total", source="pull", outcome="ok")

    service.processes.kill("worker")
    until(lambda: value(service.samples(), "worker_restarts_total", worker="0", reason="exit") >= 1)
    before = ok()
    again_s = until(lambda: ok() >= before + CAMERAS)
    samples = service.samples()
    lost = {
        outcome: value(samples, "keyframes_total", source="pull", outcome=outcome)
        for outcome in ("worker_lost", "error")
    }
    return {"results_again_s": again_s, **lost}


def without_memory(service: Service) -> dict[str, object]:
    """What the answer to the clip was that a worker had no memory for, and whether the next one's is well."""
    clip = (TESTS / "clips" / "fall.mp4").read_bytes()

    def post(**asked: object) -> httpx.Response:
        return service.client.post("/v1/detect", content=clip, params={"keyframe_hz": 0.001, **asked}, timeout=WAIT_S)

    answers = [post(top_k=NO_MEMORY_TOP_K), post(top_k=3)]
    deaths = value(service.samples(), "worker_restarts_total", worker="0", reason="oom")
    summaries = [answer.json().get("summary", {}) if answer.status_code == 200 else {} for answer in answers]
    return {
        "workers_lost": deaths,
        "answers": [answer.status_code for answer in answers],
        "outcomes": [{name: summary.get(name) for name in ("ok", "worker_lost")} for summary in summaries],
    }


def full_card(name: str) -> dict[str, object]:
    """What ``stmixer serve`` says, and its exit code, where others have the memory."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - LEFT_FREE), dtype=torch.uint8, device="cuda")
    command = [sys.executable, "-m", "stmixer.service.cli", "serve", "--port", "0", "--device", "cuda", "--model", name]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
        ended, said = done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        ended, said = None, (error.stderr or b"").decode(errors="replace")
    del taken
    return {"exit": ended, "said": said.strip()[-300:]}
