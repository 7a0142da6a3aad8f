"""How fast each model runs: ``bench.model``'s figures, and a live keyframe's time, all in one process a model."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from bench.gpu.notes import Notes, Row
from bench.gpu.scene import Scene
from bench.model import measured, open_variant
from stmixer.model.runtimes.measure import keyframe_seconds
from stmixer.model.runtimes.runtime import RuntimeUnavailable


def models(notes: Notes, scene: Scene, name: str) -> None:
    """One model, every runtime and precision: batches of 1 first."""
    pairs = list(itertools.product(scene.precisions[::-1], scene.runtimes))
    timed(notes, scene, name, [(runtime, precision) for precision, runtime in pairs], scene.batches)


def compiled(notes: Notes, scene: Scene, name: str) -> None:
    """torch.compile, one clip at a time: each shape takes its time."""
    with tempfile.TemporaryDirectory() as folder:
        # its own: a compiler that was killed leaves half a library, which the next one would load
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        timed(notes, scene, name, [("compile", precision) for precision in scene.precisions[::-1]], scene.batches[:1])


def onnx(notes: Notes, scene: Scene, name: str) -> None:
    """ONNX Runtime, in fp32 alone; refused where it has no provider for the device."""
    timed(notes, scene, name, [("onnx", "fp32")], scene.batches)


def timed(notes: Notes, scene: Scene, name: str, ways: Iterable[tuple[str, str]], batches: Sequence[int]) -> None:
    """A row for each runtime, precision and batch; one that fails is a row too. Stops where its time is over."""
    device = torch.device(scene.device)
    with tempfile.TemporaryDirectory() as folder:
        for runtime, precision in ways:
            asked: Row = {"model": name, "runtime": runtime, "precision": precision}
            try:
                opened = open_variant(name, runtime, precision, device, Path(folder))
                keyframe_ms = None if runtime == "compile" else round(keyframe_seconds(opened) * 1e3, 2)
            except RuntimeUnavailable as error:
                notes.add(**asked, refused=str(error))
                continue
            for batch in batches:
                if not notes.left_s():
                    notes.add(**asked, batch=batch, refused="no time")
                    continue
                row = measured(opened, name, precision, batch, scene.size, device)
                notes.add(**row, keyframe_ms=keyframe_ms if batch == 1 else None)


def per_second(rows: Iterable[Row]) -> float:
    """Clips that the fastest way runs, a second; 0 of no row with a time."""
    return max((1e3 * row["batch"] / row["ms"] for row in rows if row.get("ms")), default=0.0)


def fastest(rows: Iterable[Row]) -> tuple[str, str] | None:
    """Runtime and precision of the least time per clip, whatever the batch; None of no row with one."""
    timed_rows = [row for row in rows if row.get("ms")]
    if not timed_rows:
        return None
    best = min(timed_rows, key=lambda row: row["ms"] / row["batch"])
    return best["runtime"], best["precision"]
