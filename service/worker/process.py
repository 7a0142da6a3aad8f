"""A worker process: owns the model and its device, runs the batches that the API process forms.

What may come and go is ``ipc.messages``' ``TO_WORKER`` and ``FROM_WORKER``. Each job names slots and the generations it
must find there; what it finds otherwise is ``stale`` and left out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from stmixer.model.clip import input_size
from stmixer.model.runtimes.choose import why_chosen
from stmixer.model.runtimes.contest import contest
from stmixer.service.errors import StartError
from stmixer.service.ipc.channel import Channel, ChannelError
from stmixer.service.ipc.child import die_with_parent, hide, more_expendable
from stmixer.service.ipc.messages import (
    MAX_TEXT,
    TO_WORKER,
    Actor,
    AttachRing,
    BatchDone,
    BatchFailed,
    DetachRing,
    JobOrder,
    RunBatch,
    StageSeconds,
    WindowsCopied,
    WorkerBroken,
    WorkerOptions,
    WorkerReady,
    WorkerTells,
)
from stmixer.service.ipc.ring import Ring, RingShape
from stmixer.service.worker.features import FrameKey
from stmixer.service.worker.runner import NO_STREAM, BankEntries, FrameWindow, Job, Runner, pick_device, start_runtime

MORE_EXPENDABLE = 300
"""What is added to our parent's ``oom_score_adj``: half of a decoder's (``decoder.cell``)."""
_NO_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")
_OF_CUDA = ("CUDA", "cuDNN", "CUDNN", "cuBLAS", "CUBLAS", "cuFFT", "CUFFT", "NVRTC")
WARM_UP_S = 1.0
"""A larger batch is tried in the warm-up while it should not take longer than this."""


def warm_up(runner: Runner, max_batch: int) -> dict[int, float]:
    """Run batches of nothing at 16:9, of 1, 2, 4 … keyframes; seconds of each size the second time.

    Where that would take long, on a CPU for one, the larger sizes are left out; where there is not the memory for one,
    the runner is told to run no more than half of it at once.
    """
    seconds, size = dict[int, float](), 1
    while size <= max_batch and 2 * seconds.get(size // 2, 0.0) <= WARM_UP_S:
        try:
            seconds[size] = min(_run_nothing(runner, size) for _ in range(2))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or reason_of(error) != "oom":
                raise
            runner.most_at_once = size // 2
            break
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
    try:
        runner.run(jobs)
        return time.perf_counter() - started
    finally:
        if forget:
            runner.forget(NO_STREAM)


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


def read_job(runner: Runner, ring: Ring | None, wanted: JobOrder, bank: BankEntries | None) -> Job | None:
    """Copy those of a window's frames that the runner does not know; None if one of them is no longer there."""
    keys = tuple([FrameKey(wanted.stream, generation) for generation in wanted.generations])
    shown = runner.missing(keys)
    slot_of = dict(zip(keys, wanted.slots, strict=True))
    if ring is None:
        return None
    frames = ring.read([slot_of[key] for key in shown], [key.generation for key in shown])
    if frames is None:
        return None
    options = (wanted.score_threshold, wanted.top_k, wanted.action_threshold)
    return Job(frames, wanted.width, wanted.height, *options, FrameWindow(keys, shown), bank, wanted.filled)


def run_batch(channel: Channel, runner: Runner, rings: dict[int, Ring], batch: RunBatch, payload: bytes) -> None:
    """Copy the windows, say so, run, answer. What jobs leave for their streams is its payload."""
    started = time.perf_counter()
    banks = split_banks(runner, payload, len(batch.jobs)) if payload else [None] * len(batch.jobs)
    read = [
        read_job(runner, rings.get(order.stream), order, bank) for order, bank in zip(batch.jobs, banks, strict=True)
    ]
    channel.send(WindowsCopied(batch.id, tuple([place for place, job in enumerate(read) if job is None])))
    copied_s = time.perf_counter() - started
    results: list[tuple[Actor, ...] | None] = [None] * len(read)
    seconds, left = StageSeconds(copied_s, 0.0, 0.0), b""
    places = [place for place, job in enumerate(read) if job is not None]
    if places:
        done = runner.run([job for job in read if job is not None])
        for place, actors in zip(places, done.actors, strict=True):
            results[place] = tuple(actors)
        entries = b"" if done.entries is None else done.entries.tobytes()
        scores = [kept.action_scores.astype(np.float32).tobytes() for kept in done.kept]
        left = b"".join([entries, *scores, *[looks.tobytes() for looks in done.looks]])
        seconds = StageSeconds(copied_s + done.preprocess_s, done.inference_s, done.postprocess_s)
    memory = runner.runtime.arrays.reserved_bytes()
    channel.send(BatchDone(batch.id, tuple(results), seconds, memory), left)


def reason_of(error: Exception) -> Literal["oom", "cuda", "error"]:
    """``oom`` and ``cuda``: this process cannot go on; ``error``: the next batch may do better.

    CUDA's libraries name themselves in what they say. What came first counts too: a capture that ran out of memory ends
    with another error.
    """
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    said = " ".join(map(str, chain))
    if any(isinstance(one, MemoryError) for one in chain) or any(words in said for words in _NO_MEMORY):
        return "oom"
    return "cuda" if any(name in said for name in _OF_CUDA) else "error"


def serve(channel: Channel, runner: Runner) -> None:
    """Orders until the parent closes."""
    rings: dict[int, Ring] = {}
    while (received := channel.receive()) is not None:
        match received.message:
            case AttachRing(stream, width, height, capacity):
                rings[stream] = Ring(received.fds[0], RingShape(width, height, capacity), writable=False)
            case DetachRing(stream):
                rings.pop(stream, None)
                runner.forget(stream)
            case RunBatch() as batch:
                try:
                    run_batch(channel, runner, rings, batch, received.payload)
                except (RuntimeError, MemoryError) as error:
                    reason = reason_of(error)
                    channel.send(BatchFailed(batch.id, str(error)[:MAX_TEXT], reason))
                    if reason != "error":  # a broken context mends only with the process, memory mostly so
                        raise SystemExit(1) from None


def keep_to(cores: Sequence[int]) -> None:
    """Run on these processor cores alone, as will all threads to come; none named: wherever."""
    for thread in os.listdir("/proc/self/task") if cores else ():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def open_runner(options: WorkerOptions, tell: Callable[[str], None] = lambda _: None) -> tuple[Runner, WorkerReady]:
    """The model, loaded and warm, and what is said of it. ``tell``: as ``contest`` has it. Raises StartError."""
    try:
        device, warning = pick_device(options.device)
        weights = None if options.weights is None else Path(options.weights)
        how, won = (options.runtime, options.precision), None
        if options.chosen is None:
            cache = None if options.cache is None else Path(options.cache)
            won = contest(
                options.model, weights, device,
                runtime=options.runtime, precision=options.precision, threads=options.threads, cache=cache, tell=tell,
            )  # fmt: skip
        if won is not None:
            how = won.how
        runner = Runner(start_runtime(options.model, weights, device, *how, threads=options.threads))
        warmup_s = warm_up(runner, options.max_batch)
        if (most := runner.most_at_once) is not None:
            of_memory = f"{options.device} has the memory for {most} keyframes at once: larger batches run in parts"
            warning = of_memory if warning is None else f"{warning}; {of_memory}"
        saved = saved_by_features(runner, warmup_s[1])
    except (RuntimeError, MemoryError) as error:
        if reason_of(error) != "oom":
            raise
        why = f"{options.device} has not the memory for one keyframe of this model; take a smaller one"
        raise StartError("no_memory", why) from None
    card = runner.card.to_dict()
    ran = runner.runtime
    chosen = why_chosen(ran, options.runtime)
    if options.chosen is not None and ran.name == ("onnx" if options.runtime == "auto" else options.runtime):
        chosen = options.chosen
    if won is not None and (ran.name, ran.precision) == (won.candidate.runtime, won.candidate.precision):
        chosen = won.why[:MAX_TEXT]
    return runner, WorkerReady(
        str(device), ran.name, ran.precision, chosen, warning, tuple(warmup_s.items()), min(1.0, saved), card
    )


def main() -> None:
    """``python -m stmixer.service.worker.process FD OPTIONS_JSON``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    die_with_parent()
    more_expendable(MORE_EXPENDABLE)
    hide()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), TO_WORKER)
    try:
        try:
            options = WorkerOptions(**json.loads(sys.argv[2]))
            keep_to(options.cores)
            runner, ready = open_runner(options, lambda text: channel.send(WorkerTells(text[:MAX_TEXT])))
        except StartError as error:
            channel.send(WorkerBroken(str(error)[:MAX_TEXT]))
            raise SystemExit(2) from None
        channel.send(ready)
        serve(channel, runner)
    except ChannelError:
        pass


if __name__ == "__main__":
    main()
