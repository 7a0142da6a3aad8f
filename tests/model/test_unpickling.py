"""The base of all readers of pickles: what is not allowed is refused by name, and functions stay as they are."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from stmixer.model.foreign.unpickling import Inert, InertUnpickler, RestrictedUnpickler


def double(value: int) -> int:
    return 2 * value


ALLOWED = {("collections", "OrderedDict"): OrderedDict, (__name__, "double"): double}


class Strict(RestrictedUnpickler):
    allowed: ClassVar[Mapping[tuple[str, str], Any]] = ALLOWED


class Lenient(InertUnpickler):
    allowed: ClassVar[Mapping[tuple[str, str], Any]] = ALLOWED


class Call:
    """Pickles as a call."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_allowed(protocol: int) -> None:
    pickled = pickle.dumps([OrderedDict(a=1), Call(double, (4,))], protocol)
    for reader in (Strict, Lenient):
        assert reader(io.BytesIO(pickled)).load() == [OrderedDict(a=1), 8]


def test_nothing_is_allowed_unless_it_is_said() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"collections\.OrderedDict"):
        RestrictedUnpickler(io.BytesIO(pickle.dumps(OrderedDict()))).load()


def test_other_names_are_refused_or_inert(tmp_path) -> None:
    made = tmp_path / "made"
    pickled = pickle.dumps([1, Call(os.mkdir, (str(made),))])
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir, which is not loaded"):
        Strict(io.BytesIO(pickled)).load()
    one, stand_in = Lenient(io.BytesIO(pickled)).load()
    assert one == 1
    assert isinstance(stand_in, Inert)
    assert not made.exists()


def test_a_name_of_an_allowed_module_is_not_allowed() -> None:
    with pytest.raises(pickle.UnpicklingError, match="Counter"):
        Strict(io.BytesIO(b"ccollections\nCounter\n.")).load()


def test_a_pickle_cannot_write_on_our_functions() -> None:
    """BUILD sets attributes of whatever it finds: it finds another object each time."""
    pickled = f"c{__name__}\ndouble\n".encode() + b"}S'changed'\nI1\nsb."
    for reader in (Strict, Lenient):
        with contextlib.suppress(TypeError):
            reader(io.BytesIO(pickled)).load()
        assert not hasattr(double, "changed")
