"""What the API process knows of the model: its worker's word, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stmixer.model.clip import Window, padded_size, window
from stmixer.model.config import DetectorConfig
from stmixer.model.labels import Label


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model: configuration, labels, origin, and the device it runs on."""

    config: DetectorConfig
    labels: tuple[Label, ...]
    trained: bool
    trained_on: str | None
    licence: str | None
    source: str | None
    metrics: dict[str, Any] | None
    device: str
    runtime: str = "eager"
    precision: str = "fp32"
    chosen: str = ""
    """Why this runtime, as a clause."""

    @classmethod
    def from_card(cls, card: dict[str, Any], device: str, run: tuple[str, str, str]) -> ModelInfo:
        """From a worker's ``ready`` message; ``run``: its runtime, precision, and why they were chosen."""
        runtime, precision, chosen = run
        return cls(
            config=DetectorConfig.from_dict(card["config"]),
            labels=tuple(Label(**label) for label in card["labels"]),
            device=device,
            runtime=runtime,
            precision=precision,
            chosen=chosen,
            **{key: card[key] for key in ("trained", "trained_on", "licence", "source", "metrics")},
        )

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.config.name

    @property
    def window(self) -> Window:
        """Its window table."""
        return window(self.config.clip)

    def padded(self, input_width: int, input_height: int) -> tuple[int, int]:
        """The tensor size of a stream's clips: what may share a batch."""
        return padded_size(input_width, input_height, self.config.preprocess)
