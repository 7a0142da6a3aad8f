"""The detector computes what the published checkpoints compute (numbers in tests/reference)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from stmixer.model.backbones import build_backbone
from stmixer.model.checkpoint import load, load_exactly
from stmixer.model.cli import main
from stmixer.model.decoder import DecoderOutput, last_arrays
from stmixer.model.detector import Detector, skeleton
from stmixer.model.foreign.published import from_published, guess_config
from stmixer.model.foreign.published_names import published_backbone_name
from stmixer.model.frame_maps import STRIDES
from stmixer.model.postprocess import ClipDetections, PostProcess
from stmixer.model.zoo import variant

TOLERANCE = 1e-4
"""Of each array's largest value (docs/detector.md, reference/)."""
ONE = pytest.mark.parametrize("run", ["slowonly_r50.one"], indirect=True)


@dataclass(frozen=True)
class ParityRun:
    """One forward of a published variant beside the numbers it must give."""

    expected: dict[str, np.ndarray]
    published: dict[str, Tensor]
    detector: Detector
    clip: Tensor
    sizes: Tensor
    maps: tuple[Tensor, ...]
    space: tuple[Tensor, ...]
    output: DecoderOutput
    results: list[ClipDetections]


@pytest.fixture(
    scope="module",
    params=[
        "slowonly_r50.one",
        pytest.param("slowfast_r50.two", marks=pytest.mark.slow),
        pytest.param("slowfast_r101_nl.one", marks=pytest.mark.slow),
        pytest.param("vit_b.one", marks=pytest.mark.slow),
    ],
)
def run(request, reference, fill, padded_clip) -> ParityRun:
    """Built once per variant; the arrays of the reference in memory."""
    name = request.param.split(".")[0]
    with np.load(reference / f"{request.param}.npz") as file:
        expected = {key: file[key] for key in file.files}
    published = {k: torch.as_tensor(v) for k, v in fill.state_dict(name, 0).items()}
    detector = skeleton(variant(name))
    load_exactly(detector, from_published(published, detector.config))
    sizes_wh = [tuple(map(int, size)) for size in expected["sizes"]]
    clip, sizes = padded_clip(detector.config.clip.frames, sizes_wh)
    with torch.inference_mode():
        maps = detector.backbone(clip)
        space = detector.feature_space(maps)
        output = detector.decoder(space, STRIDES, sizes)
    results = PostProcess(0.6, keep_top3=True)(*last_arrays(output, sizes))
    return ParityRun(expected, published, detector, clip, sizes, maps, space, output, results)


def assert_close(actual: Tensor, expected: np.ndarray, what: str, tolerance: float = TOLERANCE) -> None:
    assert tuple(actual.shape) == expected.shape, what
    largest = np.abs(expected).max()
    assert largest > 0, what
    worst = np.abs(actual.numpy() - expected).max() / largest
    assert worst <= tolerance, f"{what}: off by {worst:.1e} of its largest value"


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("part", ["backbone", "space"])
def test_maps(run: ParityRun, part: str, level: int) -> None:
    actual = {"backbone": run.maps, "space": run.space}[part][level]
    assert tuple(actual.shape) == tuple(run.expected[f"{part}{level}.shape"])
    sampled = actual.flatten()[torch.from_numpy(run.expected[f"{part}{level}.index"])]
    assert_close(sampled, run.expected[f"{part}{level}.value"], f"{part}{level}")


@pytest.mark.parametrize("index", range(6))
def test_stage(run: ParityRun, index: int) -> None:
    stage = run.output.stages[index]
    assert_close(stage.human_logits, run.expected[f"stage{index}.human_logits"], "human logits")
    assert_close(stage.boxes_xyxy_px, run.expected[f"stage{index}.boxes"], "boxes")
    assert_close(stage.action_logits, run.expected[f"stage{index}.action_logits"], "action logits")


def test_queries(run: ParityRun) -> None:
    assert len(run.output.stages) == 6
    assert_close(run.output.spatial_queries, run.expected["spatial_queries"], "spatial queries")
    assert_close(run.output.temporal_queries, run.expected["temporal_queries"], "temporal queries")


def test_results(run: ParityRun) -> None:
    """After the threshold, or the official top 3 where none passes: as many, in the same order."""
    for i, found in enumerate(run.results):
        assert_close(torch.from_numpy(found.boxes_xyxy), run.expected[f"result{i}.boxes"], f"boxes of clip {i}")
        assert_close(torch.from_numpy(found.action_scores), run.expected[f"result{i}.actions"], f"actions of clip {i}")


@pytest.mark.slow
def test_csn_backbone(reference, fill) -> None:
    """Names of the IG-65M layout; the maps before the feature space pools them."""
    with np.load(reference / "csn152_backbone.npz") as file:
        expected = {key: file[key] for key in file.files}
    published = fill.state_dict("csn152_backbone", 0)
    with torch.device("meta"):
        backbone = build_backbone(variant("csn_152").backbone).eval()
    names = {name: published_backbone_name(name) for name in backbone.state_dict()}
    assert set(names.values()) == set(published)
    state = {name: torch.as_tensor(published[theirs]) for name, theirs in names.items()}
    backbone.load_state_dict(state, strict=True, assign=True)
    with torch.inference_mode():
        maps = backbone(torch.from_numpy(fill.clip(tuple(map(int, expected["shape"])), 0))[None])
    for level, actual in enumerate(maps):
        assert tuple(actual.shape) == tuple(expected[f"backbone{level}.shape"])
        sampled = actual.flatten()[torch.from_numpy(expected[f"backbone{level}.index"])]
        assert_close(sampled, expected[f"backbone{level}.value"], f"backbone{level}")


@ONE
def test_forward_is_its_parts(run: ParityRun) -> None:
    with torch.inference_mode():
        whole = run.detector(run.clip, run.sizes)
    assert torch.equal(whole.stages[-1].action_logits, run.output.stages[-1].action_logits)


def test_guessed(run: ParityRun) -> None:
    assert guess_config(run.published, None) == run.detector.config


class Trainer:
    """A class that the reader must not need."""

    def __init__(self) -> None:
        self.history = {"loss": [1.0]}


@pytest.mark.slow
@ONE
def test_converted_file_gives_the_same_bits(run: ParityRun, tmp_path: Path) -> None:
    """torch.save with wrapper, ``module.`` and a foreign class -> convert -> load: bit-identical outputs."""
    source, converted = tmp_path / "published.pth", tmp_path / "converted.safetensors"
    content = {"model": {f"module.{k}": v for k, v in run.published.items()}, "optimizer": {"by": Trainer()}}
    torch.save(content, source)
    done = CliRunner().invoke(main, ["convert", str(source), "-o", str(converted)])
    source.unlink()
    assert done.exit_code == 0, done.output
    model = load(converted)
    converted.unlink()
    assert model.card.config == run.detector.config
    with torch.inference_mode():
        output = model.detector(run.clip, run.sizes)
    for ours, theirs in zip(output.stages, run.output.stages, strict=True):
        assert torch.equal(ours.human_logits, theirs.human_logits)
        assert torch.equal(ours.action_logits, theirs.action_logits)
        assert torch.equal(ours.boxes_xyxy_px, theirs.boxes_xyxy_px)


def assert_alone_as_in_batch(detector: Detector, clip: Tensor, sizes: Tensor) -> None:
    with torch.inference_mode():
        together = detector(clip, sizes).stages[-1]
        for i in range(len(clip)):
            alone = detector(clip[i : i + 1], sizes[i : i + 1]).stages[-1]
            assert_close(alone.boxes_xyxy_px[0], together.boxes_xyxy_px[i].numpy(), f"boxes of clip {i}", 1e-5)
            assert_close(alone.action_logits[0], together.action_logits[i].numpy(), f"actions of clip {i}", 1e-5)
            assert_close(alone.human_logits[0], together.human_logits[i].numpy(), f"human of clip {i}", 1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sizes", [[(96, 96), (96, 96)], [(170, 128), (161, 127), (192, 100)]])
def test_a_clip_alone_is_the_clip_in_a_batch(filled, padded_clip, seed: int, sizes: list[tuple[int, int]]) -> None:
    """At the same padded shape a clip's result does not depend on its batch mates."""
    detector = filled(variant("tiny"), seed)
    assert_alone_as_in_batch(detector, *padded_clip(4, sizes, seed))


@ONE
def test_slowonly_alone_as_in_a_batch(run: ParityRun, padded_clip) -> None:
    assert_alone_as_in_batch(run.detector, *padded_clip(4, [(128, 96), (101, 90)], 3))


def test_batch_mates_do_matter_through_padding_alone(filled, padded_clip) -> None:
    """What the padded size must be fixed for: with more padding the same clip gives other numbers."""
    detector = filled(variant("tiny"))
    tight, sizes = padded_clip(4, [(96, 96)])
    loose, _ = padded_clip(4, [(96, 96)], padded=(160, 96))
    with torch.inference_mode():
        a, b = detector(tight, sizes).stages[-1], detector(loose, sizes).stages[-1]
    assert not torch.allclose(a.action_logits, b.action_logits, atol=1e-6)
