"""What the tests of the trainer share: augmented clips of the repository's own videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from training import BOXES, custom_set, own_set, run_config

from stmixer.model.zoo import variant
from stmixer.trainer.config.run import AugmentSection
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.sets import load_data


@pytest.fixture
def clips(tmp_path: Path) -> Callable[..., ClipSet]:
    """``clips(**augment)``: the repository's clips in one set, and a set of other labels beside it."""
    own_set(tmp_path / "own", "train")
    custom_set(tmp_path / "other", BOXES, {"walk.mp4": "train", "fall.mp4": "train"})
    sets = [{"kind": "custom", "root": name, "parts": ["train"]} for name in ("own", "other")]
    data = load_data(run_config(tmp_path, sets=sets), ("train",))
    return lambda **chances: ClipSet(data.train, variant("tiny"), AugmentSection(**chances), 1 << 28)
