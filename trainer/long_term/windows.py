"""Where a long-term model's windows come from in training and evaluation (paper §3.5).

``OfflineWindows`` reads the bank of the short-term model that was trained first. ``OwnWindows`` keeps the model's own
queries, detached, as it meets clips: in training, where clips come in any order, an entry may be some steps old, as in
asynchronous memories; in evaluation clips come in order, one at a time, and a window is what a live stream would have.
Every process has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from stmixer.model.config import DetectorConfig, LongTermConfig
from stmixer.model.outputs import DecoderOutput
from stmixer.model.query_bank import second_of
from stmixer.model.stage import best_queries
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.errors import TrainError
from stmixer.trainer.long_term.bank import QueryBank


class Windows(Protocol):
    """Stacked windows of clips, and what is learned of the clips themselves."""

    def of(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """(B, K, 2D) float32 queries and (B, K) bool, True where they are there; on the CPU."""
        ...

    def note(self, draws: Sequence[Draw], output: DecoderOutput) -> None:
        """The clips' own queries are known now."""
        ...


class OfflineWindows:
    """Out of a bank's file."""

    def __init__(self, bank: QueryBank, config: LongTermConfig, dim: int, sources: Sequence[ClipSource]) -> None:
        """Raises TrainError for a bank of another k or width, or one that lacks a video."""
        if (bank.card.k, bank.card.dim) != (config.best, dim):
            raise TrainError(f"{bank.path} has {bank.card.k} queries of {bank.card.dim}, wanted {config.best} of {dim}")
        lacking = {v.name for s in sources for v in s.split.videos} - set(bank.card.videos)
        if lacking:
            raise TrainError([f"{bank.path} lacks {name}" for name in sorted(lacking)])
        self._bank, self._config, self._sources = bank, config, tuple(sources)

    def of(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """As ``Windows``."""
        parts = []
        for draw in draws:
            split = self._sources[draw.source].split
            video = split.videos[int(split.video[draw.keyframe])].name
            t_s = float(split.pts_us[draw.keyframe]) / 1e6
            parts.append(self._bank.window(video, t_s, self._config.clips, self._config.clips_before))
        queries, masks = zip(*parts, strict=True)
        return torch.stack(queries), torch.stack(masks)

    def note(self, draws: Sequence[Draw], output: DecoderOutput) -> None:
        """As ``Windows``: another model's queries are in the bank, not these."""


class OwnWindows:
    """The model's own queries of the past seconds, as far as it has met them."""

    def __init__(self, config: LongTermConfig, dim: int, sources: Sequence[ClipSource]) -> None:
        self._config, self._dim, self._sources = config, dim, tuple(sources)
        self._entries: dict[tuple[str, int], Tensor] = {}

    def of(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """As ``Windows``: only seconds before the clip's own."""
        clips, best = self._config.clips, self._config.best
        queries = torch.zeros(len(draws), clips, best, self._dim)
        mask = torch.zeros(len(draws), clips, best, dtype=torch.bool)
        for i, draw in enumerate(draws):
            video, second = self._place(draw)
            for row, past in enumerate(range(second - clips, second)):
                entry = self._entries.get((video, past))
                if entry is not None:
                    queries[i, row], mask[i, row] = entry.float(), True
        return queries.flatten(1, 2), mask.flatten(1, 2)

    def note(self, draws: Sequence[Draw], output: DecoderOutput) -> None:
        """As ``Windows``: detached, in half precision, as a stream keeps them."""
        best, _ = best_queries(output, self._config.best)
        for draw, entry in zip(draws, best.detach().to("cpu", torch.float16), strict=True):
            self._entries[self._place(draw)] = entry

    def _place(self, draw: Draw) -> tuple[str, int]:
        """A clip's video, unlike any of another set, and its second."""
        split = self._sources[draw.source].split
        video = split.videos[int(split.video[draw.keyframe])].name
        return f"{draw.source}/{video}", second_of(int(split.pts_us[draw.keyframe]))


def make_windows(
    config: DetectorConfig, bank: Path | None, digest: str | None, sources: Sequence[ClipSource]
) -> Windows | None:
    """The windows of a model; None for a short-term one.

    Args:
        config: the model's.
        bank: the bank's file, for an offline one.
        digest: of the model that the bank must be of; None takes any (training decides it).
        sources: what draws count in.

    Raises:
        TrainError: no bank, another model's, or one that does not fit.
    """
    if config.long_term is None:
        if bank is not None:
            raise TrainError(f"{config.name} is a short-term model: it takes no bank {bank}")
        return None
    dim = 2 * config.decoder.dim
    if config.long_term.kind == "online":
        return OwnWindows(config.long_term, dim, sources)
    if bank is None:
        raise TrainError(f"{config.name} is an offline long-term model: name its bank (long_term.bank)")
    return OfflineWindows(QueryBank(bank, digest), config.long_term, dim, sources)


def clips_at_once(config: DetectorConfig, wanted: int) -> int:
    """Clips of an evaluation's batch: one of an online model, which must have seen a clip before the next."""
    return 1 if config.long_term is not None and config.long_term.kind == "online" else wanted


def detect(
    run: Callable[..., DecoderOutput], windows: Windows | None, draws: Sequence[Draw], clip: Tensor, sizes_wh: Tensor
) -> DecoderOutput:
    """Run a network on a batch with its windows, and let them know what it found."""
    if windows is None:
        return run(clip, sizes_wh)
    queries, mask = windows.of(draws)
    output = run(clip, sizes_wh, queries.to(clip.device), mask.to(clip.device))
    windows.note(draws, output)
    return output
