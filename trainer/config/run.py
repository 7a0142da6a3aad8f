"""One run, as one typed configuration. Unknown keys are errors; a preset is a YAML file of the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stmixer.model.config import DetectorConfig, FeatureSpace, LongTermConfig, Mixing, Sampling
from stmixer.model.zoo import VARIANTS, variant

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's keys and values, as YAML has them, with the keys of earlier versions under the names they have now.

    ``features`` is ``cached_features``, its ``stretches`` are ``segments``; so in every one of ``phases``.

    Raises:
        ValueError: a key under both of its names.
    """
    current = _renamed(values, "features", "cached_features")
    section, phases = current.get("cached_features"), current.get("phases")
    if isinstance(section, Mapping):
        current["cached_features"] = _renamed(section, "stretches", "segments")
    if isinstance(phases, list):
        current["phases"] = [current_keys(phase) if isinstance(phase, Mapping) else phase for phase in phases]
    return current


def _renamed(values: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    if old in values and new in values:
        raise ValueError(f"{old} is the earlier name of {new}: give one of the two")
    return {new if key == old else key: value for key, value in values.items()}


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
    """Labels that this set annotates; others get no loss on its clips. Default: those that its boxes.csv holds. Of a
    set with a negatives.csv: the labels that are taken from it. Default: all that its tables hold."""
    unlabelled: Literal["unknown", "negative"] = "unknown"
    """An empty label: a person whose action is not annotated, or one who does none of what the set annotates."""
    exclude: tuple[str, ...] = ()
    """Videos to leave out."""
    empty: bool = False
    """Videos without people, as ``stmixer-train empties`` makes them: only the human loss learns from them, and
    evaluation counts the people that are found all the same."""
    keyframe_every: Count | None = None
    """Train on every n-th annotated frame, default 1. Of an empty set: every n-th frame, in evaluation too, default
    15."""
    ignore: Path | None = None
    """A further table, relative to the configuration file's folder: ``video, frame, x1, y1, x2, y2``, areas in which
    people may lack boxes, so that nobody is taught or counted as absent there. On frames that boxes.csv annotates."""
    by_looking: bool = False
    """Take the labels of whole tracks in by_looking.csv too."""
    on_grid: bool = False
    """Train only on frames within half a raw frame (1/60 s) of a sample of the model's grid: on a coarse grid the boxes
    of the others belong to a picture that the clip does not hold."""

    @model_validator(mode="after")
    def _nobody_does_anything(self) -> Self:
        if self.empty and self.annotates is not None:
            raise ValueError("an empty set has nobody to annotate; leave out annotates")
        if self.empty and (self.ignore is not None or self.by_looking):
            raise ValueError("an empty set has nobody in it; leave out ignore and by_looking")
        return self


Posture = Literal["stand", "sit", "lie", "crouch"]


class PictureSet(SetSection):
    """A folder with images.csv, boxes.csv and images/: stills to find people by."""

    kind: Literal["pictures"]
    postures: dict[Posture, str] = {}
    """The label of each posture that is one. Whose posture boxes.csv says is known to have none of the others of these
    labels; whose it does not say, has none."""

    @model_validator(mode="after")
    def _postures_are_labels(self) -> Self:
        for posture, label in self.postures.items():
            if label.strip() in ("", "none"):
                raise ValueError(f"postures: {label!r} is no label; leave out {posture} where it is none")
        return self


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


SetConfig = Annotated[CustomSet | PictureSet | AvaSet | TubeSet, Field(discriminator="kind")]


class VariantSection(Section):
    """What a run changes in its variant: the ablations of Table 1. Keys as in ``model.config``; what is not given stays
    the variant's."""

    feature_space: FeatureSpace | None = None
    sampling: Sampling | None = None
    mixing: Mixing | None = None
    queries: Count | None = None
    """N."""
    cells: Annotated[int, Field(ge=0)] | None = None
    """How many of them start at the best cells of a dense person head. 0: none, as in the paper."""
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


class LongTermSection(Section):
    """A long-term classifier (paper §3.5): against a short-term model's bank, or against the model's own past."""

    kind: Literal["offline", "online"]
    bank: Path | None = None
    """The bank's file (``stmixer-train bank``) of an offline one."""
    clips: Count = 60
    best: Count = 5
    layers: Count = 3

    def of(self, variant: DetectorConfig) -> DetectorConfig:
        """The variant with it. Raises ConfigError for what does not go together."""
        return replace(variant, long_term=LongTermConfig(self.kind, self.clips, self.best, self.layers))


class InitSection(Section):
    """Where training starts: a model file of ours, else the initial weights of docs/detector.md."""

    weights: Path | None = None
    """A file, or the name of bundled or fetched weights. Null, said so: none, training starts from nothing."""
    average_with: Path | None = None
    """Another file of the same origin: training starts from the mean of both (Wortsman et al., Model soups, 2022). In
    phases, the name of an earlier one."""
    classifier: Literal["keep", "matching", "new"] = "new"
    """Whether the action heads' last layers come from the file too. ``keep``: whole, and then the file must have the
    same labels; ``matching``: the rows of labels that it has by the same name, the others are learned anew."""
    backbone: Path | None = None
    """A file (model.foreign.pretrained) that the backbone starts from: a classifier's, or for ``rt_nano`` a detector's,
    of which the dense person head comes too. Beside ``weights`` that once started from it, training starts half-way
    between the two: what a fine-tuned backbone has forgotten comes back (Wortsman et al., Robust fine-tuning, 2022)."""
    seed: int = 0

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.average_with is not None and self.weights is None:
            raise ValueError("average_with wants weights to average with")
        return self


class AugmentSection(Section):
    """What is done to training clips. Shares are chances per clip."""

    short_sides: tuple[Annotated[int, Field(ge=32)], ...] | None = None
    """px; one is drawn for each batch. Default: the model's own and five quarters of it (256 and 320)."""
    within: Annotated[float, Field(ge=1, le=3)] | None = None
    """Clips are shrunk to fit into a picture this much wider than the batch's short side, so that neither one long clip
    nor an upright one makes the whole batch large. Default: they are not."""
    flip: Share = 0.5
    colour_jitter: Share = 0.0
    """Strength of brightness, contrast and saturation changes. In the paper, off in its code."""
    tile: Share = 0.0
    """Two clips with one actor each, side by side."""
    mosaic: Share = 0.0
    """Four clips, of any sets, at half scale in one picture."""
    zoom: Share = 0.0
    """A random part enlarged, or the picture shrunk, so that people come in other sizes."""
    zoom_range: tuple[Positive, Positive] = (0.5, 2.0)
    """By how much."""
    still: Share = 0.0
    """The keyframe stands for the clip's whole window."""
    reduced_lookahead: Share = 0.0
    """The clip ends a random time before the model's own look-ahead, as on a low-latency stream."""
    ignore_small: bool = False
    """Zoom and mosaic make people as small as they come; who is below 8 px on the longer side in the end becomes an
    area to ignore. Else nobody is made smaller than 8 px on either side, so that few become smaller than 20 px."""
    crowd_mosaic: Share = 0.0
    """``crowd_side`` times ``crowd_side`` clips, of any sets, in one picture, with ``ignore_small``; at most 40 people
    are taught."""
    crowd_side: Annotated[int, Field(ge=2, le=6)] = 3
    turn: Share = 0.0
    """The picture on its side: turned by 60° to 120°, half of the time by 90°. People are people still, of unknown
    actions."""
    paste: Share = 0.0
    """Somebody of another clip, cut out by their box and turned by 60° to 120°, lies where there is room; of unknown
    actions."""
    camera: Share = 0.0
    """The window is seen by a camera that pans, zooms, rolls and shakes; the keyframe stays as it is. Clips of
    pictures too are moved over; where ``stills`` leaves no window, nothing changes."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.zoom_range[0] > self.zoom_range[1]:
            raise ValueError(f"zoom_range must rise, got {list(self.zoom_range)}")
        return self


class CachedFeaturesSection(Section):
    """A backbone that is frozen whole sees every picture once: before the first step it runs over augmented segments
    of the training videos, its feature maps are written into the run's folder, and every clip of every epoch comes out
    of these.
    """

    segments: Count
    """How many; each is of one random view, or a mosaic of four."""
    samples: Annotated[int, Field(ge=8)] = 24
    """Samples of the model's grid in each. Fewer where the video ends."""


class LossSection(Section):
    """λ per term, and what the losses are divided by (docs/detector.md, Training)."""

    human: NotNegative = 2.0
    l1: NotNegative = 2.0
    giou: NotNegative = 2.0
    action: NotNegative = 24.0
    normaliser: Literal["rank", "global"] = "rank"
    divisor: Positive | Literal["terms"] = "terms"
    """``terms``: the number of loss terms, 24 for six stages, as the official trainer. 1 leaves the sum alone."""
    one_to_many: Count = 1
    """How many queries learn one person in every stage but the last. 1: the paper's."""
    person_score: Literal["person", "overlap"] = "person"
    """What the person score is taught: whether the query answers for somebody (the paper's), or how well its box fits
    (trainer.training.criterion)."""
    dense: NotNegative = 0.0
    """Of the dense person head's own loss (trainer.training.dense_loss), beside the divided sum of the others. 0: the
    head learns only through the queries that start at its cells."""


class OptimiserSection(Section):
    """AdamW. The learning rate is for ``lr_batch`` clips a step and scales with the batch."""

    lr: Positive = 2e-5
    lr_batch: Count = 16
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 1e-4
    backbone_factor: Positive = 1.0
    """The backbone's rate is this much of ``lr``."""
    person_head_factor: Positive | None = None
    """So the dense person head's, for a model that has one. Default: as the backbone, with which it was trained."""
    clip_norm: Positive | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None


class ScheduleSection(Section):
    """Linear warm-up from ``warmup_factor`` over ``warmup_epochs``; then the ``course``.

    ``steps``: times ``drop_factor`` after each of ``drops``. ``cosine``: down to zero at the last epoch's end.
    """

    course: Literal["steps", "cosine"] = "steps"
    warmup_epochs: NotNegative = 2.0
    warmup_factor: Share = 0.1
    drops: tuple[NotNegative, ...] = (5.0, 8.0)
    drop_factor: Positive = 0.1


class EvaluateSection(Section):
    """What is evaluated after epochs, and by ``stmixer-train eval``."""

    every_epochs: Annotated[int, Field(ge=0)] = 1
    """0: only at the end."""
    every: Count = 1
    """Of custom sets: annotated frames whose index is a multiple of it are looked at. Default: all that are annotated.
    For sets that annotate every frame, of which neighbours say the same. Of calibration too."""
    batch_size: Count = 8
    score_threshold: Share = 0.6
    keep_top3: bool = True
    """The official evaluation's way with a clip in which nobody reaches the threshold."""
    keep: Literal["last", "best"] = "last"
    """Which weights a run writes: the last, or those of the evaluation with the highest mAP, the mean over the sets; of
    equal ones the later."""
    patience: Count | None = None
    """End training after so many evaluations, one after the other, of no higher mAP than the best before."""
    out_of_set_labels: tuple[str, ...] = ()
    """Of people whose set says which labels are absent, these are told by themselves too: how many have one of them."""


class RunConfig(Section):
    """A whole run."""

    preset: str | None = None
    run_dir: Path
    model: str = "slowonly_r50"
    data_root: Path = Path(".")
    """Roots of sets are relative to it, and it to the configuration file's folder. ``--data-root`` goes over it."""
    split: Literal[1, 2, 3] = 1
    """Of JHMDB and UCF101-24."""
    sets: tuple[SetConfig, ...]
    variant: VariantSection = VariantSection()
    """Ablations of the model."""
    long_term: LongTermSection | None = None
    labels: tuple[str, ...] | None = None
    """The classes, in the logits' order. Default: the sets' labels, set by set."""
    exclusive: tuple[tuple[str, ...], ...] = ()
    """Groups of labels of which nobody has two at once: a person with one of a group is known not to have the others,
    in whatever set. Not so where a set says that somebody has several."""
    init: InitSection = InitSection()
    augment: AugmentSection = AugmentSection()
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluate: EvaluateSection = EvaluateSection()
    stills: bool = False
    """Clips of one frame, the keyframe: a person in a picture costs a realtime variant a fraction of one in a clip.
    Its T frames are that one, repeated after the backbone."""
    cached_features: CachedFeaturesSection | None = None
    """Clips out of cached feature maps of the frozen backbone."""
    frozen: tuple[str, ...] = ()
    """Parameters that are not trained, by the beginnings of their names."""
    backbone_norm: Literal["frozen", "train", "sync"] = "frozen"
    """Batch norm of the backbone: constants, trained per process, or trained over all processes."""
    mixing: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How much of what training changed is written: the weights lie so far on the way from the first to the last (α of
    WiSE-FT, Wortsman et al., CVPR 2022). For fine-tuning on few videos."""
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
    """At the start: open every video and count its frames, or decode it from end to end. ``full`` also finds pictures
    that are cut off."""
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

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        return current_keys(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model not in VARIANTS:
            raise ValueError(f"model {self.model!r} is unknown; known: {', '.join(VARIANTS)}")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels holds a name twice")
        if any(len(set(group)) != len(group) or len(group) < 2 for group in self.exclusive):
            raise ValueError("exclusive: a group is two labels or more, none of them twice")
        if self.stills and not VARIANTS[self.model].backbone.per_frame:
            raise ValueError(f"stills: {self.model} wants whole clips; only realtime variants see frames one by one")
        if self.cached_features is not None:
            self._fit_for_cached_features()
        looks = self.evaluate.keep == "best" or self.evaluate.patience is not None
        if looks and self.optimiser.ema_decay is not None:
            raise ValueError("evaluate: keep: best and patience look at weights as they are; leave out ema_decay")
        if not self.sets:
            raise ValueError("sets is empty: name at least one")
        if self.detector().decoder.cells == 0:
            self._fit_without_person_head()
        weights = [s.weight for s in self.sets if "train" in s.parts]
        if any(w is None for w in weights) and any(w is not None for w in weights):
            raise ValueError("sets: give every set a weight, or none")
        return self

    def _fit_without_person_head(self) -> None:
        """Nothing is asked of a head that is not there."""
        asked = {
            "loss.dense": self.loss.dense > 0,
            "optimiser.person_head_factor": self.optimiser.person_head_factor is not None,
        }
        if keys := ", ".join(key for key, given in asked.items() if given):
            raise ValueError(f"{keys}: no query of {self.model} starts at a cell, so it has no dense person head")

    def _fit_for_cached_features(self) -> None:
        """Maps are those of one frozen backbone and fit into one picture, padded once."""
        if not VARIANTS[self.model].backbone.per_frame:
            raise ValueError(
                f"cached_features: {self.model} wants whole clips; only realtime variants see frames one by one"
            )
        if self.backbone_norm != "frozen" or not {"backbone", "backbone."} & set(self.frozen):
            raise ValueError("cached_features: the backbone must not change; put backbone. into frozen, its norms too")
        if self.stills or self.long_term is not None or self.augment.tile > 0:
            raise ValueError("cached_features: not together with stills, long_term or augment.tile")
        if self.augment.crowd_mosaic > 0 or self.augment.paste > 0:
            raise ValueError("cached_features: not together with augment.crowd_mosaic or augment.paste")
        if len(self.augment.short_sides or ()) != 1 or self.augment.within is None:
            raise ValueError("cached_features: wants augment.within, and one size in augment.short_sides")

    @property
    def cache_bytes(self) -> int:
        """``cache_mb`` in bytes."""
        return self.cache_mb << 20

    def detector(self, classes: int | None = None) -> DetectorConfig:
        """The model as this run trains it, for a number of action classes. Raises ConfigError."""
        config = self.variant.of(variant(self.model, classes=classes))
        return config if self.long_term is None else self.long_term.of(config)

    @property
    def says_no_start(self) -> bool:
        """Whether neither weights nor a backbone are named, nor ``init: {weights: null}`` said, which asks for a start
        from nothing."""
        init = self.init
        return init.weights is None and init.backbone is None and "weights" not in init.model_fields_set

    @property
    def bank(self) -> Path | None:
        """The bank's file of an offline long-term model."""
        return None if self.long_term is None else self.long_term.bank
