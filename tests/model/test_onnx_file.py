"""ONNX files that ask for more than ours do, made with the package that the service does without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stmixer.model.card import CheckpointError
from stmixer.model.runtimes import onnx_file
from stmixer.model.runtimes.onnx_file import check_onnx


def plain() -> Any:
    """A graph of one product with a number of its own, and a branch in it."""
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "branch", [], [_value("z")])
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["m"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    numbers = [
        numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    graph = helper.make_graph(nodes, "g", [_value("x")], [_value("y")], numbers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def _value(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])


def elsewhere(model: Any) -> None:
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location="../../etc/passwd")
    model.graph.initializer[0].ClearField("raw_data")


def elsewhere_in_a_branch(model: Any) -> None:
    branch = model.graph.node[1].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "hidden"))
    onnx.external_data_helper.set_external_data(branch.initializer[0], location="numbers")


def elsewhere_in_an_attribute(model: Any) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "value")
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def foreign_node(model: Any) -> None:
    model.graph.node[0].domain = "com.example.custom"


def foreign_opset(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def foreign_in_a_branch(model: Any) -> None:
    model.graph.node[1].attribute[1].g.node[0].domain = "org.pytorch.aten"


def own_function(model: Any) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Mine", ["a"], ["b"], [node], [helper.make_opsetid("", 18)]))


def sparse(model: Any) -> None:
    values, indices = (numpy_helper.from_array(np.ones(1, kind)) for kind in (np.float32, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))


def huge(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [2**16, 2**16]


def deep(model: Any) -> None:
    graph = model.graph
    for _ in range(onnx_file.MAX_DEPTH + 1):
        inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [_value("y")])
        graph.node.append(helper.make_node("If", ["yes"], ["v"], then_branch=inner))
        graph = graph.node[-1].attribute[0].g


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (elsewhere, "has numbers in another file"),
        (elsewhere_in_a_branch, "has numbers in another file"),
        (elsewhere_in_an_attribute, "has numbers in another file"),
        (foreign_node, "has operators of 'com.example.custom'"),
        (foreign_in_a_branch, "has operators of 'org.pytorch.aten'"),
        (own_function, "brings functions of its own"),
        (sparse, "has sparse tensors"),
        (huge, "has a tensor of over 1073741824 numbers"),
        (deep, "nests graphs over 16 deep"),
    ],
)
def test_what_ours_do_not_ask_for_is_refused(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    model, path = plain(), tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    check_onnx(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=said):
        check_onnx(path)


def test_a_set_of_operators_that_no_node_is_of_harms_nobody(tmp_path: Path) -> None:
    """Tools of ONNX Runtime add theirs to any model."""
    model, path = plain(), tmp_path / "x.onnx"
    foreign_opset(model)
    path.write_bytes(model.SerializeToString())
    check_onnx(path)


@pytest.mark.parametrize("place", [elsewhere, elsewhere_in_a_branch])
def test_numbers_may_lie_in_the_one_file_that_is_named(place: Callable[[Any], None], tmp_path: Path) -> None:
    model, path = plain(), tmp_path / "x.onnx"
    place(model)
    path.write_bytes(model.SerializeToString())
    check_onnx(path, beside="../../etc/passwd" if place is elsewhere else "numbers")
    with pytest.raises(CheckpointError, match="in another file than the weights beside it"):
        check_onnx(path, beside="x.safetensors")
    with pytest.raises(CheckpointError, match="has numbers in another file"):
        check_onnx(path)


def test_too_many_nodes_and_too_large_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(plain().SerializeToString())
    monkeypatch.setattr(onnx_file, "MAX_NODES", 3)
    with pytest.raises(CheckpointError, match="over 3 nodes"):
        check_onnx(path)
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="which no ONNX file is"):
        check_onnx(path)


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x3a\xff", b"\xff" * 20, b"\x08\x07", b"\x38\x01"])
def test_what_is_no_onnx_is_said_so(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be opened by ONNX Runtime"):
        check_onnx(path)
