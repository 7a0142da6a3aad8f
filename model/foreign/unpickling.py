"""Unpickling without executing anything. A pickle is a program that may call whatever it names: here it names nothing
but what its reader allows. Imports no torch.
"""

from __future__ import annotations

import functools
import pickle
import struct
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, ClassVar


class RestrictedUnpickler(pickle.Unpickler):
    """Refuses every name that is not ``allowed``: pickle.UnpicklingError says which.

    Attributes:
        allowed: (module, name) in the pickle -> what stands for it. Each reader brings its own.
    """

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Pickle's own hook."""
        if (module, name) not in self.allowed:
            return self.unknown(module, name)
        found = self.allowed[module, name]
        # a fresh one each time: a pickle may set attributes of the functions that it names
        return functools.partial(found) if isinstance(found, (FunctionType, BuiltinFunctionType)) else found

    def unknown(self, module: str, name: str) -> Any:
        """What stands for a name that is not allowed."""
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not loaded")


class Inert:
    """Stands in for any class or function of a pickle that is not allowed. Takes everything, does nothing."""

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


class InertUnpickler(RestrictedUnpickler):
    """Instead of refusing, puts ``Inert`` in the place of what is not allowed: what lies beside it can be read."""

    def unknown(self, module: str, name: str) -> Any:
        return Inert


READ_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, AssertionError),
    *(ArithmeticError, MemoryError, NameError, struct.error, pickle.PickleError),
)
"""What damaged or hostile bytes raise inside pickle and what reads files with it."""
