"""The online query bank (the paper's future work, §3.5): what a stream's own past clips left, one entry a second.

Its place is beside the stream, in a process without torch: numpy alone. An entry is the (k, 2D) float16 queries of a
clip's best people (``model.stage.best_queries``); the window of a clip is that of the seconds before its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stmixer.model.config import DetectorConfig

ENTRY_US = 1_000_000
"""Between two entries of a bank, online or offline."""


def new_bank(config: DetectorConfig) -> OnlineBank | None:
    """An empty bank for a stream of an online long-term model; None for other models."""
    if config.long_term is None or config.long_term.kind != "online":
        return None
    return OnlineBank(config.long_term.clips, config.long_term.best, 2 * config.decoder.dim)


def second_of(pts_us: int) -> int:
    """The entry that a moment belongs to: the nearest whole second."""
    return (2 * pts_us + ENTRY_US) // (2 * ENTRY_US)


class OnlineBank:
    """The newest ``clips`` entries of one stream. Its memory is of fixed size from the start."""

    def __init__(self, clips: int, best: int, dim: int) -> None:
        self._entries = np.zeros((clips, best, dim), np.float16)
        self._seconds = np.full(clips, -1, np.int64)
        self._newest = -1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Clips, k and 2D."""
        clips, best, dim = self._entries.shape
        return clips, best, dim

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry."""
        return int(self._entries[0].nbytes)

    def add(self, second: int, entry: NDArray[np.float16]) -> bool:
        """Take the (k, 2D) entry of a second, if it is newer than all; whether it was taken.

        One a second: the first clip of a second stays, as its window was what later ones were computed with.
        """
        if second <= self._newest:
            return False
        row = second % len(self._seconds)
        self._entries[row], self._seconds[row], self._newest = entry, second, second
        return True

    def window(self, second: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """The entries of the ``clips`` seconds before ``second``, oldest first.

        Returns:
            (clips x k, 2D) queries, zero where there is no entry, and (clips x k,) True where there is one.
        """
        clips, best, dim = self._entries.shape
        wanted = np.arange(second - clips, second)
        rows = wanted % clips
        known = (self._seconds[rows] == wanted) & (wanted >= 0)
        queries = np.where(known[:, None, None], self._entries[rows], np.float16(0))
        return queries.reshape(clips * best, dim), np.repeat(known, best)
