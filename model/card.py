"""What a model file says of its weights, apart from the tensors: the card in its header. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stmixer.model.bundled import NamedWeights, published
from stmixer.model.config import ConfigError, DetectorConfig
from stmixer.model.foreign.file_kind import described
from stmixer.model.labels import Label
from stmixer.model.named import weights_named
from stmixer.model.pulled import pulled

FORMAT = 1


class CheckpointError(ValueError):
    """A file that cannot be used as weights; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a file says of its weights, apart from the tensors.

    ``trained`` is False for initial weights; ``trained_on`` names the data, ``source`` where the weights come from,
    ``metrics`` what was measured, as JSON: set by set, with split and protocol. ``bank_digest`` is the digest of the
    model whose bank an offline long-term model was trained against; it understands no other's.
    """

    config: DetectorConfig
    labels: tuple[Label, ...]
    trained: bool
    trained_on: str | None = None
    licence: str | None = None
    source: str | None = None
    metrics: dict[str, Any] | None = None
    bank_digest: str | None = None

    def __post_init__(self) -> None:
        if len(self.labels) != self.config.decoder.classes:
            raise CheckpointError(f"{len(self.labels)} labels for {self.config.decoder.classes} classes")
        if not all(isinstance(label.id, int) and isinstance(label.name, str) for label in self.labels):
            raise CheckpointError("a label is a number and a name")
        if len({label.id for label in self.labels}) != len(self.labels):
            raise CheckpointError("label ids must be distinct")
        if not isinstance(self.trained, bool):
            raise CheckpointError(f"trained must be true or false, got {self.trained!r}")
        for text in (self.trained_on, self.licence, self.source, self.bank_digest):
            if text is not None and not isinstance(text, str):
                raise CheckpointError(f"trained_on, licence, source and bank_digest are texts, got {text!r}")
        long_term = self.config.long_term
        offline = long_term is not None and long_term.kind == "offline"
        if self.trained and offline != (self.bank_digest is not None):
            raise CheckpointError("a trained offline long-term model states its bank_digest, and no other does")
        if self.metrics is not None and not isinstance(self.metrics, dict):
            raise CheckpointError(f"metrics are names and values, got {self.metrics!r}")

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.config.name

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelCard:
        """Inverse of ``to_dict``. Raises CheckpointError for anything unknown or missing."""
        try:
            known = {f.name for f in dataclasses.fields(cls)}
            if unknown := set(data) - known:
                raise CheckpointError(f"unknown entries: {', '.join(sorted(unknown))}")
            config = DetectorConfig.from_dict(data["config"])
            labels = tuple(Label(**label) for label in data["labels"])
            return cls(**{**data, "config": config, "labels": labels})
        except (KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(f"the model description is incomplete or wrong: {error}") from None


def read_header(path: Path) -> tuple[ModelCard, str]:
    """The card and the digest a file states, without reading its tensors.

    Bundled and fetched weights do by name: their card then says that name, and the size of pictures that goes with it.
    Raises CheckpointError.
    """
    if (named := weights_named(path)) is not None:
        card, stated = read_header(named.file)
        return _called(card, named), stated
    if os.path.exists(path) and not os.path.isfile(path):
        raise CheckpointError(f"{path} is not a file")
    try:
        kind = described(path)
    except (OSError, ValueError):
        kind = None  # told below
    if kind is not None and not kind.startswith("a safetensors file"):
        raise CheckpointError(f"{path} is not a safetensors file: it is {kind}")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist{_how_to_get(path)}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({error}); a published .pth is read by `stmixer-weights convert`"
        ) from None
    if "stmixer" not in metadata:
        raise CheckpointError(f"{path} does not describe itself; make it with `stmixer-weights convert`")
    return parse_header(metadata["stmixer"], path)


def _how_to_get(path: Path) -> str:
    """What to do about a name of weights that are not here, or not ready."""
    known = path.name in published() or path.name in pulled()
    return f"; `stmixer-weights pull {path.name}` says how to get it" if known else ""


def _called(card: ModelCard, named: NamedWeights) -> ModelCard:
    """The card under a name."""
    side = named.short_side or card.config.preprocess.short_side
    preprocess = dataclasses.replace(card.config.preprocess, short_side=side)
    return dataclasses.replace(card, config=dataclasses.replace(card.config, name=named.name, preprocess=preprocess))


def parse_header(text: str, path: Path) -> tuple[ModelCard, str]:
    """The card and the digest in a file's ``stmixer`` entry. Raises CheckpointError."""
    try:
        header = json.loads(text)
        version, card, stated = header["format"], header["card"], header["digest"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged header: {type(error).__name__} {error}") from None
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}, this version reads {FORMAT}: convert the weights again")
    return ModelCard.from_dict(card), stated
