"""People in pictures, for drafts of boxes: a YOLOX network as an ONNX file, on the CPU.

The file takes (1, 3, S, S) float32, BGR 0–255, the picture scaled into the top left corner, the rest 114. It gives
(1, A, 5 + classes): a row for each cell of the grids at strides 8, 16 and 32, row by row, with cx and cy in cells from
the cell's corner, log w and log h in cells, objectness and class scores as probabilities. Class 0 is the person.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms  # type: ignore[import-untyped]

from stmixer.model.card import CheckpointError
from stmixer.model.quiet_onnxruntime import onnxruntime, ort_errors
from stmixer.model.runtimes.onnx_file import check_onnx
from stmixer.trainer.errors import TrainError

STRIDES = (8, 16, 32)
CLASSES = 80
PERSON_CLASS = 0
FILL = 114
NMS_IOU = 0.45

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float64]

_CANNOT_LOAD = (
    *(ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf),
    *(ort_errors.NoSuchFile, ort_errors.NotImplemented, ort_errors.RuntimeException),
)


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """What was found on one picture, best first: (n, 4) corners, 0–1 of width and height, and (n,) scores 0–1."""

    boxes_xyxy: Boxes
    scores: NDArray[np.float64]


class PersonFinder(Protocol):
    """Whatever finds people on a picture."""

    def find(self, rgb: Pixels) -> People:
        """People on an (H, W, 3) uint8 RGB picture; boxes are cut off at its edges."""
        ...


class PersonDetector:
    """A loaded network.

    Args:
        path: the ONNX file.
        score: objectness times person probability from which a box counts.
        threads: of onnxruntime; 0 leaves it the choice.

    Raises:
        TrainError: no such file, no ONNX, or a network of another shape.
    """

    def __init__(self, path: Path, score: float = 0.5, threads: int = 0) -> None:
        if not path.is_file():
            raise TrainError(f"detector {path} does not exist")
        try:
            check_onnx(path)
        except CheckpointError as error:
            raise TrainError(f"detector {path} cannot be loaded: {error}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _CANNOT_LOAD as error:
            raise TrainError(f"detector {path} cannot be loaded: {error}") from None
        self._score = score
        self._name, self.size = self._input(path)
        self._check_output(path)

    def _input(self, path: Path) -> tuple[str, int]:
        """Name and side, px, of the input."""
        inputs = [(i.name, i.shape, i.type) for i in self._session.get_inputs()]
        shown = ", ".join(f"{name} {shape} {kind}" for name, shape, kind in inputs)
        if len(inputs) == 1 and len(inputs[0][1]) == 4 and inputs[0][2] == "tensor(float)":
            name, (batch, channels, height, width), _ = inputs[0]
            square = isinstance(height, int) and height == width and height % max(STRIDES) == 0
            if square and channels == 3 and (batch == 1 or not isinstance(batch, int)):
                return str(name), int(height)
        raise TrainError(
            f"detector {path} is of another shape: it should take one float (1, 3, S, S), S a multiple of 32, "
            f"it takes {shown}"
        )

    def _check_output(self, path: Path) -> None:
        """One run on a blank picture says more than the file's own claims, which may be symbols."""
        wanted = (1, sum((self.size // stride) ** 2 for stride in STRIDES), 5 + CLASSES)
        try:
            raw = self._run(np.full((self.size, self.size, 3), FILL, np.uint8))
        except _CANNOT_LOAD as error:
            raise TrainError(f"detector {path} cannot be run: {error}") from None
        if raw.shape != wanted:
            raise TrainError(f"detector {path} is of another shape: it should give {wanted}, it gives {raw.shape}")

    def find(self, rgb: Pixels) -> People:
        """People on an (H, W, 3) uint8 RGB picture; boxes are cut off at its edges."""
        height, width = rgb.shape[:2]
        canvas, scale = letterbox(rgb, self.size)
        boxes_px, scores = decode(self._run(canvas)[0], self.size, self._score)
        inside = np.clip(boxes_px / (np.array((width, height, width, height)) * scale), 0.0, 1.0)
        return People(inside, scores)

    def _run(self, canvas: Pixels) -> NDArray[np.float32]:
        planes = np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)[None], dtype=np.float32)
        return np.asarray(self._session.run(None, {self._name: planes})[0])


def letterbox(rgb: Pixels, size: int) -> tuple[Pixels, float]:
    """(H, W, 3) uint8 -> (size, size, 3) with the picture at the top left, and input pixels per picture pixel."""
    height, width = rgb.shape[:2]
    scale = min(size / height, size / width)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = np.full((size, size, 3), FILL, np.uint8)
    canvas[: inner[1], : inner[0]] = cv2.resize(rgb, inner, interpolation=cv2.INTER_LINEAR)
    return canvas, scale


def decode(raw: NDArray[np.float32], size: int, score: float) -> tuple[Boxes, NDArray[np.float64]]:
    """The network's rows to people.

    Args:
        raw: (A, 5 + classes), as the module's head says.
        size: the input's side, px.
        score: the least that counts.

    Returns:
        (n, 4) corners in input pixels, after NMS, best first, and (n,) scores.
    """
    cells, strides = _grid(size)
    scores = raw[:, 4].astype(np.float64) * raw[:, 5 + PERSON_CLASS]
    kept = np.flatnonzero(scores >= score)
    rows, stride = raw[kept, :4].astype(np.float64), strides[kept, None]
    centre, sides = (rows[:, :2] + cells[kept]) * stride, np.exp(rows[:, 2:]) * stride
    boxes = np.hstack((centre - sides / 2, centre + sides / 2))
    best = nms(torch.from_numpy(boxes), torch.from_numpy(scores[kept]), NMS_IOU).numpy()
    return boxes[best], scores[kept][best]


def _grid(size: int) -> tuple[Boxes, NDArray[np.float64]]:
    """(A, 2) x and y of every cell, and (A,) its stride."""
    cells, strides = [], []
    for stride in STRIDES:
        side = size // stride
        y, x = np.mgrid[:side, :side]
        cells.append(np.stack((x, y), -1).reshape(-1, 2))
        strides.append(np.full(side * side, stride))
    return np.concatenate(cells).astype(np.float64), np.concatenate(strides).astype(np.float64)
