"""A worker process: owns the model and its device, runs the batches that the API process forms.

    parent → child   ring {stream, shape} [fd], drop {stream}, batch {id, jobs} [windows of banks]
    child → parent   ready {device, runtime, warning, warmup_s, saved, card}, broken {message}, copied {id, stale},
                     done {id, results, seconds} [entries of banks], failed {id, message, fatal}

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

from stmixer.media.resize import input_size
from stmixer.service.errors import StartError
from stmixer.service.ipc.channel import Channel, ChannelError, Header, Message
from stmixer.service.ipc.child import die_with_parent
from stmixer.service.ipc.ring import Ring, RingShape
from stmixer.service.worker.features import FrameKey
from stmixer.service.worker.runner import NO_STREAM, BankEntries, FrameWindow, Job, Runner, pick_device, start_runtime


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is started with: which model, where and how it runs, and what tests do to it."""

    model: str | None
    weights: str | None
    device: str
    runtime: str
    precision: str
    threads: int
    max_batch: int
    slow_s: float
    poison: bool


WARM_UP_S = 1.0
"""A larger batch is tried in the warm-up while it should not take longer than this."""

POISONS = {4242: "exit", 4243: "stuck", 4244: "oom", 4245: "cuda"}
"""Test hook: what keyframes of a ``top_k`` do to their worker."""


def warm_up(runner: Runner, max_batch: int) -> dict[int, float]:
    """Run batches of nothing at 16:9, of 1, 2, 4 … keyframes; seconds of each size the second time.

    Where that would take long, on a CPU for one, the larger sizes are left out.
    """
    seconds, size = dict[int, float](), 1
    while size <= max_batch and 2 * seconds.get(size // 2, 0.0) <= WARM_UP_S:
        seconds[size] = min(_run_nothing(runner, size) for _ in range(2))
        size *= 2
    return seconds


def saved_by_features(runner: Runner, seconds: float) -> float:
    """The part of ``seconds``, a keyframe's time, that is not needed where its frames' features are known; 0 to 1."""
    if not runner.keeps_features:
        return 0.0
    _run_nothing(runner, 1, forget=False)
    known_s = _run_nothing(runner, 1)
    return max(0.0, 1 - known_s / seconds)


def _run_nothing(runner: Runner, size: int, *, forget: bool = True) -> float:
    config = runner.card.config
    width, height = input_size(1280, 720, config.preprocess.short_side)
    frames = np.zeros((config.clip.frames, height, width, 3), np.uint8)
    jobs = []
    for i in range(size):  # frames that no other job has, nor a run before: all of the work
        keys = tuple(FrameKey(NO_STREAM, i * config.clip.frames + j) for j in range(config.clip.frames))
        jobs.append(Job(frames, width, height, 1.0, 1, 0.0, FrameWindow(keys, keys)))
    started = time.perf_counter()
    runner.run(jobs)
    seconds = time.perf_counter() - started
    if forget:
        runner.forget(NO_STREAM)
    return seconds


def split_banks(runner: Runner, payload: bytes, count: int) -> list[BankEntries | None]:
    """A batch's payload as its jobs' bank windows; None for each where the model has none."""
    of_queries, of_mask = runner.bank_bytes
    if not of_mask:
        return [None] * count
    each, banks = of_queries + of_mask, list[BankEntries | None]()
    for first in range(0, each * count, each):
        queries = np.frombuffer(payload, np.float16, of_queries // 2, first).reshape(of_mask, -1)
        banks.append((queries, np.frombuffer(payload, np.bool_, of_mask, first + of_queries)))
    return banks


def read_job(runner: Runner, ring: Ring | None, wanted: Header, bank: BankEntries | None) -> Job | None:
    """Copy those of a window's frames that the runner does not know; None if one of them is no longer there."""
    keys = tuple(FrameKey(wanted["stream"], generation) for generation in wanted["generations"])
    shown = runner.missing(keys)
    slot_of = dict(zip(keys, wanted["slots"], strict=True))
    if ring is None:
        return None
    frames = ring.read([slot_of[key] for key in shown], [key.generation for key in shown])
    if frames is None:
        return None
    (width, height), (score, top_k, action) = wanted["size"], wanted["options"]
    return Job(frames, width, height, score, top_k, action, FrameWindow(keys, shown), bank)


def poisoned(how: str | None) -> None:
    """Test hook: end as workers end, if at all."""
    match how:
        case "exit":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stuck":
            signal.pause()
        case "oom":
            raise MemoryError("poisoned")
        case "cuda":
            raise RuntimeError("CUDA error: poisoned")


def run_batch(channel: Channel, runner: Runner, rings: dict[int, Ring], batch: Message, options: WorkerOptions) -> None:
    """Copy the windows, say so, run, answer. What the answer's jobs leave for their streams' banks is its payload."""
    message = batch.header
    banks = split_banks(runner, batch.payload, len(message["jobs"]))
    started = time.perf_counter()
    jobs: list[Job] = []
    places: list[int] = []
    for place, wanted in enumerate(message["jobs"]):
        job = read_job(runner, rings.get(wanted["stream"]), wanted, banks[place])
        if job is not None:
            jobs.append(job)
            places.append(place)
    stale = sorted(set(range(len(message["jobs"]))) - set(places))
    channel.send({"t": "copied", "id": message["id"], "stale": stale})
    copied_s = time.perf_counter() - started
    results: list[object] = [None] * len(message["jobs"])
    seconds = {"preprocess": copied_s, "inference": 0.0, "postprocess": 0.0}
    entries = b""
    if jobs:
        if options.slow_s:
            time.sleep(options.slow_s)
        for job in jobs if options.poison else ():
            poisoned(POISONS.get(job.top_k or 0))
        done = runner.run(jobs)
        for place, actors in zip(places, done.actors, strict=True):
            results[place] = [actor.model_dump() for actor in actors]
        entries = b"" if done.entries is None else done.entries.tobytes()
        seconds = {
            "preprocess": copied_s + done.preprocess_s,
            "inference": options.slow_s + done.inference_s,
            "postprocess": done.postprocess_s,
        }
    memory = torch.cuda.memory_reserved(runner.runtime.device) if runner.runtime.device.type == "cuda" else 0
    answer = {"t": "done", "id": message["id"], "results": results, "seconds": seconds, "gpu_memory": memory}
    channel.send(answer, entries)


def reason_of(error: Exception) -> str:
    """``oom`` and ``cuda``: this process cannot go on; ``error``: the next batch may do better."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error):
        return "oom"
    return "cuda" if "CUDA" in str(error) else "error"


def serve(channel: Channel, runner: Runner, options: WorkerOptions) -> None:
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
                runner.forget(header["stream"])
            case "batch":
                try:
                    run_batch(channel, runner, rings, message, options)
                except (RuntimeError, MemoryError) as error:
                    reason = reason_of(error)
                    channel.send({"t": "failed", "id": header["id"], "message": str(error), "reason": reason})
                    if reason != "error":  # a broken context mends only with the process, memory mostly so
                        raise SystemExit(1) from None


def main() -> None:
    """``python -m stmixer.service.worker.process FD OPTIONS_JSON``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    die_with_parent()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = WorkerOptions(**json.loads(sys.argv[2]))
    try:
        try:
            device, warning = pick_device(options.device)
            torch.set_num_threads(options.threads or max(1, len(os.sched_getaffinity(0))))
            weights = None if options.weights is None else Path(options.weights)
            runner = Runner(start_runtime(options.model, weights, device, options.runtime, options.precision))
            warmup_s = warm_up(runner, options.max_batch)
            saved = saved_by_features(runner, warmup_s[1])
        except (torch.OutOfMemoryError, MemoryError):
            message = f"{options.device} has not the memory for one keyframe of this model; take a smaller one"
            channel.send({"t": "broken", "message": message})
            raise SystemExit(2) from None
        except StartError as error:
            channel.send({"t": "broken", "message": str(error)})
            raise SystemExit(2) from None
        card, how = runner.card.to_dict(), f"{runner.runtime.name}, {runner.runtime.precision}"
        ready = {"device": str(device), "runtime": how, "warning": warning, "card": card}
        channel.send({"t": "ready", "warmup_s": list(warmup_s.items()), "saved": saved, **ready})
        serve(channel, runner, options)
    except ChannelError:
        pass


if __name__ == "__main__":
    main()
