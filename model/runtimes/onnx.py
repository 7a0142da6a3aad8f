"""ONNX Runtime, on the CPU or on CUDA, from files that ``model.export`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from stmixer.model.backbones import STRIDES
from stmixer.model.checkpoint import CheckpointError, ModelCard, parse_header
from stmixer.model.config import DetectorConfig
from stmixer.model.decoder import DecoderOutput, StageOutput
from stmixer.model.runtimes.onnx_file import check_onnx
from stmixer.model.runtimes.runtime import OUTPUTS, RuntimeUnavailable
from stmixer.model.starts import NUMBERS

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def frame_outputs(config: DetectorConfig) -> tuple[str, ...]:
    """Names in exported graphs of what the frame stage gives: the feature space's maps, and starts if there are any."""
    maps = tuple(f"map_{stride}" for stride in STRIDES)
    return (*maps, "starts") if config.decoder.cells else maps


def stage_path(path: Path, stage: str) -> Path:
    """Where a stage of the model ``path`` lies: x.onnx (whole), x.frame.onnx, x.clip.onnx."""
    return path if stage == "whole" else path.with_name(f"{path.stem}.{stage}{path.suffix}")


class OnnxRuntime:
    """The sessions of one exported model. Outputs hold the last stage alone."""

    name, precision, all_stages = "onnx", "fp32", False

    def __init__(self, path: Path, device: torch.device) -> None:
        """Open every file of the model. Raises CheckpointError for a bad file, RuntimeUnavailable for the device."""
        self.device = device
        self._sessions = {"whole": _open(path, device)}
        self.card, digest = _header(self._sessions["whole"], path)
        if not self.card.config.backbone.per_frame:
            return
        for stage in ("frame", "clip"):
            beside = stage_path(path, stage)
            if not beside.exists():
                raise CheckpointError(f"{beside} is missing: {path.name} goes with its .frame.onnx and .clip.onnx")
            self._sessions[stage] = _open(beside, device)
            if _header(self._sessions[stage], beside) != (self.card, digest):
                raise CheckpointError(f"{beside} is of other weights than {path.name}; export both again")

    def detect(self, clip: Tensor, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        return self._last_stage("whole", {"clip": clip, "sizes_wh": sizes_wh}, sizes_wh.shape[0])

    def frame_stage(self, frames: Tensor) -> tuple[Tensor, ...]:
        """See ``Runtime``."""
        count, _, height, width = frames.shape
        c = self.card.config.decoder
        shapes: list[tuple[int, ...]] = [(count, c.dim, height // stride, width // stride) for stride in STRIDES]
        if c.cells:
            shapes.append((count, NUMBERS, c.cells, 1))
        names = frame_outputs(self.card.config)
        return tuple(self._run("frame", {"frames": frames}, dict(zip(names, shapes, strict=True))))

    def clip_stage(self, maps: Sequence[Tensor], sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        feeds = dict(zip(frame_outputs(self.card.config), maps, strict=True)) | {"sizes_wh": sizes_wh}
        return self._last_stage("clip", feeds, sizes_wh.shape[0])

    def _last_stage(self, stage: str, feeds: dict[str, Tensor], batch: int) -> DecoderOutput:
        c = self.card.config.decoder
        sizes = ((2,), (c.classes,), (4,), (4,), (c.groups, c.points, 3), (c.dim,), (c.dim,))
        shapes = {name: (batch, c.queries, *size) for name, size in zip(OUTPUTS, sizes, strict=True)}
        *last, spatial, temporal = self._run(stage, feeds, shapes)
        return DecoderOutput((StageOutput(*last),), spatial, temporal)

    def _run(self, stage: str, feeds: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> list[Tensor]:
        """Reads and writes torch's memory where it lies: nothing is copied to or from the device."""
        inputs = {name: x.detach().float().contiguous() for name, x in feeds.items()}
        outputs = {name: torch.empty(shape, device=self.device) for name, shape in shapes.items()}
        session = self._sessions[stage]
        binding = session.io_binding()
        place = (self.device.type, self.device.index or 0, np.float32)
        for name, x in inputs.items():
            binding.bind_input(name, *place, tuple(x.shape), x.data_ptr())
        for name, x in outputs.items():
            binding.bind_output(name, *place, tuple(x.shape), x.data_ptr())
        if self.device.type == "cuda":  # its streams know nothing of torch's
            torch.cuda.current_stream(self.device).synchronize()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return list(outputs.values())


def _open(path: Path, device: torch.device) -> Any:
    check_onnx(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
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
        if not path.exists():
            raise CheckpointError(f"{path} does not exist") from None
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


def _header(session: Any, path: Path) -> tuple[ModelCard, str]:
    metadata = session.get_modelmeta().custom_metadata_map
    if "stmixer" not in metadata:
        raise CheckpointError(f"{path} does not describe itself; make it with `stmixer-weights export`")
    return parse_header(metadata["stmixer"], path)
