"""What a run changes in its variant: the ablations of Table 1, and a long-term classifier (paper §3.5)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stmixer.model.config import DetectorConfig, FeatureSpace, LongTermConfig, Mixing, Sampling

Count = Annotated[int, Field(ge=1)]


class VariantSection(BaseModel):
    """Keys as in ``model.config``; what is not given stays the variant's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature_space: FeatureSpace | None = None
    sampling: Sampling | None = None
    mixing: Mixing | None = None
    queries: Count | None = None
    """N."""
    stages: Count | None = None
    """M."""
    points: Count | None = None
    """P_in."""
    points_out: Count | None = None
    frames_out: Count | None = None
    """T_out."""

    def of(self, variant: DetectorConfig) -> DetectorConfig:
        """The variant, changed. Raises ConfigError for what does not go together."""
        changes = {k: v for k, v in self.model_dump().items() if v is not None}
        space = changes.pop("feature_space", variant.feature_space)
        return replace(variant, feature_space=space, decoder=replace(variant.decoder, **changes))


class LongTermSection(BaseModel):
    """A long-term classifier: against a short-term model's bank, or against the model's own past."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["offline", "online"]
    bank: Path | None = None
    """The bank's file (``stmixer-train bank``) of an offline one."""
    clips: Count = 60
    best: Count = 5
    layers: Count = 3

    def of(self, variant: DetectorConfig) -> DetectorConfig:
        """The variant with it. Raises ConfigError for what does not go together."""
        return replace(variant, long_term=LongTermConfig(self.kind, self.clips, self.best, self.layers))
