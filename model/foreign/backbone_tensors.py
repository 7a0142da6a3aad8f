"""A backbone's tensors out of a foreign file: every one found exactly once, and a report of what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stmixer.model.card import CheckpointError
from stmixer.model.checkpoint import name_differences, not_finite
from stmixer.model.config import DetectorConfig
from stmixer.model.detector import skeleton

PREFIX = "backbone."
COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What a file gave.

    ``tensors`` by the detector's names, all of its backbone and, of a detector's file, of the person head; ``adapted``:
    those of them that do not come from the file as they are, each with what was done; ``left``: the file's names that
    only its own classifier or training needs; ``notes``: what a user should know of how the file was read.
    """

    tensors: dict[str, Tensor]
    adapted: dict[str, str]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def report(self) -> list[str]:
        """Notes and counts first, then a line for each adapted tensor and each left name."""
        loaded = len(self.tensors) - len(self.adapted)
        lines = [*self.notes, f"loaded {loaded}, adapted {len(self.adapted)}, left {len(self.left)}"]
        lines += [f"adapted: {name}: {what}" for name, what in self.adapted.items()]
        return lines + [f"left: {name}" for name in self.left]


def take_backbone(
    path: Path,
    config: DetectorConfig,
    given: Mapping[str, Tensor],
    name_in_file: Callable[[str], str],
    is_unused: Callable[[str], bool],
    adapted: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> Pretrained:
    """Take a backbone's tensors, strictly.

    Args:
        path: the file, for messages.
        config: the variant.
        given: the file's tensors, its prefixes taken off.
        name_in_file: a name of the backbone, without ``backbone.``, to the file's.
        is_unused: whether a name of the file is none of the backbone's by its layout.
        adapted: what has been done already to tensors in ``given``, by their names there.
        notes: how the file was read.

    Raises:
        CheckpointError: names that are missing, not used or of another shape or kind, a line each.
    """
    full = {k: v for k, v in skeleton(config).state_dict().items() if k.startswith(PREFIX)}
    names = {ours: name_in_file(ours.removeprefix(PREFIX)) for ours in full}
    assert len(set(names.values())) == len(names), "two of our names share one of the file's"
    given, changed = dict(given), dict(adapted or {})
    if not any(name.endswith(COUNTER) for name in given):  # counts batches of a training that is over
        for name in names.values():
            if name.endswith(COUNTER):
                given[name], changed[name] = torch.zeros((), dtype=torch.int64), "not in the file: 0"
    kept = {name: tensor for name, tensor in given.items() if not is_unused(name)}
    problems = name_differences(
        {names[ours]: tuple(tensor.shape) for ours, tensor in full.items()},
        {name: tuple(tensor.shape) for name, tensor in kept.items()},
    )
    problems += [
        f"{name}: {tensor.dtype} instead of {'integers' if name.endswith(COUNTER) else 'real numbers'}"
        for name, tensor in kept.items()
        if tensor.is_complex() or tensor.is_floating_point() == name.endswith(COUNTER)
    ]
    problems += not_finite(kept)
    if problems:
        raise CheckpointError(f"{path} does not fit the backbone of {config.name}:\n  " + "\n  ".join(problems))
    for name, tensor in kept.items():
        if tensor.dtype not in (torch.float32, torch.int64):
            changed[name] = f"{tensor.dtype} made {torch.int64 if name.endswith(COUNTER) else torch.float32}"
    return Pretrained(
        {ours: kept[names[ours]].to(tensor.dtype) for ours, tensor in full.items()},
        {ours: changed[name] for ours, name in names.items() if name in changed},
        tuple(sorted(name for name in given if name not in kept)),
        notes,
    )
