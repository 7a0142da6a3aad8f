"""YOLOX-nano's weights in our own modules: the file's own numbers on a real picture, and files that do not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import OWN_CLIPS, SHARED
from onnx import TensorProto, helper, numpy_helper

from stmixer.model.card import CheckpointError
from stmixer.model.checkpoint import load_exactly
from stmixer.model.config import DetectorConfig
from stmixer.model.detector import Detector, build
from stmixer.model.foreign.pretrained import read_pretrained
from stmixer.model.foreign.yolox import _stem_for_rgb
from stmixer.model.zoo import variant

FILE = SHARED / "weights" / "yolox_nano_416_coco.onnx"
needs_file = pytest.mark.skipif(not FILE.exists(), reason=f"needs {FILE.name}")
MAPS = ("input.67", "input.471", "input.531", "input.591")
"""The file's names of its values at strides 4, 8, 16, 32."""


def a_picture() -> np.ndarray:
    """Two walking men, (416, 416, 3) BGR, 0..255."""
    with av.open(OWN_CLIPS / "walk.mp4") as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24")
    square = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
    return F.interpolate(square, (416, 416), mode="area")[0].permute(1, 2, 0).numpy()[..., ::-1].round()


def loaded(config: DetectorConfig, path: Path = FILE) -> Detector:
    detector = build(config)
    load_exactly(detector, detector.state_dict() | read_pretrained(path, config).tensors)
    return detector.eval()


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    """What ONNX Runtime computes from the file: maps and output."""
    model = onnx.load(FILE)
    for name in MAPS:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = ("output", *MAPS)
    feed = {"images": np.ascontiguousarray(a_picture().transpose(2, 0, 1)[None], np.float32)}
    return dict(zip(names, map(torch.from_numpy, session.run(list(names), feed)), strict=True))


def frames_for(detector: Detector) -> torch.Tensor:
    rgb = torch.from_numpy(a_picture()[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (detector.config.preprocess.mean, detector.config.preprocess.std)
    )
    return (rgb - mean) / std


@needs_file
@torch.inference_mode()
def test_maps_and_cells_are_the_files(theirs: dict[str, torch.Tensor]) -> None:
    detector = loaded(variant("rt_nano"))
    maps = detector.backbone(frames_for(detector))
    for name, ours in zip(MAPS, maps, strict=True):
        assert (ours - theirs[name]).abs().max() <= 1e-4 * theirs[name].abs().max(), name
    cells = detector.person_head(maps)
    x, y, log_width, log_height, objectness, person = theirs["output"][0, :, :6].unbind(-1)
    sizes = [m[0, 0].numel() for m in maps[1:]]
    stride = torch.tensor([8.0, 16.0, 32.0]).repeat_interleave(torch.tensor(sizes))
    left, top = ((cells.centres_xy_px / stride.unsqueeze(-1)) - 0.5).unbind(-1)
    width, height = log_width.exp() * stride, log_height.exp() * stride
    centre_x, centre_y = (x + left) * stride, (y + top) * stride
    half = torch.stack((width, height), -1) / 2
    corners = torch.cat(
        (torch.stack((centre_x, centre_y), -1) - half, torch.stack((centre_x, centre_y), -1) + half), -1
    )
    assert (cells.boxes_xyxy_px[0] - corners).abs().max() <= 1e-4 * corners.abs().max()
    assert (cells.logits[0].sigmoid() - objectness * person).abs().max() <= 1e-5
    assert (objectness * person).max() > 0.5, "there is somebody in the picture"


@needs_file
def test_every_tensor_is_used_once_or_named() -> None:
    config = variant("rt_nano")
    read = read_pretrained(FILE, config)
    wanted = {k for k in build(config).state_dict() if k.startswith(("backbone.", "person_head."))}
    assert set(read.tensors) == wanted
    assert read.left == tuple(f"head.cls_preds.{i}: the rows of the other 79 classes" for i in range(3))
    assert len(read.adapted) == 1 + 2 * 3


@needs_file
def test_without_a_person_head_its_tensors_are_left() -> None:
    config = variant("rt_nano")
    plain = DetectorConfig.from_dict(config.to_dict() | {"decoder": config.to_dict()["decoder"] | {"cells": 0}})
    read = read_pretrained(FILE, plain)
    assert all(name.startswith("backbone.") for name in read.tensors)
    assert {"head.cls_preds.0.weight", "head.obj_preds.2.bias", "head.reg_preds.1.weight"} <= set(read.left)
    assert len(read.left) == 3 * 2 * 12


def test_the_stem_sees_what_the_published_one_sees() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, frames = torch.randn(4, 12, 3, 3, generator=draw), torch.rand(1, 3, 32, 64, generator=draw)
    bgr = 255 * frames.flip(1)
    squares = [bgr[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
    expected = F.conv2d(torch.cat(squares, 1), weight, padding=1)
    found = F.conv2d(frames, _stem_for_rgb(weight), stride=2, padding=2)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def a_file(path: Path, *weights: np.ndarray) -> Path:
    """A chain of convolutions, which is all that is read."""
    values, nodes = [], []
    for i, weight in enumerate(weights):
        values += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(weight[:, 0, 0, 0].copy(), f"b{i}"),
        ]
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}", f"b{i}"], [f"x{i + 1}"], name=f"Conv_{i}"))
    ends: list[Any] = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x0", f"x{len(weights)}")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:], values)), path)
    return path


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = a_file(tmp_path / "a.onnx", np.ones((16, 12, 3, 3), np.float32), np.ones((16, 2, 3, 3), np.float32))
    with pytest.raises(CheckpointError) as caught:
        read_pretrained(path, variant("rt_nano"))
    text = str(caught.value)
    assert "does not fit rt_nano" in text
    assert "2 convolutions instead of 113" in text
    assert "Conv_1: weight, bias, stride and groups are ((16, 2, 3, 3), (16,), 1, 1)" in text
    assert "backbone.dark2.0.depthwise.conv wants ((16, 1, 3, 3), (16,), 2, 16)" in text
    assert "Conv_0" not in text, "the stem fits"


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_pretrained(tmp_path / "none.onnx", variant("rt_nano"))
    (tmp_path / "text.onnx").write_text("no such thing")
    with pytest.raises(CheckpointError, match="cannot be read as an ONNX file"):
        read_pretrained(tmp_path / "text.onnx", variant("rt_nano"))


def test_without_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"pip install 'stmixer\[torch\]'"):
        read_pretrained(tmp_path / "a.onnx", variant("rt_nano"))
