"""Self-describing model files: safetensors whose header carries everything that is needed to use the weights.

The header's ``stmixer`` entry is JSON: format, configuration, labels, licence, source, what it was trained on, and a
digest of the tensors. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stmixer.model.bundled import DEFAULT, bundled
from stmixer.model.card import FORMAT, CheckpointError, ModelCard, read_header
from stmixer.model.detector import Detector, build, skeleton
from stmixer.model.labels import default_labels
from stmixer.model.named import weights_named
from stmixer.model.zoo import variant


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


def load(path: Path) -> Model:
    """Read a model file, or weights by name, strictly: every name once, every shape right.

    Raises CheckpointError.
    """
    card, _ = read_header(path)
    detector = skeleton(card.config)
    load_exactly(detector, read_tensors(path))
    return Model(detector.eval(), card)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a model file, or of weights by name, on the CPU. Raises CheckpointError."""
    if (named := weights_named(path)) is not None:
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
    """The weights, a file or a name; else what ``name`` says, bundled weights or an untrained variant; else the
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
