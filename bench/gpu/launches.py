"""What a keyframe asks of the device: launches, copies, waits; and whether every operator of a graph runs there."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.notes import Notes, Row
from bench.gpu.scene import Scene
from stmixer.model.bundled import DEFAULT, bundled
from stmixer.model.checkpoint import open_model
from stmixer.model.clip import input_size
from stmixer.model.onnx_files import graphs_of, stage_path
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.model.runtimes.runtime import RuntimeUnavailable
from stmixer.service.worker.features import FrameKey
from stmixer.service.worker.runner import FrameWindow, Job, Runner

KINDS = {
    "launches": ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel"),
    "graph launches": ("cudaGraphLaunch",),
    "copies to the GPU": ("Memcpy HtoD",),
    "copies from the GPU": ("Memcpy DtoH",),
    "copies on the GPU": ("Memcpy DtoD",),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    "operators": ("aten::",),
}
"""What is counted, by how the profiler's names begin."""
STREAM = 1


def launches(notes: Notes, scene: Scene, _: str) -> None:
    """A steady keyframe of a live stream as the worker runs it, half its frames new; then the exported graphs."""
    for name in scene.models:
        for runtime in scene.runtimes:
            if not notes.left_s():
                return
            try:
                model = open_model(name, None)
                runner = Runner(torch_runtime(model, torch.device(scene.device), runtime=runtime))
            except RuntimeUnavailable as error:
                notes.add(model=name, runtime=runtime, refused=str(error))
                continue
            notes.add(model=name, runtime=runtime, precision=runner.runtime.precision, **of_a_keyframe(runner, scene))
    for row in placements(scene):
        notes.add(**row)


def of_a_keyframe(runner: Runner, scene: Scene) -> Row:
    """Counts of each of ``KINDS`` in the third keyframe."""
    frames = runner.card.config.clip.frames
    for keyframe in range(2):
        runner.run([job(runner, keyframe * frames // 2)])
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * scene.on_gpu
    with profile(activities=activities) as seen:
        runner.run([job(runner, frames)])
    return counted((event.key, event.count) for event in seen.key_averages())


def job(runner: Runner, first: int) -> Job:
    """A 16:9 window of a stream that begins at this frame: pictures of nothing, those that are new."""
    config = runner.card.config
    width, height = input_size(1280, 720, config.preprocess.short_side)
    keys = tuple(FrameKey(STREAM, generation) for generation in range(first, first + config.clip.frames))
    shown = runner.missing(keys)
    pixels = np.zeros((len(shown), height, width, 3), np.uint8)
    return Job(pixels, 1280, 720, 0.6, None, 0.0, FrameWindow(keys, shown))


def counted(events: Iterable[tuple[str, int]]) -> Row:
    """The profiler's names and counts, by kind; kinds that are not seen are left out."""
    found: Counter[str] = Counter()
    for name, count in events:
        for kind, beginnings in KINDS.items():
            if name.startswith(beginnings):
                found[kind] += count
    return dict(found)


def placements(scene: Scene) -> list[Row]:
    """Each bundled graph's operators by where ONNX Runtime runs them."""
    if importlib.util.find_spec("onnxruntime") is None:
        return [{"graph": DEFAULT, "refused": "ONNX Runtime is not here"}]
    from stmixer.model.quiet_onnxruntime import onnxruntime

    graphs = graphs_of(bundled()[DEFAULT].file)
    provider = "CUDAExecutionProvider" if scene.on_gpu else "CPUExecutionProvider"
    if graphs is None or provider not in onnxruntime.get_available_providers():
        return [{"graph": DEFAULT, "refused": f"ONNX Runtime has no {provider} here"}]
    config = open_model(DEFAULT, None).card.config
    width, height = input_size(1280, 720, config.preprocess.short_side)
    padded = [-(-side // 32) * 32 for side in (height, width)]
    frames = np.zeros((config.clip.frames, 3, *padded), np.float32)
    maps, first = profiled(stage_path(graphs, "frame"), provider, [frames])
    sizes = np.array([[width, height]], np.float32)
    _, second = profiled(stage_path(graphs, "clip"), provider, [*(x[None] for x in maps), sizes])
    return [{"graph": name, "wanted": provider, **row} for name, row in (("frame", first), ("clip", second))]


def profiled(path: Path, provider: str, inputs: Sequence[Any]) -> tuple[list[Any], Row]:
    """A graph's outputs for these inputs, in its order, and how many operators ran where."""
    from stmixer.model.quiet_onnxruntime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "seen")
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        names = [given.name for given in session.get_inputs()]
        outputs = session.run(None, dict(zip(names, inputs, strict=True)))
        events = json.loads(Path(session.end_profiling()).read_text())
    return outputs, placed(events)


def placed(events: Iterable[Row]) -> Row:
    """Operators by provider, and the kinds of those on the CPU, of ONNX Runtime's own profile."""
    ran = {
        event["name"]: event["args"] for event in events if event.get("cat") == "Node" and "provider" in event["args"]
    }
    where = Counter(args["provider"].removesuffix("ExecutionProvider") for args in ran.values())
    on_cpu = Counter(args["op_name"] for args in ran.values() if args["provider"].startswith("CPU"))
    return {"operators": dict(where), "on the CPU": dict(on_cpu.most_common(12))}
