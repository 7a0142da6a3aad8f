"""What a service on a GPU does when its worker dies, when that says it has no memory, and when the card is full."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import TextIO

import httpx

from bench.gpu.cameras import Service, served, value
from bench.gpu.environment import nvidia_smi
from bench.gpu.notes import Notes
from bench.gpu.scene import TESTS, Scene

CAMERAS = 2
WARM = "; batches of "
"""What the service says of each worker that has warmed up, the spare too (``service.engine.worker``)."""
LEFT_FREE = 256 * 2**20
"""Bytes of a full card that are free: less than a CUDA context takes with a model."""
NO_MEMORY_TOP_K = 4244
"""The ``top_k`` at which tests/faulty_worker.py runs out of memory."""


def faults(notes: Notes, scene: Scene, _: str) -> None:
    """A killed worker with a spare behind it; a worker without memory; a card that is full at the start."""
    name = scene.models[0]
    said = Said(sys.stderr)
    with redirect_stderr(said), served(scene, name, ("auto", "auto"), spare_workers=1) as service:
        service.film(CAMERAS)
        until(notes, lambda: value(service.samples(), "keyframes_total", source="pull", outcome="ok") >= CAMERAS)
        until(notes, lambda: said.count(WARM) == 2)
        notes.add(fault="worker killed", **killed(notes, service))
        notes.add(fault="after it", gpu=nvidia_smi())
    if scene.on_gpu:
        notes.add(fault="card full at the start", **full_card(notes, name))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    with served(scene, name, ("auto", "auto"), worker_module="faulty_worker") as service:
        notes.add(fault="worker without memory", **without_memory(notes, service))


class Said(io.TextIOBase):
    """What goes to a stream, and passes through, since it is all that a service tells of its spare."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._said = stream, ""

    def write(self, text: str) -> int:
        """On to the stream."""
        self._said += text
        return self._stream.write(text)

    def count(self, words: str) -> int:
        """How often this was said."""
        return self._said.count(words)


def until(notes: Notes, seen: Callable[[], bool]) -> float | None:
    """Seconds until it is so, None where it is not in the step's time."""
    began = time.monotonic()
    while not seen():
        if not notes.left_s():
            return None
        time.sleep(0.05)
    return round(time.monotonic() - began, 2)


def killed(notes: Notes, service: Service) -> dict[str, object]:
    """Seconds until results come again, and what was lost."""

    def ok() -> float:
        return value(service.samples(), "keyframes_total", source="pull", outcome="ok")

    service.processes.kill("worker")
    until(notes, lambda: value(service.samples(), "worker_restarts_total", worker="0", reason="exit") >= 1)
    before = ok()
    again_s = until(notes, lambda: ok() >= before + CAMERAS)
    samples = service.samples()
    lost = {
        outcome: value(samples, "keyframes_total", source="pull", outcome=outcome)
        for outcome in ("worker_lost", "error")
    }
    return {"results_again_s": again_s, **lost}


def without_memory(notes: Notes, service: Service) -> dict[str, object]:
    """What the answer to the clip was that a worker had no memory for, and whether the next one's is well."""
    clip = (TESTS / "clips" / "fall.mp4").read_bytes()

    def post(**asked: object) -> httpx.Response:
        params = {"keyframe_hz": 0.001, **asked}
        return service.client.post("/v1/detect", content=clip, params=params, timeout=max(1.0, notes.left_s()))

    answers = [post(top_k=NO_MEMORY_TOP_K), post(top_k=3)]
    deaths = value(service.samples(), "worker_restarts_total", worker="0", reason="oom")
    summaries = [answer.json().get("summary", {}) if answer.status_code == 200 else {} for answer in answers]
    return {
        "workers_lost": deaths,
        "answers": [answer.status_code for answer in answers],
        "outcomes": [{name: summary.get(name) for name in ("ok", "worker_lost")} for summary in summaries],
    }


def full_card(notes: Notes, name: str) -> dict[str, object]:
    """What ``stmixer serve`` says, and its exit code, where others have the memory."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - LEFT_FREE), dtype=torch.uint8, device="cuda")
    command = [sys.executable, "-m", "stmixer.service.cli", "serve", "--port", "0", "--device", "cuda", "--model", name]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=max(1.0, notes.left_s() / 2)
        )
        ended, said = done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        ended, said = None, (error.stderr or b"").decode(errors="replace")
    del taken
    return {"exit": ended, "said": said.strip()[-300:]}
