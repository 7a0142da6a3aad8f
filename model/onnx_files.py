"""The files that ``model.export`` writes: which there are, whose weights they hold or point into. Imports no torch.

Graphs beside a weights file (``stmixer-weights export FILE --beside``) hold no weights of their own: their tensors are
read where they lie in that file. They name its header's digest, so that graphs and weights of different days are told.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from stmixer.model.card import CheckpointError, ModelCard, parse_header, read_header
from stmixer.model.onnx_header import read_metadata

HEADER_KEY, BESIDE_KEY = "stmixer", "stmixer_beside"
"""In ``metadata_props``: the card and the tensors' digest; of graphs without weights, their file and its header's."""


def stage_path(path: Path, stage: str) -> Path:
    """Where a stage of the model ``path`` lies: x.onnx (whole), x.frame.onnx, x.clip.onnx."""
    return path if stage == "whole" else path.with_name(f"{path.stem}.{stage}{path.suffix}")


def graphs_beside(weights: Path) -> Path:
    """Where the graphs of a weights file would be: x.onnx of x.safetensors."""
    return weights.with_suffix(".onnx")


def header_digest(weights: Path) -> str:
    """SHA-256 of a safetensors file's header: names, types and places of tensors, and what the file says of itself.

    All that graphs which read tensors out of the file rest on, the tensors' own digest included. Raises OSError.
    """
    with weights.open("rb") as file:
        length = file.read(8)
        size = min(int.from_bytes(length, "little"), weights.stat().st_size)  # what is no such file says anything
        return hashlib.sha256(length + file.read(size)).hexdigest()


def header_of(path: Path) -> tuple[ModelCard, str]:
    """The card and the digest of the tensors that an ONNX file states.

    Raises CheckpointError for a file that is none of ours, and for a graph that does not belong to the weights beside.
    """
    try:
        metadata = read_metadata(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: {error}") from None
    if HEADER_KEY not in metadata:
        raise CheckpointError(f"{path} does not describe itself; make it with `stmixer-weights export`")
    if BESIDE_KEY in metadata:
        file, _, wanted = metadata[BESIDE_KEY].rpartition(" ")
        if not file or Path(file).name != file or "\0" in file:
            raise CheckpointError(f"{path} wants {file!r} for its weights, which is no name of a file beside it")
        _check_weights(path, path.with_name(file), wanted)
    return parse_header(metadata[HEADER_KEY], path)


def weights_beside(path: Path) -> str | None:
    """The name of the weights file that a graph reads its tensors from; None for one that holds its own.

    Raises CheckpointError for a file that cannot be read.
    """
    try:
        return read_metadata(path).get(BESIDE_KEY, "").rpartition(" ")[0] or None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: {error}") from None


def _check_weights(graph: Path, weights: Path, wanted: str) -> None:
    try:
        found = header_digest(weights)
    except OSError as error:
        raise CheckpointError(f"{graph} wants its weights, {weights.name}, beside it: {error.strerror}") from None
    if found != wanted:
        raise CheckpointError(
            f"{graph} was made for other weights than {weights.name} has now; "
            f"`stmixer-weights export {weights} --beside` makes it anew"
        )


def graphs_of(weights: Path) -> Path | None:
    """The graphs that lie beside a weights file and are its own; None where there are none.

    Raises CheckpointError where there are some of other weights.
    """
    path = graphs_beside(weights)
    if not path.exists():
        return None
    if header_of(path)[1] != read_header(weights)[1]:
        raise CheckpointError(
            f"{path} is of other weights than {weights.name}; `stmixer-weights export {weights} --beside` makes it anew"
        )
    return path
