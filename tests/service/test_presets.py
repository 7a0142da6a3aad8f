"""Presets: options that go together, through every door; what is given by itself counts before them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from stmixer.service.api.protocol import Start
from stmixer.service.schemas import PRESETS, DetectOptions, PullOrder

CCTV = PRESETS["cctv"]["score_threshold"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 0.6),
        ({"preset": None}, 0.6),
        ({"preset": "cctv"}, CCTV),
        ({"preset": "cctv", "score_threshold": 0.6}, 0.6),
        ({"score_threshold": 0.9, "preset": "cctv"}, 0.9),
    ],
)
def test_it_stands_for_what_is_not_given(given: dict[str, Any], expected: float) -> None:
    assert CCTV < 0.6
    options = DetectOptions(**given)
    start = Start.model_validate_json(json.dumps({"type": "start"} | given))
    pulled = PullOrder(url="rtsp://camera/1", **given)
    assert options.score_threshold == start.options().score_threshold == pulled.options().score_threshold == expected
    assert start.options() == pulled.options() == DetectOptions(preset=given.get("preset"), score_threshold=expected)


@pytest.mark.parametrize("preset", ["night", "", 3, ["cctv"], {}])
def test_others_are_named(preset: object) -> None:
    with pytest.raises(ValidationError, match=r"preset\n  Input should be 'cctv'"):
        DetectOptions.model_validate({"preset": preset})
