"""Unpickling without executing anything: known names rebuild tensors, every other one becomes an inert stand-in."""

from __future__ import annotations

import functools
import io
import pickle
import struct
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor


class Inert:
    """Stands in for any class or function of a pickle that we do not know. Takes everything, does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __call__(self, *_args: object, **_kwargs: object) -> Inert:
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


class RestrictedUnpickler(pickle.Unpickler):
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
        return Inert


class RestrictedPickle:
    """What torch.load wants of a pickle module."""

    Unpickler = RestrictedUnpickler
    PickleError = pickle.PickleError
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: io.BufferedIOBase, **kwargs: Any) -> Any:
        return RestrictedUnpickler(file, **kwargs).load()


READ_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, AssertionError),
    *(ArithmeticError, MemoryError, NameError, struct.error, pickle.PickleError),
)
"""What damaged or hostile bytes raise inside pickle and torch.load."""
