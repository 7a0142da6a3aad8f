"""Self-describing model files: safetensors whose header carries everything that is needed to use the weights.

The header's ``stmixer`` entry is JSON: format, configuration, labels, licence, source, what it was trained on, and a
digest of the tensors. Nothing in a file is ever executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stmixer.model.bundled import DEFAULT, BundledWeights, bundled, bundled_as
from stmixer.model.config import ConfigError, DetectorConfig
from stmixer.model.detector import Detector, build, skeleton
from stmixer.model.foreign.file_kind import described
from stmixer.model.labels import Label, default_labels
from stmixer.model.zoo import variant

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


@dataclass(frozen=True, slots=True)
class Model:
    """A detector with its card, ready to run."""

    detector: Detector
    card: ModelCard


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels in half precision, for a file of half the size; norms, biases and queries' scale stay.

    Raises CheckpointError for a weight beyond half precision's range.
    """
    half = {k: v.half() if v.dim() > 1 and v.dtype is torch.float32 else v for k, v in tensors.items()}
    if beyond := [k for k, v in half.items() if v.is_floating_point() and not bool(v.isfinite().all())]:
        raise CheckpointError("too large for half precision:\n  " + "\n  ".join(beyond))
    return half


def save(path: Path, tensors: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write one model file, complete or not at all. ``tensors`` are a Detector's state dict, or ``halved`` ones.

    Raises CheckpointError where the folder or the disk does not take it; nothing is left behind then.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        try:
            header = {"format": FORMAT, "card": card.to_dict(), "digest": digest(tensors)}
            save_file(_unshared(tensors), partial, {"stmixer": json.dumps(header)})
            partial.chmod(mode)  # safetensors leaves 0600, which a service under another user cannot read
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(f"{path} cannot be written: {reason}") from None


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where several are views of one storage: safetensors takes each name by itself."""
    users = Counter(t.untyped_storage().data_ptr() for t in tensors.values())
    return {
        k: t.detach().clone() if users[t.untyped_storage().data_ptr()] > 1 else t.detach().contiguous()
        for k, t in tensors.items()
    }


def read_header(path: Path) -> tuple[ModelCard, str]:
    """The card and the digest a file states, without reading its tensors.

    Bundled weights do by name: their card then says that name, and the size of pictures that goes with it. Raises
    CheckpointError.
    """
    if (named := bundled_as(path)) is not None:
        card, stated = read_header(named.file)
        return _called(card, named), stated
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        kind = described(path)
    except OSError:
        kind = None  # told below
    if kind is not None and not kind.startswith("a safetensors file"):
        raise CheckpointError(f"{path} is not a safetensors file: it is {kind}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({error}); a published .pth is read by `stmixer-weights convert`"
        ) from None
    if "stmixer" not in metadata:
        raise CheckpointError(f"{path} does not describe itself; make it with `stmixer-weights convert`")
    return parse_header(metadata["stmixer"], path)


def _called(card: ModelCard, named: BundledWeights) -> ModelCard:
    """The card under a bundled name."""
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


def load(path: Path) -> Model:
    """Read a model file, or bundled weights by name, strictly: every name once, every shape right.

    Raises CheckpointError.
    """
    card, _ = read_header(path)
    detector = skeleton(card.config)
    load_exactly(detector, read_tensors(path))
    return Model(detector.eval(), card)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a model file, or of bundled weights by name, on the CPU. Raises CheckpointError."""
    if (named := bundled_as(path)) is not None:
        return read_tensors(named.file)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def load_exactly(detector: Detector, tensors: Mapping[str, Tensor]) -> None:
    """Give a skeleton its tensors; what is stored in half precision is computed with in single.

    Raises CheckpointError with a list of every name or shape that does not fit, or of what is not finite.
    """
    wanted = detector.state_dict()
    tensors = {
        k: v.float() if v.dtype is torch.float16 and k in wanted and wanted[k].dtype is torch.float32 else v
        for k, v in tensors.items()
    }
    problems = name_differences(
        {k: tuple(v.shape) for k, v in wanted.items()}, {k: tuple(v.shape) for k, v in tensors.items()}
    )
    problems += [
        f"{k}: {v.dtype} instead of {wanted[k].dtype}"
        for k, v in tensors.items()
        if k in wanted and v.dtype != wanted[k].dtype
    ]
    if problems:
        raise CheckpointError("the weights do not fit the model:\n  " + "\n  ".join(problems))
    if problems := not_finite(tensors):
        raise CheckpointError("the weights hold infinities or numbers that are none:\n  " + "\n  ".join(problems))
    detector.load_state_dict(dict(tensors), strict=True, assign=True)
    detector.requires_grad_(True)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """One line for every tensor that holds infinities or numbers that are none."""
    lines = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and (bad := int((~tensor.isfinite()).sum())):
            lines.append(f"{name}: {bad} of {tensor.numel()} numbers are not finite")
    return lines


def name_differences(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line for every name that is missing, superfluous or of another shape."""
    lines = [f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in given]
    lines += [f"not used: {name} {list(shape)}" for name, shape in given.items() if name not in wanted]
    lines += [
        f"{name}: shape {list(given[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    return lines


def open_model(name: str | None, weights: Path | None) -> Model:
    """The weights, a file or a bundled name; else what ``name`` says, bundled weights or an untrained variant; else the
    bundled default.

    Raises CheckpointError, or ConfigError for an unknown variant.
    """
    if weights is not None:
        model = load(weights)
        if name is not None and model.card.name != name:
            raise CheckpointError(f"{weights} holds {model.card.name}, not {name}; leave --model out")
        return model
    name = DEFAULT if name is None else name
    if name in bundled():
        return load(Path(name))
    if name == DEFAULT:
        raise CheckpointError(f"the bundled weights {DEFAULT} are not installed; name others with --weights")
    return untrained(name)


def untrained(name: str) -> Model:
    """The named variant with initial weights, the same on every machine; its card says that it is untrained."""
    config = variant(name)
    card = ModelCard(config, default_labels(config.decoder.classes), trained=False, source="initial weights, seed 0")
    return Model(build(config), card)
