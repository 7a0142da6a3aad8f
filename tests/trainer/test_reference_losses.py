"""The losses of the published code (``loss.*`` of tests/reference), to 1e-4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training import REFERENCE, reference_detector, reference_targets

from stmixer.trainer.training.criterion import Criterion


@pytest.mark.parametrize("run", ["slowonly_r50.one", pytest.param("slowfast_r50.two", marks=pytest.mark.slow)])
def test_losses(run: str, fill) -> None:
    name = run.split(".")[0]
    with np.load(Path(REFERENCE) / f"{run}.npz") as file:
        sizes = [tuple(map(int, size)) for size in file["sizes"]]
        expected = {key.removeprefix("loss."): float(file[key]) for key in file.files if key.startswith("loss.")}
    detector, clip, sizes_wh = reference_detector(fill, name, sizes)
    with torch.inference_mode():
        output = detector(clip, sizes_wh)
    losses = Criterion()(output, reference_targets(fill, sizes), sizes_wh)
    assert losses.terms.keys() == expected.keys()
    off = {term: abs(float(value) - expected[term]) for term, value in losses.terms.items()}
    assert max(off.values()) <= 1e-4 * max(expected.values()), off
    assert max(off.values()) <= 1e-4, off


def test_total_is_the_weighted_sum_over_the_number_of_terms(fill) -> None:
    detector, clip, sizes_wh = reference_detector(fill, "tiny", [(96, 96)])
    with torch.inference_mode():
        output = detector(clip, sizes_wh)
    losses = Criterion()(output, reference_targets(fill, [(96, 96)]), sizes_wh)
    weights = {"loss_ce": 2, "loss_bbox": 2, "loss_giou": 2, "loss_bce": 24}
    total = sum(weights[name.removesuffix("_0")] * float(value) for name, value in losses.terms.items())
    assert float(losses.total) == pytest.approx(total / 8, rel=1e-5)
    undivided = Criterion(divisor=1.0)(output, reference_targets(fill, [(96, 96)]), sizes_wh)
    assert float(undivided.total) == pytest.approx(total, rel=1e-5)
