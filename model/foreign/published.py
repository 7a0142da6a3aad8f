"""The published STMixer layout: taking its tensors, and reading its pickled files without executing anything.

Every name of a published file is used exactly once: as a tensor of ours, or as the loss buffer that we check and drop.
"""

from __future__ import annotations

import functools
import io
import pickle
import re
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from stmixer.model.card import CheckpointError
from stmixer.model.checkpoint import name_differences, not_finite
from stmixer.model.config import DetectorConfig
from stmixer.model.detector import skeleton
from stmixer.model.foreign.file_kind import described
from stmixer.model.foreign.published_names import published_name
from stmixer.model.foreign.unpickling import READ_ERRORS, InertUnpickler
from stmixer.model.zoo import VARIANTS, variant

LOSS_BUFFER = "stm_head.criterion.empty_weight"
_WRAPPERS = ("model", "state_dict", "model_state", "module")
_ONNX = re.compile(rb"\x08[\x01-\x20]\x12.[ -~]{2,}", re.DOTALL)
"""Its version and who made it, the first two fields of one."""
_COMPILED = "_orig_mod"
_OUTERMOST = ("module", "model")
"""Prefixes of what a network was trained in: DataParallel's, LightningModule's usual one."""

_COUNTER = "num_batches_tracked"


def from_published(tensors: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """Published names -> ours, each used exactly once. Raises CheckpointError listing whatever does not fit."""
    wanted = {name: (published_name(name), tuple(t.shape)) for name, t in skeleton(config).state_dict().items()}
    shapes = dict(wanted.values())
    assert len(shapes) == len(wanted), "two of our names share a published one"
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    buffer = tensors.get(LOSS_BUFFER)
    if buffer is not None:
        given.pop(LOSS_BUFFER)
    problems = name_differences(shapes, given)
    if buffer is not None and (buffer.is_complex() or not torch.equal(buffer.float(), torch.tensor([1.0, 0.1]))):
        problems.append(f"{LOSS_BUFFER}: {buffer.tolist()} instead of [1.0, 0.1]")
    problems += not_finite(tensors)
    problems += [
        f"{name}: {tensor.dtype} instead of {'integers' if name.endswith(_COUNTER) else 'real numbers'}"
        for name, tensor in tensors.items()
        if name != LOSS_BUFFER and not _is_of_its_kind(name, tensor)
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(f"the file does not fit the published layout of {config.name}:\n  {listed}")
    return {
        ours: tensors[theirs].long() if ours.endswith(_COUNTER) else tensors[theirs].float()
        for ours, (theirs, _) in wanted.items()
    }


def _is_of_its_kind(name: str, tensor: Tensor) -> bool:
    if name.endswith(_COUNTER):
        return not tensor.is_floating_point() and not tensor.is_complex()
    return tensor.is_floating_point()


def guess_config(tensors: Mapping[str, Tensor], name: str | None) -> DetectorConfig:
    """The variant a published file holds, with its number of classes; ``name`` decides where given.

    Otherwise it is the variant that shares most names and shapes with the file, so that ``from_published`` can list
    what differs. Raises CheckpointError where none shares half of them.
    """
    bias = tensors.get("stm_head.decoder_stages.0.fc_action.bias")
    classes = None if bias is None or bias.dim() != 1 else int(bias.numel())
    if name is not None:
        return variant(name, classes=classes)
    given = {(key, tuple(tensor.shape)) for key, tensor in tensors.items()}
    shares = {name: len(given & wanted) / len(given | wanted) for name in VARIANTS if (wanted := _layout(name))}
    best = max(shares, key=lambda name: shares[name])
    if shares[best] <= 0.5:
        raise CheckpointError(
            f"the file is none of the known variants ({', '.join(VARIANTS)}){_common_prefix(tensors)}; "
            "name one to see what differs"
        )
    return variant(best, classes=classes)


def _common_prefix(tensors: Mapping[str, Tensor]) -> str:
    """What all names begin with, in words."""
    first = {name.partition(".")[0] for name in tensors if "." in name}
    if len(first) != 1 or len(tensors) < 2:
        return ""
    (prefix,) = first
    if prefix == "detector":
        return ", but what `stmixer-train fit` goes on from; the weights are weights.safetensors in its run folder"
    return f"; all of its names begin with {prefix}."


@functools.cache
def _layout(name: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Published names and shapes of a variant; those that depend on the classes do not tell it apart."""
    state = skeleton(variant(name)).state_dict()
    return frozenset((published_name(ours), tuple(tensor.shape)) for ours, tensor in state.items())


def _rebuild_tensor(*args: Any) -> Any:
    # wrapped, so that a pickle never holds torch's own function, whose attributes it could set
    return torch._utils._rebuild_tensor_v2(*args)  # type: ignore[no-untyped-call]


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    return data


class _TensorUnpickler(InertUnpickler):
    """Knows what rebuilds tensors. Storages never get here: torch.load maps their names to descriptions itself."""

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    }


class _TensorPickle:
    """What torch.load wants of a pickle module."""

    Unpickler = _TensorUnpickler
    PickleError = pickle.PickleError
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: io.BufferedIOBase, **kwargs: Any) -> Any:
        return _TensorUnpickler(file, **kwargs).load()


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """The tensors of a file under their published names; ``notes``: what a user should know of how they were taken."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of `read_published_file` alone."""
    return read_published_file(path).tensors


def read_published_file(path: Path) -> PublishedFile:
    """The tensors of a published ``.pth``, with tables around them and prefixes of wrappers taken off.

    Foreign classes in the pickle are never imported: they become inert. Raises CheckpointError, which says what a file
    is that is no checkpoint.
    """
    try:
        if (kind := described(path)) is not None:
            raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: it is {kind}")
        _refuse_programs(path)
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TensorPickle)
        return _table_of_tensors(path, content)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a file") from None
    except CheckpointError:
        raise
    except READ_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: {reason}") from None


def _refuse_programs(path: Path) -> None:
    """Keep from torch.load what it would hand on: TorchScript (it runs) and the tar files of 2016 (it unpacks them).

    ONNX as well, of which it would say that a key is invalid.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if _ONNX.match(head):
        raise CheckpointError(f"{path} is an ONNX model, not a checkpoint")
    if head.startswith(b"PK\x03\x04"):
        # torch's own reader, not zipfile: the two must not disagree on what the archive holds
        if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint; it is not executed")
    elif tarfile.is_tarfile(path):
        raise CheckpointError(f"{path} is a tar archive, not a checkpoint")


def _table_of_tensors(path: Path, content: Any) -> PublishedFile:
    notes = []
    tables = _tables(content)
    wrapper = next((key for key in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
    if wrapper is None and tables and not any(isinstance(value, Tensor) for value in content.values()):
        if len(tables) > 1:
            listed = ", ".join(tables)
            raise CheckpointError(f"{path} holds several tables of tensors ({listed}) and none called {_WRAPPERS[0]}")
        wrapper = tables[0]
    if wrapper is not None:
        content = content[wrapper]
        if others := [key for key in tables if key != wrapper]:
            notes.append(f"taken: {wrapper}; the file holds {', '.join(others)} too")
        elif wrapper not in _WRAPPERS:
            notes.append(f"taken: {wrapper}")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no table of tensors (looked under {', '.join(_WRAPPERS)} and at the top)")
    if other := [str(k) for k, v in content.items() if not isinstance(v, Tensor)]:
        raise CheckpointError(f"{path} holds more than tensors:\n  " + "\n  ".join(f"not used: {k}" for k in other))
    names, prefixes = _unwrapped(list(tensors))
    named = {name: tensor.detach() for name, tensor in zip(names, tensors.values(), strict=True)}
    if len(named) != len(tensors):
        raise CheckpointError(f"{path} holds a name both with and without the prefix {' or '.join(prefixes)}")
    if prefixes:
        notes.append(f"taken off the names: {' '.join(prefixes)}")
    return PublishedFile(named, tuple(notes))


def _tables(content: Any) -> list[str]:
    """The names of a mapping's tables that hold tensors alone: as many networks, one perhaps averaged of another."""
    if not isinstance(content, dict):
        return []
    return [
        key
        for key, table in content.items()
        if isinstance(key, str)
        and isinstance(table, dict)
        and table
        and all(isinstance(value, Tensor) for value in table.values())
    ]


def _unwrapped(names: list[str]) -> tuple[list[str], list[str]]:
    """The names without prefixes of wrappers, and these, from the outermost on.

    ``_orig_mod.`` goes wherever torch.compile left it, ``module.`` from every name, ``model.`` where all names have it.
    """
    taken: list[str] = []
    while True:
        parts = [name.split(".") for name in names]
        outer = next((p for p in _OUTERMOST if all(part[0] == p and len(part) > 1 for part in parts)), None)
        if any(_COMPILED in part[:-1] for part in parts):
            prefix = _COMPILED
            names = [".".join([word for word in part[:-1] if word != _COMPILED] + part[-1:]) for part in parts]
        elif outer is not None or any(part[0] == "module" and len(part) > 1 for part in parts):
            prefix = outer or "module"
            names = [".".join(part[1:] if part[0] == prefix and len(part) > 1 else part) for part in parts]
        else:
            return names, taken
        taken.append(f"{prefix}.")
