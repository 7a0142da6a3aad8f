"""One training step and one evaluation step, for Lightning's loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from stmixer.model.decoder import DecoderOutput
from stmixer.model.detector import Detector
from stmixer.model.frame_then_clip import clips_of, frames_of
from stmixer.model.labels import Label
from stmixer.model.person_head import Cells
from stmixer.model.postprocess import PostProcess
from stmixer.model.runtimes.prepare import prepared
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.batch import ClipBatch, network_input
from stmixer.trainer.data.cached_features import FeatureBatch
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.evaluate.network import once_per_frame
from stmixer.trainer.evaluate.predictions import Predictions
from stmixer.trainer.evaluate.report import Report
from stmixer.trainer.evaluate.reports import main_figures, report_empty_sets, report_sets
from stmixer.trainer.long_term.windows import Windows, detect
from stmixer.trainer.training.criterion import Criterion, LossWeights
from stmixer.trainer.training.dense_loss import DenseLoss
from stmixer.trainer.training.matcher import Matcher
from stmixer.trainer.training.optimiser import (
    freeze,
    freeze_norms,
    keep_norms_still,
    learning_rate,
    parameter_groups,
    rate_factor,
)


def build_criterion(config: RunConfig) -> Criterion:
    """The criterion that a configuration describes."""
    loss = config.loss
    return Criterion(
        LossWeights(loss.human, loss.l1, loss.giou, loss.action),
        loss.normaliser,
        None if loss.divisor == "terms" else loss.divisor,
        Matcher(one_to_many=loss.one_to_many),
        loss.person_score,
    )


class TrainingModule(L.LightningModule):
    """The detector with its criterion, optimiser and evaluation.

    Logs ``train/<term>`` (before λ) and ``train/loss``, means over all processes, and ``lr``; after evaluations
    ``<set>/frame_map`` and what the reports say of people.

    Args:
        detector: trained in place; every backbone norm is a constant where ``config.backbone_norm`` is ``frozen``.
        config: the run.
        steps_per_epoch: for the learning rate's course.
        val: what evaluations look at; keyframes of its loaders are numbered as here.
        labels: in the logits' order.
        windows: a long-term model's, in training and in evaluation.
    """

    def __init__(
        self,
        detector: Detector,
        config: RunConfig,
        steps_per_epoch: int,
        val: Sequence[ClipSource] = (),
        labels: Sequence[Label] = (),
        windows: tuple[Windows | None, Windows | None] = (None, None),
    ) -> None:
        super().__init__()
        self.detector = detector
        self.criterion = build_criterion(config)
        self.dense_loss = DenseLoss()
        self.reports: list[Report] = []
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._val, self._labels = tuple(val), tuple(labels)
        self._windows = windows
        self._predictions = Predictions()
        self._postprocess = PostProcess(config.evaluate.score_threshold, config.evaluate.keep_top3)
        if config.backbone_norm == "frozen":
            freeze_norms(detector.backbone)
        freeze(detector, config.frozen)
        self._folded: list[nn.Module] = []  # in a list: no part of what is trained or saved
        self._frozen_backbone = (
            detector.config.backbone.per_frame
            and config.backbone_norm == "frozen"
            and not any(parameter.requires_grad for parameter in detector.backbone.parameters())
        )

    def train(self, mode: bool = True) -> TrainingModule:
        """As torch's, but frozen norms stay in evaluation mode."""
        super().train(mode)
        if self._config.backbone_norm == "frozen":
            keep_norms_still(self.detector.backbone)
        return self

    def frozen_parameters(self) -> list[str]:
        """Names of what is not trained."""
        return [name for name, parameter in self.detector.named_parameters() if not parameter.requires_grad]

    def transfer_batch_to_device(
        self, batch: ClipBatch | FeatureBatch, device: torch.device, dataloader_idx: int
    ) -> ClipBatch | FeatureBatch:
        """Lightning's hook."""
        return batch.to(device)

    def training_step(self, batch: ClipBatch | FeatureBatch, batch_idx: int) -> Tensor:
        """The total loss of a batch."""
        cells: Cells | None = None
        if isinstance(batch, FeatureBatch):
            sizes_wh = batch.sizes_wh
            maps: Sequence[Tensor] = [m.float().flatten(0, 1) for m in batch.maps]
            cells = self._cells(maps, len(sizes_wh))
            output = self._rest(maps, cells, sizes_wh)
        else:
            clip, sizes_wh = network_input(batch.frames, self.detector.config.preprocess)
            run: Callable[..., DecoderOutput] = self.detector
            if self.detector.config.backbone.per_frame:
                maps = self._maps(clip)
                cells = self._cells(maps, len(sizes_wh))
                run = self._after_backbone(maps, cells)
            output = detect(run, self._windows[0], batch.draws, clip, sizes_wh)
        losses = self.criterion(output, batch.targets, sizes_wh)
        total, terms = losses.total, losses.terms
        if cells is not None and self._config.loss.dense > 0:
            dense = self.dense_loss(cells, batch.targets)
            total, terms = total + self._config.loss.dense * dense.total, terms | dense.terms
        logged = _over_ranks({"loss": total} | terms)
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, batch_size=len(batch.draws))
        self.log("lr", self.optimizers().param_groups[0]["lr"], prog_bar=True)  # type: ignore[union-attr]
        self.log("loss", logged["loss"], prog_bar=True, logger=False, batch_size=len(batch.draws))
        return total

    def _maps(self, clip: Tensor) -> Sequence[Tensor]:
        """What a frame backbone gives, (B T, C_k, H / s, W / s); frozen whole, with its norms folded, as in serving."""
        if not self._frozen_backbone:
            return cast(Sequence[Tensor], self.detector.backbone(frames_of(clip)))
        if not self._folded:
            self._folded.append(prepared(self.detector, pack=False).backbone)
        with torch.no_grad():
            return cast(Sequence[Tensor], self._folded[0](frames_of(clip)))

    def _cells(self, maps: Sequence[Tensor], clips: int) -> Cells | None:
        """What the dense person head says of every clip's keyframe, where the detector has one."""
        head = self.detector.person_head
        if head is None:
            return None
        of_clips = clips_of(maps, clips)
        return cast(Cells, head([of_clip[:, of_clip.shape[1] // 2] for of_clip in of_clips]))

    def _after_backbone(self, maps: Sequence[Tensor], cells: Cells | None) -> Callable[..., DecoderOutput]:
        """As the detector's forward, of the clip whose maps and keyframe's cells these are."""

        def run(clip: Tensor, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
            return self._rest(maps, cells, sizes_wh, *bank)

        return run

    def _rest(self, maps: Sequence[Tensor], cells: Cells | None, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """What comes after the backbone, of the maps (B T, C_k, H / s, W / s) of B clips, ``cells`` of keyframes."""
        levels = self.detector.project(maps, cells)
        return self.detector.clip_stage(clips_of(levels, len(sizes_wh)), sizes_wh, *bank)

    def on_validation_epoch_start(self) -> None:
        """Lightning's hook."""
        self._predictions = Predictions()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Collects what is found."""
        clip, sizes_wh = network_input(batch.frames, self.detector.config.preprocess)
        run = functools.partial(once_per_frame, self.detector)
        output = detect(run, self._windows[1], batch.draws, clip, sizes_wh)
        self._predictions.add(output, sizes_wh, batch.draws, self._postprocess)

    def on_validation_epoch_end(self) -> None:
        """Scores what all processes found; the numbers are the same on each."""
        if self.trainer.sanity_checking:
            return
        if dist.is_available() and dist.is_initialized():
            everyone: list[Predictions | None] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, self._predictions)
            self._predictions.merge([predictions for predictions in everyone if predictions is not None])
        options, given = self._config.evaluate, (self._val, self._predictions, self._labels)
        self.reports = report_sets(*given, score_threshold=options.score_threshold, step=options.every)
        of_nobody = report_empty_sets(*given, step=options.every)
        for name, value in main_figures(self.reports, of_nobody).items():
            self.log(name, value, rank_zero_only=True, prog_bar=name.endswith("frame_map"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and a rate that is set at every step."""
        options = self._config.optimiser
        rate = learning_rate(options, self._config.batch_size)
        of_head = options.backbone_factor if options.person_head_factor is None else options.person_head_factor
        rates = (rate, rate * options.backbone_factor, rate * of_head)
        groups = parameter_groups(self.detector, options.weight_decay, *rates)
        optimiser = torch.optim.AdamW(groups, lr=rate, betas=options.betas)
        schedule, epochs = self._config.schedule, self._config.epochs
        course = LambdaLR(optimiser, lambda step: rate_factor(step / self._steps_per_epoch, schedule, epochs))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": course, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the generators' states; order and augmentation of the data need none (trainer.data.plan)."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["generators"] = {"cpu": torch.get_rng_state(), "cuda": cuda}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook."""
        states = checkpoint["generators"]
        torch.set_rng_state(states["cpu"].cpu())
        if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def _over_ranks(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every loss's mean over all processes, in one exchange."""
    values = torch.stack([value.detach() for value in losses.values()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(losses, values.unbind(), strict=True))
