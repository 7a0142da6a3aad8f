"""Caffe2's pickles of numpy arrays, read without numpy's own unpickling: an array is its type, shape and bytes.

PySlowFast publishes its Kinetics models so: ``{"blobs": {name: array}}``, written by Python 2, whose byte strings come
as Latin-1 text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stmixer.model.card import CheckpointError
from stmixer.model.foreign.unpickling import READ_ERRORS, Inert, InertUnpickler


class _Type:
    """What a pickle says of a numpy dtype: a code such as ``f4``, and, set afterwards, its byte order."""

    def __init__(self, code: object = "", *_rest: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """The type, if it is of plain numbers."""
        if not isinstance(self.code, str) or not re.fullmatch(r"[fiu][1248]", self.code) or self.order not in "<>=|":
            raise ValueError(f"array of type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """What a pickle says of a numpy array."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor:
        """The array. Raises ValueError where bytes, type and shape do not go together."""
        _, shape, kind, column_major, data = self.state
        if not isinstance(kind, _Type) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("array of unknown shape or type")
        raw = data.encode("latin-1") if isinstance(data, str) else bytes(data)
        kept = kind.numpy()
        if len(raw) != kept.itemsize * math.prod(shape):
            raise ValueError(f"array of shape {tuple(shape)} with {len(raw)} bytes")
        values = np.frombuffer(raw, kept).reshape(shape, order="F" if column_major else "C")
        return torch.from_numpy(values.astype(kept.newbyteorder("="), order="C"))


def _encode(text: object, codec: object) -> bytes:
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError("bytes in another encoding")
    return text.encode("latin-1")


class _ArrayUnpickler(InertUnpickler):
    """Arrays as descriptions."""

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): Inert,  # the array's own class, as an argument
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in protocol 2
    }


def is_plain_pickle(path: Path) -> bool:
    """Whether a file is a pickle as such: neither a zip archive nor one of torch's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(64)
    torch_magic = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    return start[:1] in (b"\x80", b"(", b"}") and torch_magic not in start


def read_caffe2(path: Path) -> dict[str, Tensor]:
    """The arrays of a caffe2 pickle by name. Nothing in it is executed. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        blobs = content.get("blobs", content) if isinstance(content, dict) else None
        if not isinstance(blobs, dict):
            raise CheckpointError(f"{path} holds no table of arrays (looked under blobs and at the top)")
        return {str(name): blob.tensor() for name, blob in blobs.items() if isinstance(blob, _Array)}
    except CheckpointError:
        raise
    except READ_ERRORS as error:
        raise CheckpointError(f"{path} cannot be read as a caffe2 pickle: {error}") from None
