"""What somebody who teaches gets: one weights file with its card, and its ONNX graphs beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from stmixer.model.card import CheckpointError, read_header
from stmixer.model.checkpoint import read_tensors, save
from stmixer.model.export import export_beside
from stmixer.model.onnx_files import graphs_beside, stage_path
from stmixer.trainer.errors import TrainError
from stmixer.trainer.teach.figures import Figures

TAUGHT = "stmixer teach"
"""What its weights say of where they come from begins with it."""


def write_outcome(weights: Path, output: Path, base: Path, trained_on: str, figures: Figures) -> None:
    """Write ``output`` out of a run's weights, its graphs and ``<name>.md`` beside it.

    Args:
        base: what training started from, whose licence it inherits.
        trained_on: in words.

    Raises:
        TrainError: the folder does not take it.
    """
    try:
        card, theirs = read_header(weights)[0], read_header(base)[0]
        card = replace(
            card,
            config=replace(card.config, name=output.stem),
            trained=card.trained and figures.recall > 0,
            trained_on=trained_on,
            licence=theirs.licence,
            source=f"{TAUGHT}, from {theirs.name}",
            metrics={"taught, validation": {k: v for k, v in figures.as_dict().items() if _finite(v)}},
        )
        # made aside, so that what an earlier lesson made stays whole until all is there
        with TemporaryDirectory(prefix=f".{output.stem}-", dir=output.parent) as made:
            whole = Path(made) / output.name
            save(whole, read_tensors(weights), card)
            export_beside(whole)
            labels = ", ".join(label.name for label in card.labels)
            whole.with_suffix(".md").write_text(
                f"# {output.stem}\n\n"
                f"- **Knows**: {labels}.\n"
                f"- **Learned from**: {trained_on}; from {theirs.name}.\n"
                f"- **On the clips that were kept to check by** ({figures.keyframes} keyframes): {figures.says()}.\n"
                f"- **Boxes**: those that a model drew (pseudo), nobody's.\n"
                f"- **Licence**: {card.licence or 'not stated'}\n",
                encoding="utf-8",
            )
            for path in (output, *beside(output)):
                (Path(made) / path.name).replace(path)
    except (CheckpointError, OSError) as error:
        raise TrainError(str(error).splitlines()) from None


def is_whole(output: Path) -> bool:
    """Whether the weights and their graphs are there."""
    return output.is_file() and all(graph.is_file() for graph in _graphs(output))


def beside(output: Path) -> list[Path]:
    """All that a lesson writes beside its weights: graphs, and the card in words."""
    return [*_graphs(output), output.with_suffix(".md")]


def is_taught(output: Path) -> bool:
    """Whether a file is what a lesson made, by what it says of itself."""
    try:
        return (read_header(output)[0].source or "").startswith(TAUGHT)
    except CheckpointError:
        return False


def _graphs(output: Path) -> list[Path]:
    whole = graphs_beside(output)
    return [whole, stage_path(whole, "frame"), stage_path(whole, "clip")]


def _finite(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
