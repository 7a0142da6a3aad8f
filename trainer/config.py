"""One run, as one typed configuration. Unknown keys are errors; a preset is a YAML file of the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.zoo import VARIANTS
from trainer.errors import TrainError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the configuration: nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SetSection(Section):
    """What every set has."""

    root: Path = Path(".")
    name: str | None = None
    """Default: the folder's name, or the kind."""
    parts: tuple[Literal["train", "val"], ...] = ("train", "val")
    """What it is used for."""
    weight: Positive | None = None
    """Share of the training clips. Default: a clip for each keyframe."""


class CustomSet(SetSection):
    """A folder with videos.csv, boxes.csv and videos/ (the format of docs: custom set)."""

    kind: Literal["custom"]
    annotates: tuple[str, ...] | None = None
    """Labels that this set annotates; others get no loss on its clips. Default: those that its boxes.csv holds."""
    unlabelled: Literal["unknown", "negative"] = "unknown"
    """An empty label: a person whose action is not annotated, or one who does none of what the set annotates."""
    exclude: tuple[str, ...] = ()
    """Videos to leave out."""
    keyframe_every: Count = 1
    """Train on every n-th annotated frame."""


class AvaSet(SetSection):
    """AVA as PySlowFast lays it out: annotations/, frame_lists/ with frames/, or videos/."""

    kind: Literal["ava"]
    version: Literal["2.1", "2.2"] = "2.2"
    source: Literal["frames", "videos"] = "frames"
    start_s: NotNegative = 900.0
    """The movie's time at the first frame of each folder or file, seconds."""


class TubeSet(SetSection):
    """JHMDB or UCF101-24 in the layout of ``JHMDB-GT.pkl``: the pickle beside frame folders or videos."""

    kind: Literal["jhmdb", "ucf101_24"]
    annotations: Path | None = None
    """Default: JHMDB-GT.pkl or UCF101v2-GT.pkl in the root."""
    frames: Path | None = None
    """Folder of frame folders or videos. Default: Frames (JHMDB) or rgb-images (UCF101-24) in the root."""
    fps: Positive | None = None
    """Of frame folders. Default: 30 for JHMDB, 25 for UCF101-24."""


SetConfig = Annotated[CustomSet | AvaSet | TubeSet, Field(discriminator="kind")]


class InitSection(Section):
    """Where training starts: a model file of ours, else the initial weights of DETECTOR.md."""

    weights: Path | None = None
    classifier: Literal["keep", "new"] = "new"
    """Whether the action heads' last layers come from the file too, which then must have the same labels."""
    seed: int = 0


class AugmentSection(Section):
    """What is done to training clips. Shares are chances per clip."""

    short_sides: tuple[Annotated[int, Field(ge=32)], ...] | None = None
    """px; one is drawn for each clip. Default: the model's own and five quarters of it (256 and 320)."""
    flip: Share = 0.5
    colour_jitter: Share = 0.0
    """Strength of brightness, contrast and saturation changes. In the paper, off in its code."""
    tile: Share = 0.0
    """Two clips with one actor each, side by side."""
    reduced_lookahead: Share = 0.0
    """The clip ends a random time before the model's own look-ahead, as on a low-latency stream."""


class LossSection(Section):
    """λ per term, and what the losses are divided by (DETECTOR.md, Training)."""

    human: NotNegative = 2.0
    l1: NotNegative = 2.0
    giou: NotNegative = 2.0
    action: NotNegative = 24.0
    normaliser: Literal["rank", "global"] = "rank"
    divisor: Positive | Literal["terms"] = "terms"
    """``terms``: the number of loss terms, 24 for six stages, as the official trainer. 1 leaves the sum alone."""


class OptimiserSection(Section):
    """AdamW. The learning rate is for ``lr_batch`` clips a step and scales with the batch."""

    lr: Positive = 2e-5
    lr_batch: Count = 16
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 1e-4
    clip_norm: Positive | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None


class ScheduleSection(Section):
    """Linear warm-up from ``warmup_factor`` over ``warmup_epochs``; times ``drop_factor`` after each of ``drops``."""

    warmup_epochs: NotNegative = 2.0
    warmup_factor: Share = 0.1
    drops: tuple[NotNegative, ...] = (5.0, 8.0)
    drop_factor: Positive = 0.1


class EvaluateSection(Section):
    """What is evaluated after epochs, and by ``stmixer-train eval``."""

    every_epochs: Annotated[int, Field(ge=0)] = 1
    """0: only at the end."""
    batch_size: Count = 8
    score_threshold: Share = 0.6
    keep_top3: bool = True
    """The official evaluation's way with a clip in which nobody reaches the threshold."""


class RunConfig(Section):
    """A whole run."""

    preset: str | None = None
    run_dir: Path
    model: str = "slowonly_r50"
    data_root: Path = Path(".")
    """Roots of sets are relative to it, and it to the configuration file's folder."""
    split: Literal[1, 2, 3] = 1
    """Of JHMDB and UCF101-24."""
    sets: tuple[SetConfig, ...]
    labels: tuple[str, ...] | None = None
    """The classes, in the logits' order. Default: the sets' labels, set by set."""
    init: InitSection = InitSection()
    augment: AugmentSection = AugmentSection()
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluate: EvaluateSection = EvaluateSection()
    backbone_norm: Literal["frozen", "train", "sync"] = "frozen"
    """Batch norm of the backbone: constants, trained per process, or trained over all processes."""
    epochs: Count = 12
    clips_per_epoch: Count | None = None
    """Default: as many as the training split has keyframes."""
    batch_size: Count = 16
    """Clips a step over all processes."""
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: Annotated[int, Field(ge=0)] = 4
    """Decoding processes per training process."""
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    """Small frames of short videos that each of them keeps."""
    check: Literal["quick", "full"] = "quick"
    """At the start: open every video and count its frames, or decode it from end to end."""
    checkpoint_every: Count = 500
    """Steps between the checkpoints from which a run can go on in mid-epoch."""
    log_every: Count = 10
    """Steps between rows of metrics.csv."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count | Literal["auto"] = "auto"
    nodes: Count = 1
    seed: int = 0
    licence: str | None = None
    """What the written weights may be used for, if anything is to be said."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model not in VARIANTS:
            raise ValueError(f"model {self.model!r} is unknown; known: {', '.join(VARIANTS)}")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels holds a name twice")
        if not self.sets:
            raise ValueError("sets is empty: name at least one")
        weights = [s.weight for s in self.sets if "train" in s.parts]
        if any(w is None for w in weights) and any(w is not None for w in weights):
            raise ValueError("sets: give every set a weight, or none")
        return self


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run's YAML, laid over its preset; ``overrides`` go over both. Relative paths start at the file's folder.

    Raises:
        TrainError: a file that cannot be read, unknown keys, values out of range: one line each.
    """
    given = _read_yaml(path)
    values = _laid_over(_preset(given["preset"]) if given.get("preset") is not None else {}, given)
    values = _laid_over(values, dict(overrides or {}))
    config = parse_config(values, str(path))
    folder = path.resolve().parent
    weights = None if config.init.weights is None else folder / config.init.weights
    init = config.init.model_copy(update={"weights": weights})
    return config.model_copy(
        update={"run_dir": folder / config.run_dir, "data_root": folder / config.data_root, "init": init}
    )


def parse_config(values: Mapping[str, Any], where: str = "config") -> RunConfig:
    """Check plain values. Raises TrainError, a line per fault, each with its key."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise TrainError([f"{where}: {_fault(fault)}" for fault in error.errors(include_url=False)]) from None


def presets() -> tuple[str, ...]:
    """Names of the presets."""
    files = resources.files("trainer").joinpath("presets").iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def _preset(name: object) -> dict[str, Any]:
    if name not in presets():
        raise TrainError(f"preset {name!r} is unknown; known: {', '.join(presets())}")
    text = resources.files("trainer").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise TrainError(f"{path} must hold keys and values")
    return values


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; everything else, lists too, is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _fault(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {place}"
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if fault["type"] in ("missing", "value_error") else f", got {fault['input']!r}"
    return f"{place}: {message}{got}" if place else f"{message}{got}"
