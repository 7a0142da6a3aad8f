"""The published STMixer layout: its names, and reading its pickled files without executing anything.

Every name of a published file is used exactly once: as a tensor of ours, or as the loss buffer that we check and drop.
"""

from __future__ import annotations

import functools
import io
import pickle
import re
import struct
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import CheckpointError, name_differences
from model.config import DetectorConfig
from model.detector import skeleton
from model.zoo import VARIANTS, variant

LOSS_BUFFER = "stm_head.criterion.empty_weight"
_WRAPPERS = ("model", "state_dict", "model_state")
_COUNTER = "num_batches_tracked"

# ours -> published, applied in order to every name of a detector's state dict
_RULES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.slow\.", "backbone.pathway0."),
    (r"^backbone\.fast\.", "backbone.pathway1."),
    (r"^backbone\.(pathway\d)\.stem\.", r"backbone.s1.\1_stem.conv."),
    (r"^backbone\.(pathway\d)\.stem_norm\.", r"backbone.s1.\1_stem.bn."),
    (r"\.conv_([abc])\.", r".branch2.\1."),
    (r"\.norm_([abc])\.", r".branch2.\1_bn."),
    (r"\.shortcut\.", ".branch1."),
    (r"\.shortcut_norm\.", ".branch1_bn."),
    (r"^feature_space\.lateral\.", "lateral_convs."),
    (r"^decoder\.(spatial|temporal)_queries$", r"stm_head.init_\1_queries.weight"),
    (r"^decoder\.stages\.", "stm_head.decoder_stages."),
    (r"\.point_generator\.offsets\.", ".samplingmixing.offset_generator.0."),
    (r"\.human_head\.3\.", ".human_fc_cls."),
    (r"\.human_head\.", ".human_cls_fcs."),
    (r"\.box_head\.3\.", ".fc_reg."),
    (r"\.box_head\.", ".reg_fcs."),
    (r"\.action_head\.3\.", ".fc_action."),
    (r"\.action_head\.", ".action_cls_fcs."),
    (r"\.spatial\.", ".s."),
    (r"\.temporal\.", ".t."),
    (r"\.([st])\.attention\.norm\.", r".attention_norm_\1."),
    (r"\.([st])\.attention\.qkv\.", r".attention_\1.attn.in_proj_"),
    (r"\.([st])\.attention\.out_proj\.", r".attention_\1.attn.out_proj."),
    (r"\.([st])\.mixing\.generator\.", r".samplingmixing.adaptive_mixing_\1.parameter_generator.0."),
    (r"\.([st])\.mixing\.out_proj\.", r".samplingmixing.adaptive_mixing_\1.out_proj."),
    (r"\.([st])\.mixing_norm\.", r".samplingmixing.norm_\1."),
    (r"\.([st])\.ffn\.0\.", r".ffn_\1.layers.0.0."),
    (r"\.([st])\.ffn\.2\.", r".ffn_\1.layers.1."),
    (r"\.([st])\.ffn_norm\.", r".ffn_norm_\1."),
)


def published_name(name: str) -> str:
    """The published name of one of our tensors."""
    if match := re.match(r"backbone\.(slow|fast)\.stages\.(\d)\.(\d+)\.(.*)", name):
        pathway, stage, block, rest = match.groups()
        name = f"backbone.s{int(stage) + 2}.pathway{('slow', 'fast').index(pathway)}_res{block}.{rest}"
    if match := re.match(r"backbone\.fusions\.(\d)\.(conv|norm)\.(.*)", name):
        index, part, rest = match.groups()
        name = f"backbone.s{int(index) + 1}_fuse.{ {'conv': 'conv_f2s', 'norm': 'bn'}[part] }.{rest}"
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


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
    problems += [
        f"{name}: {tensor.dtype} instead of {'integers' if name.endswith(_COUNTER) else 'real numbers'}"
        for name, tensor in tensors.items()
        if name != LOSS_BUFFER and not _fits(name, tensor)
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(f"the file does not fit the published layout of {config.name}:\n  {listed}")
    return {
        ours: tensors[theirs].long() if ours.endswith(_COUNTER) else tensors[theirs].float()
        for ours, (theirs, _) in wanted.items()
    }


def _fits(name: str, tensor: Tensor) -> bool:
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
    best, best_share = None, 0.5
    for candidate in VARIANTS:
        config = variant(candidate, classes=classes)
        wanted = {(published_name(ours), tuple(t.shape)) for ours, t in skeleton(config).state_dict().items()}
        share = len(given & wanted) / len(given | wanted)
        if share > best_share:
            best, best_share = config, share
    if best is None:
        raise CheckpointError(
            f"the file is none of the known variants ({', '.join(VARIANTS)}); name one to see what differs"
        )
    return best


class _Inert:
    """Stands in for any class or function of a pickle that we do not know. Takes everything, does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __call__(self, *_args: object, **_kwargs: object) -> _Inert:
        return self

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _value: object) -> None:
        """A list's items, dropped."""

    def extend(self, _values: object) -> None:
        """A list's items, dropped."""

    def add(self, _value: object) -> None:
        """A set's items, dropped."""

    def __hash__(self) -> int:
        return id(self)


def _rebuild_tensor(*args: Any) -> Any:
    # wrapped, so that a pickle never holds torch's own function, whose attributes it could set
    return torch._utils._rebuild_tensor_v2(*args)  # type: ignore[no-untyped-call]


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows what rebuilds tensors; every other name becomes an inert stand-in, so nothing foreign can run.

    Storages never get here: torch.load maps their names to plain descriptions itself.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is _rebuild_tensor or found is _rebuild_parameter:
            # a fresh one each time: a pickle may set attributes of what it names
            return functools.partial(found)
        if found is not None:
            return found
        if module == "torch" and isinstance(value := getattr(torch, name, None), torch.dtype):
            return value
        return _Inert


class _RestrictedPickle:
    """What torch.load wants of a pickle module."""

    Unpickler = _RestrictedUnpickler
    PickleError = pickle.PickleError
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: io.BufferedIOBase, **kwargs: Any) -> Any:
        return _RestrictedUnpickler(file, **kwargs).load()


_READ_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, AssertionError),
    *(ArithmeticError, MemoryError, NameError, struct.error, pickle.PickleError),
)
"""What damaged or hostile bytes raise inside pickle and torch.load."""


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published ``.pth`` under their published names, with ``module.`` and wrappers taken off.

    Foreign classes in the pickle are never imported: they become inert. Raises CheckpointError.
    """
    try:
        _refuse_programs(path)
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RestrictedPickle)
        return _table_of_tensors(path, content)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a file") from None
    except CheckpointError:
        raise
    except _READ_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: {reason}") from None


def _refuse_programs(path: Path) -> None:
    """Keep from torch.load what it would hand on: TorchScript (it runs) and the tar files of 2016 (it unpacks them)."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        # torch's own reader, not zipfile: the two must not disagree on what the archive holds
        if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint; it is not executed")
    elif tarfile.is_tarfile(path):
        raise CheckpointError(f"{path} is a tar archive, not a checkpoint")


def _table_of_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no table of tensors (looked under {', '.join(_WRAPPERS)} and at the top)")
    if other := [str(k) for k in content if k not in tensors]:
        raise CheckpointError(f"{path} holds more than tensors:\n  " + "\n  ".join(f"not used: {k}" for k in other))
    named = {str(k).removeprefix("module."): v.detach() for k, v in tensors.items()}
    if len(named) != len(tensors):
        raise CheckpointError(f"{path} holds a name both with and without the prefix module.")
    return named
