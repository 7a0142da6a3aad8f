"""What an ONNX file asks for, read before ONNX Runtime makes a session of it.

An ONNX file may name other files to read numbers from, operators of libraries to be loaded, and sizes as it likes. Ours
do none of that. Read is protobuf's wire format, of onnx.proto the few fields that matter here; no package is needed.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from stmixer.model.card import CheckpointError

MAX_BYTES = 2 * 2**30
"""Of a file, as of any protobuf message."""
MAX_NODES = 100_000
MAX_ELEMENTS = 2**30
"""Of one tensor."""
MAX_DEPTH = 16
"""Graphs within nodes of graphs."""
DOMAINS = frozenset({b"", b"ai.onnx"})
"""Whose operators ONNX Runtime has of itself."""

# onnx.proto, numbers of fields
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = (22, 23)
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | memoryview]
"""A field's number, and what it holds: a number, or bytes."""


def check_onnx(path: Path, *, beside: str | None = None) -> None:
    """Raises CheckpointError for a file that is not all in itself, or asks for what our graphs do not.

    ``beside``: the name of the one file, in the same folder, in which numbers may lie.
    """
    if not path.is_file():
        return  # whoever opens it says so
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path} is over {MAX_BYTES >> 30} GiB, which no ONNX file is")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        whole = memoryview(data)
        try:
            why = _OnnxLook(beside).model(whole)
        except ValueError as error:
            raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: it is no ONNX file ({error})") from None
        finally:
            whole.release()
    if why is not None:
        raise CheckpointError(f"{path} {why}; take the file of somebody whom you trust, or export it anew")


class _OnnxLook:
    """One file. Each method returns why it is not taken, or None. Raises ValueError where it is no ONNX."""

    def __init__(self, beside: str | None) -> None:
        self._beside, self._nodes = None if beside is None else beside.encode(), 0

    def model(self, data: memoryview) -> str | None:
        graphs = 0
        for number, value in fields(data):
            if number == _MODEL_FUNCTION:
                return "brings functions of its own"
            if number == _MODEL_GRAPH:
                graphs += 1
                if why := self._graph(_message(value), 0):
                    return why
        if graphs != 1:
            raise ValueError(f"{graphs} graphs")
        return None

    def _graph(self, data: memoryview, depth: int) -> str | None:
        if depth > MAX_DEPTH:
            return f"nests graphs over {MAX_DEPTH} deep"
        for number, value in fields(data):
            why = None
            if number == _GRAPH_NODE:
                why = self._node(_message(value), depth)
            elif number == _GRAPH_TENSOR:
                why = self._tensor(_message(value))
            elif number == _GRAPH_SPARSE:
                why = "has sparse tensors"
            if why is not None:
                return why
        return None

    def _node(self, data: memoryview, depth: int) -> str | None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            return f"has over {MAX_NODES} nodes"
        for number, value in fields(data):
            why = None
            if number == _NODE_DOMAIN:
                why = _foreign(value)
            elif number == _NODE_ATTRIBUTE:
                why = self._attribute(_message(value), depth)
            if why is not None:
                return why
        return None

    def _attribute(self, data: memoryview, depth: int) -> str | None:
        for number, value in fields(data):
            why = None
            if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                why = self._tensor(_message(value))
            elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                why = self._graph(_message(value), depth + 1)
            elif number in _ATTRIBUTE_SPARSE:
                why = "has sparse tensors"
            if why is not None:
                return why
        return None

    def _tensor(self, data: memoryview) -> str | None:
        sides: list[int] = []
        for number, value in fields(data):
            if number == _TENSOR_DIMS:
                sides += [value] if isinstance(value, int) else varints(value)
            elif number == _TENSOR_EXTERNAL and self._beside is not None:
                entry = {inner: bytes(_message(text)) for inner, text in fields(_message(value))}
                if entry.get(_ENTRY_KEY) == b"location" and entry.get(_ENTRY_VALUE) != self._beside:
                    return "has numbers in another file than the weights beside it"
            elif number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0 and self._beside is None):
                return "has numbers in another file"
        if math.prod(sides) > MAX_ELEMENTS:
            return f"has a tensor of over {MAX_ELEMENTS} numbers"
        return None


def _foreign(domain: int | memoryview) -> str | None:
    name = bytes(_message(domain)[:100])
    return None if name in DOMAINS else f"has operators of {name.decode(errors='replace')!r}, which are not ONNX's own"


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in a message's place")
    return value


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of one message, in order. Raises ValueError where it is none."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field without a number")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("a field of no kind")
        if length > end - at:
            raise ValueError("it ends in the middle of a field")
        if kind == _BYTES:
            yield number, data[at : at + length]
        at += length


def varints(data: memoryview) -> list[int]:
    """Numbers packed one behind the other."""
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number of over 64 bits")
