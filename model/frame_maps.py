"""What the frame stage gives for each frame: names, strides and shapes of its maps. Imports no torch."""

from __future__ import annotations

from stmixer.model.config import DetectorConfig

STRIDES = (4, 8, 16, 32)
"""Px per cell of the feature space's maps."""

START_NUMBERS = 5
"""Of a start (``model.starts``): cx, cy, z, r, logit."""


def frame_outputs(config: DetectorConfig) -> tuple[str, ...]:
    """Names in exported graphs of what the frame stage gives: the feature space's maps, and starts if there are any."""
    maps = tuple(f"map_{stride}" for stride in STRIDES)
    return (*maps, "starts") if config.decoder.cells else maps


def frame_shapes(config: DetectorConfig, count: int, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of ``frame_outputs`` for so many frames of this padded size, px."""
    c = config.decoder
    maps = tuple((count, c.dim, height // stride, width // stride) for stride in STRIDES)
    return (*maps, (count, START_NUMBERS, c.cells, 1)) if c.cells else maps
