"""A worker process: owns the model and its device, runs the batches that the API process forms.

    parent → child   ring {stream, shape} [fd], drop {stream}, batch {id, jobs}
    child → parent   ready {device, warmup_s, card}, broken {message}, copied {id, stale},
                     done {id, results, seconds}, failed {id, message, fatal}

Each job names slots and the generations it must find there; what it finds otherwise is ``stale`` and left out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from media.resize import input_size
from model.checkpoint import CheckpointError, Model, load, untrained
from model.config import ConfigError
from service.engine.channel import Channel, ChannelError, Header
from service.engine.ring import Ring, RingShape
from service.errors import StartError
from service.worker.runner import Job, Runner, pick_device


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is started with: a weights file or a variant's name, a device, and the slow-down of tests."""

    model: str | None
    weights: str | None
    device: str
    threads: int
    slow_s: float


def load_model(options: WorkerOptions) -> Model:
    """The weights file, or the named variant untrained. Raises StartError."""
    from model.zoo import DEFAULT_VARIANT

    try:
        return load(Path(options.weights)) if options.weights else untrained(options.model or DEFAULT_VARIANT)
    except (CheckpointError, ConfigError) as error:
        raise StartError("bad_weights", str(error)) from None


def warm_up(runner: Runner) -> float:
    """Run one keyframe of nothing at 16:9; seconds it took the second time."""
    config = runner.model.card.config
    width, height = input_size(1280, 720, config.preprocess.short_side)
    job = Job(np.zeros((config.clip.frames, height, width, 3), np.uint8), width, height, 1.0, 1, 0.0)
    runner.run([job])
    started = time.perf_counter()
    runner.run([job])
    return time.perf_counter() - started


def run_batch(channel: Channel, runner: Runner, rings: dict[int, Ring], message: Header, slow_s: float) -> None:
    """Copy the windows, say so, run, answer."""
    started = time.perf_counter()
    jobs: list[Job] = []
    places: list[int] = []
    for place, wanted in enumerate(message["jobs"]):
        ring = rings.get(wanted["stream"])
        frames = None if ring is None else ring.read(wanted["slots"], wanted["generations"])
        if frames is not None:
            jobs.append(Job(frames, *wanted["size"], *wanted["options"]))
            places.append(place)
    stale = sorted(set(range(len(message["jobs"]))) - set(places))
    channel.send({"t": "copied", "id": message["id"], "stale": stale})
    copied_s = time.perf_counter() - started
    results: list[object] = [None] * len(message["jobs"])
    seconds = {"preprocess": copied_s, "inference": 0.0, "postprocess": 0.0}
    if jobs:
        if slow_s:
            time.sleep(slow_s)
        done = runner.run(jobs)
        for place, actors in zip(places, done.actors, strict=True):
            results[place] = [actor.model_dump() for actor in actors]
        seconds = {
            "preprocess": copied_s + done.preprocess_s,
            "inference": done.inference_s,
            "postprocess": done.postprocess_s,
        }
    memory = torch.cuda.memory_reserved(runner.device) if runner.device.type == "cuda" else 0
    channel.send({"t": "done", "id": message["id"], "results": results, "seconds": seconds, "gpu_memory": memory})


def serve(channel: Channel, runner: Runner, slow_s: float) -> None:
    """Orders until the parent closes."""
    rings: dict[int, Ring] = {}
    while (message := channel.receive()) is not None:
        header = message.header
        match header["t"]:
            case "ring":
                shape = RingShape(header["width"], header["height"], header["capacity"])
                rings[header["stream"]] = Ring(message.fds[0], shape, writable=False)
            case "drop":
                rings.pop(header["stream"], None)
            case "batch":
                try:
                    run_batch(channel, runner, rings, header, slow_s)
                except torch.OutOfMemoryError as error:
                    torch.cuda.empty_cache()
                    channel.send({"t": "failed", "id": header["id"], "message": str(error), "reason": "oom"})
                except RuntimeError as error:
                    reason = "cuda" if "CUDA" in str(error) else "error"
                    channel.send({"t": "failed", "id": header["id"], "message": str(error), "reason": reason})
                    if reason == "cuda":  # a broken context mends only with the process
                        raise SystemExit(1) from error


def main() -> None:
    """``python -m service.worker.process FD OPTIONS_JSON``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = WorkerOptions(**json.loads(sys.argv[2]))
    try:
        try:
            device, warning = pick_device(options.device)
            torch.set_num_threads(options.threads or max(1, len(os.sched_getaffinity(0))))
            runner = Runner(load_model(options), device)
            warmup_s = warm_up(runner)
        except StartError as error:
            channel.send({"t": "broken", "message": str(error)})
            raise SystemExit(2) from None
        card = runner.model.card.to_dict()
        channel.send({"t": "ready", "device": str(device), "warning": warning, "warmup_s": warmup_s, "card": card})
        serve(channel, runner, options.slow_s)
    except ChannelError:
        pass


if __name__ == "__main__":
    main()
