"""CUDA graphs: a forward of a thousand small kernels as one launch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stmixer.model.checkpoint import Model
from stmixer.model.decoder import DecoderOutput, StageOutput
from stmixer.model.runtimes.eager import EagerRuntime
from stmixer.model.runtimes.runtime import RuntimeUnavailable

MAX_GRAPHS = 32
"""Kept at a time; the one used longest ago makes room. A service sees few padded shapes and batch buckets."""
_WARM_UPS = 3

Forward = Callable[..., tuple[Tensor, ...]]
Key = tuple[str, tuple[torch.Size, ...]]


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured forward and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class CudaGraphRuntime(EagerRuntime):
    """One graph per stage, padded shape and batch bucket (1, 2, 4, 8 ...), all in one memory pool.

    A batch between two buckets is filled up with its first member: no result depends on its batch mates.
    """

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        if device.type != "cuda":
            raise RuntimeUnavailable(f"--runtime cudagraph needs CUDA, the device is {device}; use --runtime eager")
        super().__init__(model, device, precision)
        self.name = "cudagraph"
        self._graphs: OrderedDict[Key, _Graph] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def detect(self, clip: Tensor, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        run = super().detect
        return _unflat(self._replay("detect", lambda c, s: _flat(run(c, s)), (clip, sizes_wh)))

    def frame_stage(self, frames: Tensor) -> tuple[Tensor, ...]:
        """See ``Runtime``."""
        return self._replay("frame", super().frame_stage, (frames,))

    def clip_stage(self, maps: Sequence[Tensor], sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        run = super().clip_stage
        return _unflat(self._replay("clip", lambda *x: _flat(run(x[:-1], x[-1])), (*maps, sizes_wh)))

    @torch.inference_mode()
    def _replay(self, stage: str, forward: Forward, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Copy in, launch, copy out: the pool's memory is every graph's, so nothing in it may be handed on."""
        batch = inputs[0].shape[0]
        bucket = 1 << (batch - 1).bit_length()
        with torch.cuda.device(self.device):
            graph = self._graph_for(stage, forward, inputs, bucket)
            for fixed, given in zip(graph.inputs, inputs, strict=True):
                fixed[:batch].copy_(given)
                if batch < bucket:
                    fixed[batch:].copy_(given[:1].expand(bucket - batch, *given.shape[1:]))
            graph.graph.replay()
            return tuple(x[:batch].clone() for x in graph.outputs)

    def _graph_for(self, stage: str, forward: Forward, inputs: tuple[Tensor, ...], bucket: int) -> _Graph:
        key = (stage, tuple(torch.Size((bucket, *x.shape[1:])) for x in inputs))
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        while len(self._graphs) >= MAX_GRAPHS:
            torch.cuda.synchronize(self.device)  # it may be running yet
            self._graphs.popitem(last=False)
        self._graphs[key] = self._capture(forward, inputs, bucket)
        return self._graphs[key]

    def _capture(self, forward: Forward, inputs: tuple[Tensor, ...], bucket: int) -> _Graph:
        graph_inputs = tuple(x[:1].expand(bucket, *x.shape[1:]).clone() for x in inputs)
        # first runs choose algorithms and allocate workspaces, which a capture must not
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                forward(*graph_inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # other threads of the process may use CUDA meanwhile; memory is shared among graphs of one stream alone
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = forward(*graph_inputs)
        return _Graph(graph, graph_inputs, outputs)


def _flat(output: DecoderOutput) -> tuple[Tensor, ...]:
    stages = [getattr(stage, name) for stage in output.stages for name in stage.__slots__]
    return (*stages, output.spatial_queries, output.temporal_queries)


def _unflat(tensors: tuple[Tensor, ...]) -> DecoderOutput:
    width = len(StageOutput.__slots__)
    *stages, spatial, temporal = tensors
    return DecoderOutput(
        tuple(StageOutput(*stages[i : i + width]) for i in range(0, len(stages), width)), spatial, temporal
    )
