"""What ``stmixer-weights`` prints: tables and lists, for eyes on a terminal and for programs in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stmixer.model.clip import padded_size, window
from stmixer.model.config import DetectorConfig
from stmixer.model.zoo import VARIANTS

if TYPE_CHECKING:
    from stmixer.model.checkpoint import ModelCard


def print_cost(config: DetectorConfig, size: tuple[int, int]) -> None:
    """Multiply-adds by part, of one clip of this width and height, px."""
    from stmixer.model.cost import multiply_adds

    width, height = padded_size(*size, config.preprocess)
    parts = multiply_adds(config, width, height)
    table = Table("part", title=f"{config.name}, one clip of {width} x {height}", title_justify="left")
    table.add_column("10^9 multiply-adds", justify="right")
    for part, value in parts.items():
        table.add_row(part, f"{value:.2f}")
    _console().print(table)
    typer.echo(f"total {sum(parts.values()):.1f}")


def print_variants() -> None:
    """The zoo, a row each."""
    table = Table("variant", "backbone", "clip, frames x stride", "needs after the keyframe", "queries", "classes")
    for name, config in VARIANTS.items():
        clip, decoder = config.clip, config.decoder
        row = (f"{clip.frames} x {clip.stride}", f"{float(window(clip).lookahead_s):.2f} s")
        table.add_row(name, config.backbone.kind, *row, str(decoder.queries), str(decoder.classes))
    _console().print(table)


def described(card: ModelCard) -> dict[str, object]:
    """What a user should know of a file first."""
    from stmixer.model.detector import skeleton

    return {
        "model": card.name,
        "parameters": f"{sum(p.numel() for p in skeleton(card.config).parameters()):,}",
        "trained": "yes" if card.trained else "NO: initial weights, its results mean nothing",
        "trained on": card.trained_on or "not stated",
        "licence": card.licence or "not stated",
        "source": card.source or "not stated",
        "labels": f"{len(card.labels)}: {card.labels[0].name} ... {card.labels[-1].name}",
    }


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, keys joined by dots; sequences as their items."""
    pairs: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[prefix + key] = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return pairs


def print_pairs(pairs: Mapping[str, object]) -> None:
    """A line each, values wrapped under themselves."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in pairs.items():
        table.add_row(key, Text(printable(str(value))))
    _console().print(table)


def _console() -> Console:
    # piped, lines are for programs: wide enough that a digest stays whole
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def printable(text: str) -> str:
    """What a file says, without the control characters that would reach the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
