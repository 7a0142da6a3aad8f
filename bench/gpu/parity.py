"""Whether a GPU gives the network's own numbers: against tests/reference, and each half precision against fp32."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from bench.gpu.notes import Notes, Row
from bench.gpu.scene import TESTS, Scene
from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import Model, load_exactly, open_model
from stmixer.model.detector import skeleton
from stmixer.model.foreign.published import from_published
from stmixer.model.labels import AVA_LABELS
from stmixer.model.outputs import DecoderOutput, last_stage
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.model.runtimes.deviation import deviation
from stmixer.model.runtimes.runtime import RuntimeUnavailable
from stmixer.model.zoo import variant

PLAIN = ("eager", "fp32")


def parity(notes: Notes, scene: Scene, _: str) -> None:
    """Each case in fp32, TF32 off, then in half precision; then the bundled model, or a small one."""
    ways = sorted(itertools.product(scene.runtimes, scene.precisions), key=lambda way: way[1] != "fp32")
    fill = filler()
    for case in scene.cases:
        if notes.left_s():
            for row in against_reference(fill, case, ways, scene.device):
                notes.add(case=case, **row)
    of_the_bundled_model(notes, scene, ways)


def of_the_bundled_model(notes: Notes, scene: Scene, ways: Sequence[tuple[str, str]]) -> None:
    """Each way's deviation from eager in fp32 on a clip of noise."""
    name = scene.models[0]
    frames = open_model(name, None).card.config.clip.frames
    clip = torch.randn(2, 3, frames, scene.size, scene.size, generator=torch.Generator().manual_seed(0))
    sizes = torch.full((2, 2), float(scene.size))
    plain = last_stage(run(open_model(name, None), clip, sizes, *PLAIN, scene.device))
    for runtime, precision in ways:
        if not notes.left_s() or (runtime, precision) == PLAIN:
            continue
        row: Row = {"case": f"{name}, noise", "runtime": runtime, "precision": precision}
        try:
            found = run(open_model(name, None), clip, sizes, runtime, precision, scene.device)
        except RuntimeUnavailable as error:
            notes.add(**row, refused=str(error))
            continue
        notes.add(**row, worst=deviation(last_stage(found), plain))


def run(model: Model, clip: Tensor, sizes: Tensor, runtime: str, precision: str, device: str) -> DecoderOutput[Tensor]:
    """One forward. Raises RuntimeUnavailable."""
    opened = torch_runtime(model, torch.device(device), runtime=runtime, precision=precision)
    return opened.detect(clip.to(device), sizes.to(device))


def against_reference(fill: ModuleType, case: str, ways: Sequence[tuple[str, str]], device: str) -> Iterator[Row]:
    """Of each way the worst difference of each kind of output, of that output's largest value."""
    name = case.split(".")[0]
    with np.load(TESTS / "reference" / f"{case}.npz") as file:
        expected = {key: torch.from_numpy(file[key]) for key in file.files}
    detector = skeleton(variant(name))
    published = {key: torch.as_tensor(value) for key, value in fill.state_dict(name, 0).items()}
    load_exactly(detector, from_published(published, detector.config))
    model = Model(detector, ModelCard(detector.config, AVA_LABELS, trained=False))
    sizes = expected["sizes"].float()
    clip = reference_clip(fill, detector.config.clip.frames, [(int(w), int(h)) for w, h in sizes])
    for runtime, precision in ways:
        row: Row = {"runtime": runtime, "precision": precision}
        try:
            off = worst(run(model, clip, sizes, runtime, precision, device), expected)
        except RuntimeUnavailable as error:
            yield row | {"refused": str(error)}
            continue
        yield row | {"worst": max(off.values())} | off


def worst(output: DecoderOutput[Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Of all stages, by kind of output."""
    found = {
        "human_logits": [stage.human_logits for stage in output.stages],
        "boxes": [stage.boxes_xyxy_px for stage in output.stages],
        "action_logits": [stage.action_logits for stage in output.stages],
    }
    return {
        kind: max(deviation([x], [expected[f"stage{i}.{kind}"]]) for i, x in enumerate(stages))
        for kind, stages in found.items()
    }


def reference_clip(fill: ModuleType, frames: int, sizes: list[tuple[int, int]]) -> Tensor:
    """The reference's clips, padded together to multiples of 32: (B, 3, frames, H, W)."""
    width, height = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    clip = torch.zeros(len(sizes), 3, frames, height, width)
    for place, (w, h) in enumerate(sizes):
        clip[place, :, :, :h, :w] = torch.from_numpy(fill.clip((3, frames, h, w), place))
    return clip


def filler() -> ModuleType:
    """tests/reference/fill.py: deterministic weights and inputs."""
    spec = importlib.util.spec_from_file_location("fill", TESTS / "reference" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
