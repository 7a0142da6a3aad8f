"""What evaluations run: a weights file as a function of clips, on a device, at a precision.

``Network`` is all that evaluations know of a model, so that other runtimes of the same weights can stand in for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from stmixer.model.card import CheckpointError, ModelCard
from stmixer.model.checkpoint import load
from stmixer.model.decoder import DecoderOutput
from stmixer.model.detector import Detector
from stmixer.model.frame_then_clip import detect_each_frame_once
from stmixer.model.runtimes.choose import open_runtime
from stmixer.model.runtimes.eager import EagerRuntime
from stmixer.model.runtimes.precision import WideProducts, has_precision
from stmixer.model.runtimes.runtime import RuntimeUnavailable
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.batch import ClipBatch, network_input
from stmixer.trainer.data.clips import WHOLE, View
from stmixer.trainer.data.clipset import ClipSet, ClipSource
from stmixer.trainer.data.loader import make_loader
from stmixer.trainer.data.plan import in_order
from stmixer.trainer.errors import TrainError
from stmixer.trainer.long_term.windows import clips_at_once, make_windows
from stmixer.trainer.long_term.windows import detect as run_on

Precision = Literal["fp32", "bf16"]

Network = Callable[..., DecoderOutput]
"""A clip (B, 3, T, H, W), normalised and padded, and (B, 2) unpadded sizes in px -> float32 outputs, as a Detector's
forward; at least the last stage. Long-term models take their bank's window and its mask besides."""


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network and what its file says of itself."""

    run: Network
    card: ModelCard


def load_network(weights: Path, device: torch.device, precision: Precision = "fp32") -> LoadedNetwork:
    """Read a weights file and run it as the service does; an .onnx file runs in ONNX Runtime.

    Raises TrainError for one that cannot be used.
    """
    try:
        if weights.suffix == ".onnx":
            runtime = open_runtime(None, weights, device, precision=precision, tensors=True)
        else:
            runtime = EagerRuntime(load(weights), device, precision)
    except (CheckpointError, RuntimeUnavailable) as error:
        raise TrainError(str(error).splitlines()) from None
    run: Network = runtime.detect
    if runtime.card.config.backbone.per_frame:
        run = functools.partial(detect_each_frame_once, runtime.frame_stage, runtime.clip_stage)
    if precision == "fp32" or has_precision(precision, device):
        return LoadedNetwork(run, runtime.card)

    def emulated(*inputs: Tensor) -> DecoderOutput:
        """What the device would give if it had such arithmetic, at fp32's speed."""
        with WideProducts():  # type: ignore[no-untyped-call]
            return run(*inputs)

    return LoadedNetwork(emulated, runtime.card)


def once_per_frame(detector: Detector, clip: Tensor, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
    """The detector's forward; where it sees frames one by one, each of those that a batch shares is computed once.

    Evaluation batches are neighbouring keyframes of one video, whose windows overlap.
    """
    if not detector.config.backbone.per_frame:
        return cast(DecoderOutput, detector(clip, sizes_wh, *bank))
    return detect_each_frame_once(detector.frame_stage, detector.clip_stage, clip, sizes_wh, *bank)


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """What a network said of a batch of clips; ``sizes_wh`` (B, 2), px, is their unpadded sizes."""

    batch: ClipBatch
    output: DecoderOutput
    sizes_wh: Tensor


@torch.inference_mode()
def run_network(
    network: LoadedNetwork,
    sources: Sequence[ClipSource],
    config: RunConfig,
    device: torch.device,
    *,
    view: View = WHOLE,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[BatchOutput]:
    """Every keyframe of the sources once, in batches of one video each; ``progress`` is told batches done and all."""
    detector = network.card.config
    size = clips_at_once(detector, config.evaluate.batch_size)
    batches = in_order([source.split.video for source in sources], size)
    windows = make_windows(detector, config.bank, network.card.bank_digest, sources)
    clips = ClipSet(sources, detector, None, config.cache_bytes, view=view)
    loader = make_loader(clips, batches, config.workers, device.type == "cuda")
    for done, batch in enumerate(loader, start=1):
        batch = batch.to(device)
        clip, sizes_wh = network_input(batch.frames, detector.preprocess)
        yield BatchOutput(batch, run_on(network.run, windows, batch.draws, clip, sizes_wh), sizes_wh)
        if progress is not None:
            progress(done, len(batches))
