"""Pickled annotations, read without executing anything: arrays, dicts, lists, tuples, texts and numbers only.

It may name only what numpy needs to lay out an array (``model.foreign.unpickling``).
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stmixer.model.foreign.unpickling import RestrictedUnpickler
from stmixer.trainer.errors import TrainError


def _bytes(text: str, encoding: str) -> bytes:
    """How old pickle protocols spell bytes; nothing but that encoding."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
}
for _module in ("numpy.core", "numpy._core"):
    # numpy's private helpers, from numpy's own pickling
    _ALLOWED[f"{_module}.multiarray", "_reconstruct"] = np.zeros(1).__reduce__()[0]
    _ALLOWED[f"{_module}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    _ALLOWED[f"{_module}.numeric", "_frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]


class _PlainDataUnpickler(RestrictedUnpickler):
    allowed: ClassVar[Mapping[tuple[str, str], Any]] = _ALLOWED


def read_pickle(path: Path) -> Any:
    """The value of a pickle of plain data, Python 2's included.

    Raises:
        TrainError: a file that cannot be read, is no pickle, or names anything but arrays and plain containers.
    """
    try:
        # latin1: how Python 2 pickled the bytes of arrays
        value = _PlainDataUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror or error}") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise TrainError(f"{path} is not a pickle of plain data: {error or type(error).__name__}") from None
    except (ImportError, MemoryError, OverflowError, RecursionError, UnicodeError, NotImplementedError) as error:
        raise TrainError(f"{path} is damaged: {type(error).__name__}") from None
    if _has_objects(value):
        raise TrainError(f"{path} holds arrays of objects, which are not loaded")
    return value


def _has_objects(value: Any) -> bool:
    """Whether an array of Python objects hides in the value."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype.hasobject)
    if isinstance(value, dict):
        return any(_has_objects(v) for pair in value.items() for v in pair)
    if isinstance(value, (list, tuple)):
        return any(_has_objects(v) for v in value)
    return False
