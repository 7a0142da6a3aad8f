"""Multiply-adds as the paper counts them: convolutions and linear layers (Table 1).

Attention projections are in; batched products (attention itself, adaptive mixing), grid sampling and norms are out.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch.utils.flop_counter import FlopCounterMode

from stmixer.model.config import DetectorConfig
from stmixer.model.detector import skeleton

_COUNTED = frozenset({torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm})
_PARTS = ("backbone", "feature_space", "person_head", "decoder")


def multiply_adds(config: DetectorConfig, width: int = 256, height: int = 256, batch: int = 1) -> dict[str, float]:
    """Multiply-adds of one forward, in 10^9, by part: backbone, feature_space, person_head where
    there is one, and decoder.<module> over all stages.

    Nothing is computed: the network runs on the meta device.
    """
    detector = skeleton(config)
    clip = torch.empty(batch, 3, config.clip.frames, height, width, device="meta")
    sizes = torch.empty(batch, 2, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        detector(clip, sizes)
    parts: dict[str, float] = defaultdict(float)
    leaves = {f"Detector.{name}": name for name, module in detector.named_modules() if not list(module.children())}
    for path, counts in counter.get_flop_counts().items():
        if path in leaves:
            flops = sum(count for op, count in counts.items() if op in _COUNTED)
            parts[_part(leaves[path])] += flops / 2 / 1e9
    return {part: value for part, value in sorted(parts.items(), key=lambda item: _order(item[0])) if value}


def _part(name: str) -> str:
    head, *rest = name.split(".")
    if head != "decoder":
        return head
    # decoder.stages.<i>.<module>...: the same module of all stages is one part
    keep = [word for word in rest[2:] if not word.isdigit()]
    return ".".join(["decoder", *keep[:2]])


def _order(part: str) -> tuple[int, str]:
    return _PARTS.index(part.split(".")[0]), part
