"""ONNX Runtime, on the CPU or on CUDA, from files that ``model.export`` wrote. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from stmixer.model.card import CheckpointError, ModelCard
from stmixer.model.frame_maps import frame_outputs, frame_shapes
from stmixer.model.onnx_files import header_of, stage_path, weights_beside
from stmixer.model.outputs import OUTPUTS, DecoderOutput, StageOutput
from stmixer.model.quiet_onnxruntime import onnxruntime
from stmixer.model.runtimes.arrays import Arrays, DeviceName
from stmixer.model.runtimes.onnx_file import check_onnx
from stmixer.model.runtimes.runtime import RuntimeUnavailable

A = TypeVar("A")

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(Generic[A]):
    """The sessions of one exported model, on arrays of any kind. Outputs hold the last stage alone.

    ``card``: what is said of the model, where its weights file says it; else the graphs' own. ``threads`` of each
    product; by default as many as this process may use.
    """

    name, precision, all_stages = "onnx", "fp32", False

    def __init__(
        self, path: Path, arrays: Arrays[A], *, card: ModelCard | None = None, threads: int | None = None
    ) -> None:
        """Open the model's files: a family with two stages by those, and the whole when it is first asked for.

        Raises CheckpointError for a bad file, RuntimeUnavailable for the device.
        """
        self.arrays, self.device = arrays, arrays.device
        self._path, self._threads = path, threads or len(os.sched_getaffinity(0))
        self._sessions: dict[str, Any] = {}
        own, digest = header_of(path)
        self.card = card or own
        if not self.card.config.backbone.per_frame:
            self._session("whole")
            return
        for stage in ("frame", "clip"):
            beside = stage_path(path, stage)
            if not beside.exists():
                raise CheckpointError(f"{beside} is missing: {path.name} goes with its .frame.onnx and .clip.onnx")
            if header_of(beside) != (own, digest):
                raise CheckpointError(f"{beside} is of other weights than {path.name}; export both again")
            self._session(stage)

    def detect(self, clip: A, sizes_wh: A, *bank: A) -> DecoderOutput[A]:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        return self._last_stage("whole", {"clip": clip, "sizes_wh": sizes_wh}, _shape(sizes_wh)[0])

    def frame_stage(self, frames: A) -> tuple[A, ...]:
        """See ``Runtime``."""
        count, _, height, width = _shape(frames)
        shapes = zip(frame_outputs(self.card.config), frame_shapes(self.card.config, count, height, width), strict=True)
        return tuple(self._run("frame", {"frames": frames}, dict(shapes)))

    def clip_stage(self, maps: Sequence[A], sizes_wh: A, *bank: A) -> DecoderOutput[A]:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        feeds = dict(zip(frame_outputs(self.card.config), maps, strict=True)) | {"sizes_wh": sizes_wh}
        return self._last_stage("clip", feeds, _shape(sizes_wh)[0])

    def _last_stage(self, stage: str, feeds: dict[str, A], batch: int) -> DecoderOutput[A]:
        c = self.card.config.decoder
        sizes = ((2,), (c.classes,), (4,), (4,), (c.groups, c.points, 3), (c.dim,), (c.dim,))
        shapes = {name: (batch, c.queries, *size) for name, size in zip(OUTPUTS, sizes, strict=True)}
        *last, spatial, temporal = self._run(stage, feeds, shapes)
        return DecoderOutput((StageOutput(*last),), spatial, temporal)

    def _run(self, stage: str, feeds: dict[str, A], shapes: dict[str, tuple[int, ...]]) -> list[A]:
        """Reads and writes the arrays' memory where it lies: nothing is copied to or from the device.

        Raises RuntimeError for what goes wrong in it, a want of memory for one.
        """
        inputs = {name: self.arrays.ready(x) for name, x in feeds.items()}
        outputs = {name: self.arrays.empty(shape) for name, shape in shapes.items()}
        session = self._session(stage)
        binding = session.io_binding()
        place = (self.device.type, self.device.index or 0, np.float32)
        for name, x in inputs.items():
            binding.bind_input(name, *place, _shape(x), self.arrays.address(x))
        for name, x in outputs.items():
            binding.bind_output(name, *place, _shape(x), self.arrays.address(x))
        self.arrays.synchronise()  # a device's streams of ours know nothing of ONNX Runtime's
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # noqa: BLE001 (onnxruntime's errors share no base class)
            raise RuntimeError(str(error)) from None
        binding.synchronize_outputs()
        return list(outputs.values())

    def _session(self, stage: str) -> Any:
        if stage not in self._sessions:
            self._sessions[stage] = _open(stage_path(self._path, stage), self.device, self._threads)
        return self._sessions[stage]


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.shape)


@functools.cache
def _share_memory() -> None:
    """Have all sessions of this process, which run in turns, compute in the same memory, of what they asked for and no
    more: each would keep twice its own otherwise (bench/worker_memory.py)."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    unlimited, as_requested, default = 0, 1, -1
    arena = onnxruntime.OrtArenaCfg(unlimited, as_requested, default, default)
    with contextlib.suppress(Exception):  # whoever embeds us has registered one: that is shared then
        onnxruntime.create_and_register_allocator(memory, arena)


def _open(path: Path, device: DeviceName, threads: int) -> Any:
    check_onnx(path, beside=weights_beside(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait for work sleep: between a camera's keyframes they would keep a core busy
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device.type == "cpu":
        _share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False  # a plan of memory for every shape that ever ran
    options.log_severity_level = 3  # what goes wrong is raised; its warnings speak of graph optimisers
    provider = _PROVIDERS.get(device.type)
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeUnavailable(f"this build of ONNX Runtime cannot use {device}; use --device cpu")
    on_cuda = {"device_id": device.index or 0, "use_tf32": 0}  # fp32 is to mean fp32
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[(provider, on_cuda if device.type == "cuda" else {})]
        )
    except Exception as error:  # noqa: BLE001 (onnxruntime's errors share no base class)
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: {first}") from None
    session.disable_fallback()
    # where CUDA does not load, sessions are made on the CPU without an error (onnxruntime #17801, #23372)
    if session.get_providers()[0] != provider:
        raise RuntimeUnavailable(
            f"ONNX Runtime fell back to {session.get_providers()[0]} where {device} was asked for: its CUDA libraries "
            "do not load here (it needs the CUDA and cuDNN that it was built for); use --device cpu or a .safetensors"
        )
    return session
