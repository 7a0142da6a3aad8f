"""ONNX graphs without weights of their own: tensors of a kilobyte and more are read where they lie in a file beside.

So a file of weights in half precision and its graphs hold each number once. A graph's initialisers are external data in
that safetensors file (offset and length); those stored in half precision are cast, and turned as the graph wants them,
by nodes that runtimes fold away when they load it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray

_WORTH_SHARING = 1024
"""Bytes of an initialiser from which it is read from the weights file."""
_STORED: dict[str, tuple[onnx_ir.DataType, np.dtype[Any]]] = {
    "F16": (onnx_ir.DataType.FLOAT16, np.dtype(np.float16)),
    "F32": (onnx_ir.DataType.FLOAT, np.dtype(np.float32)),
}


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor in the file: its name, type there, shape, and where its bytes lie."""

    name: str
    dtype: onnx_ir.DataType
    shape: tuple[int, ...]
    offset: int
    length: int
    turned: bool = False
    """Whether the graph wants it transposed."""


def point_into(graph: onnx_ir.Model, weights: Path) -> int:
    """Let a graph read its tensors from a safetensors file; how many bytes it still holds itself.

    A tensor is told by its numbers: those of the file as float32, or transposed.
    """
    stored = _contents(weights)
    external: dict[str, Any] = {}
    own = 0
    for name, value in list(graph.graph.initializers.items()):
        tensor = value.const_value
        assert tensor is not None, name
        array = tensor.numpy()
        found = stored.get(_key(array)) if array.nbytes >= _WORTH_SHARING and array.dtype == np.float32 else None
        if found is None:
            own += array.nbytes
            continue
        replacement = _read_from(graph, found, weights, external)
        onnx_ir.convenience.replace_all_uses_with(value, replacement)
        del graph.graph.initializers[name]
    return own


def _read_from(graph: onnx_ir.Model, tensor: _Stored, weights: Path, external: dict[str, Any]) -> Any:
    """The value in the graph that is this tensor, made once for each layout."""
    if tensor.name not in external:
        data = onnx_ir.ExternalTensor(
            weights.name, tensor.offset, tensor.length, tensor.dtype,
            shape=onnx_ir.Shape(tensor.shape), name=tensor.name, base_dir=weights.parent,
        )  # fmt: skip
        value = onnx_ir.Value(
            name=tensor.name, shape=data.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=data
        )
        graph.graph.initializers[tensor.name] = value
        if tensor.dtype != onnx_ir.DataType.FLOAT:
            value = _first(graph, "Cast", value, onnx_ir.AttrInt64("to", onnx_ir.DataType.FLOAT))
        external[tensor.name] = value
    if not tensor.turned:
        return external[tensor.name]
    turned = f"{tensor.name} turned"
    if turned not in external:
        external[turned] = _first(graph, "Transpose", external[tensor.name], onnx_ir.AttrInt64s("perm", (1, 0)))
    return external[turned]


def _first(graph: onnx_ir.Model, operator: str, value: Any, attribute: Any) -> Any:
    """The output of a node on a value, right behind the one that makes it, or first of all."""
    node = onnx_ir.Node("", operator, [value], [attribute])
    node.outputs[0].name = f"{value.name} {operator.lower()}"
    node.outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    maker = value.producer()
    if maker is None:
        graph.graph.insert_before(graph.graph[0], node)
    else:
        graph.graph.insert_after(maker, node)
    return node.outputs[0]


def _contents(weights: Path) -> dict[tuple[tuple[int, ...], bytes], _Stored]:
    """A file's float tensors by what they hold, as they are and transposed."""
    raw = weights.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    found: dict[tuple[tuple[int, ...], bytes], _Stored] = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name == "__metadata__" or entry["dtype"] not in _STORED:
            continue
        dtype, kind = _STORED[entry["dtype"]]
        first, end = entry["data_offsets"]
        array = np.frombuffer(raw, kind, (end - first) // kind.itemsize, start + first)
        array = array.reshape(entry["shape"]).astype(np.float32)
        place = (name, dtype, tuple(entry["shape"]), start + first, end - first)
        if array.ndim == 2:
            found[_key(array.T)] = _Stored(*place, turned=True)
        found[_key(array)] = _Stored(*place)
    return found


def _key(array: NDArray[np.float32]) -> tuple[tuple[int, ...], bytes]:
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).data).digest()
