"""Losses per stage (paper §3.5; docs/detector.md, Training).

Beyond the paper: labels that a set does not annotate are left out of the action loss, whose mean is then over what is
annotated; with everything annotated it is the published one. A query that answers for nobody and lies inside an area to
ignore is not taught to be background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from stmixer.model.decoder import PERSON, DecoderOutput, StageOutput
from stmixer.trainer.data.targets import Target
from stmixer.trainer.training.matcher import Match, Matcher
from stmixer.trainer.training.overlap import generalised_iou, iou, share_inside

BACKGROUND_WEIGHT = 0.1
"""Weight of the background in the human cross entropy; a person has 1."""

FOCUS = 2.0
"""γ of the varifocal loss: background that is scored as such weighs little."""
BACKGROUND_SHARE = 0.75
"""α of the varifocal loss: weight of the background before that."""

INSIDE = 0.5
"""Share of its own area from which a box lies inside an area to ignore."""

Normaliser = Literal["rank", "global"]
PersonScore = Literal["person", "overlap"]
TERMS = ("loss_ce", "loss_bbox", "loss_giou", "loss_bce")


@dataclass(frozen=True, slots=True)
class LossWeights:
    """λ: human, L1, GIoU and action. VideoMAEv2's published run has action 48."""

    human: float = 2.0
    l1: float = 2.0
    giou: float = 2.0
    action: float = 24.0

    def of(self, term: str) -> float:
        """The weight of a term by its published name, whatever the stage's suffix."""
        weights = (self.human, self.l1, self.giou, self.action)
        return next(w for name, w in zip(TERMS, weights, strict=True) if term.startswith(name))


@dataclass(frozen=True, slots=True)
class Losses:
    """``total`` is what is minimised; ``terms`` are before λ, named as published: ``loss_ce`` (human), ``loss_bbox``,
    ``loss_giou``, ``loss_bce`` (action) for the last stage, with suffix ``_0`` ... for those before it."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Sums:
    """One stage's losses before division: sums and what to divide the means by."""

    human: Tensor
    human_divisor: Tensor
    l1: Tensor
    giou: Tensor
    action: Tensor
    action_entries: Tensor


@dataclass(frozen=True, slots=True)
class Criterion:
    """Outputs and targets to losses.

    Attributes:
        weights: λ.
        matcher: one person to one query, or to several in the stages before the last.
        normaliser: ``rank``, as officially: box losses over the mean box count across ranks (at least 1), the two
            means over this rank's own entries. ``global``: every divisor is the mean across ranks, so that the
            losses' average over ranks is that of one process with the whole batch, however unequal the ranks.
        divisor: divides the weighted sum. None: the number of terms, 24 for six stages (what the official
            trainer does); 1 leaves the sum alone.
        person_score: what the human logits are taught. ``person``: whether the query answers for somebody, by cross
            entropy (the paper's). ``overlap``: how well its box fits, by the varifocal loss over the people matched
            (Zhang et al., CVPR 2021, equation 2; with a Hungarian matching as in RT-DETR, CVPR 2024), so that of two
            queries at one person the better box has the better score.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    normaliser: Normaliser = "rank"
    divisor: float | None = None
    matcher: Matcher = field(default_factory=Matcher)
    person_score: PersonScore = "person"

    def __call__(self, output: DecoderOutput, targets: Sequence[Target], sizes_wh: Tensor) -> Losses:
        """The losses of a batch.

        Args:
            output: the detector's, of B clips.
            targets: B targets, any of them empty.
            sizes_wh: (B, 2) unpadded width and height, px.

        Raises:
            DivergedError: an output that is no number.
        """
        matches = self.matcher(output.stages, targets, sizes_wh)
        merged = _Merged.of(targets)
        ignored = _padded_areas(targets)
        human_loss = _human_overlap if self.person_score == "overlap" else _human_cross_entropy
        sums = [
            _stage_sums(s, m, merged, ignored, sizes_wh, human_loss)
            for s, m in zip(output.stages, matches, strict=True)
        ]
        boxes, human, action = self._divisors([match.wanted for match in matches], sums)
        terms: dict[str, Tensor] = {}
        for i, stage in enumerate(sums):
            suffix = "" if i == len(sums) - 1 else f"_{i}"
            values = (stage.human / human[i], stage.l1 / boxes[i], stage.giou / boxes[i], stage.action / action[i])
            terms |= {name + suffix: value for name, value in zip(TERMS, values, strict=True)}
        total = torch.stack([self.weights.of(name) * value for name, value in terms.items()]).sum()
        return Losses(total / (len(terms) if self.divisor is None else self.divisor), terms)

    def _divisors(self, boxes: Sequence[int], sums: Sequence[_Sums]) -> tuple[Tensor, Tensor, Tensor]:
        """What to divide by, (stages,) each: box losses, human, action."""
        human = torch.stack([s.human_divisor for s in sums])
        action = torch.stack([s.action_entries for s in sums])
        total, world = _sum_over_ranks(torch.stack((human.new_tensor(boxes), human, action)))
        # all of the weight may be gone where everything is ignored; one query has at least this much
        least = BACKGROUND_WEIGHT if self.person_score == "person" else 1.0
        if self.normaliser == "rank":
            return (total[0] / world).clamp(min=1), human.clamp(min=least), action.clamp(min=1)
        return total[0].clamp(min=1) / world, total[1].clamp(min=least) / world, total[2].clamp(min=1) / world


@dataclass(frozen=True, slots=True)
class _Merged:
    """All clips' people in one table; ``starts[b]`` is the first row of clip b."""

    boxes_xyxy_px: Tensor
    actions: Tensor
    annotated: Tensor
    starts: Tensor

    @classmethod
    def of(cls, targets: Sequence[Target]) -> _Merged:
        device = targets[0].boxes_xyxy_px.device
        counts = torch.tensor([0, *(len(t.boxes_xyxy_px) for t in targets)])
        return cls(
            torch.cat([t.boxes_xyxy_px for t in targets]).float(),
            torch.cat([t.actions for t in targets]).float(),
            torch.cat([t.annotated for t in targets]),
            counts.cumsum(0)[:-1].to(device),
        )


def _padded_areas(targets: Sequence[Target]) -> Tensor | None:
    """(B, M, 4) areas to ignore, px, filled up with boxes of no area; None where no clip has any."""
    if not any(len(target.ignore_xyxy_px) for target in targets):
        return None
    return torch.nn.utils.rnn.pad_sequence([target.ignore_xyxy_px for target in targets], batch_first=True).float()


HumanLoss = Callable[[Tensor, Match, Tensor, Tensor], tuple[Tensor, Tensor]]


def _stage_sums(
    stage: StageOutput, match: Match, people: _Merged, ignored: Tensor | None, sizes_wh: Tensor, human_loss: HumanLoss
) -> _Sums:
    # float32 throughout, whatever autocast gave: sums over hundreds of queries and classes
    rows = people.starts[match.clips] + match.people
    found, wanted = stage.boxes_xyxy_px.float()[match.clips, match.queries], people.boxes_xyxy_px[rows]
    extent = sizes_wh.repeat(1, 2)[match.clips]

    taught = torch.ones_like(stage.human_logits[..., 0], dtype=torch.bool)
    if ignored is not None:
        taught = share_inside(stage.boxes_xyxy_px.detach().float(), ignored).amax(-1) < INSIDE
    taught = taught.index_put((match.clips, match.queries), taught.new_ones(()))
    human, human_divisor = human_loss(stage.human_logits.float(), match, taught, iou(found.detach(), wanted))

    actions, annotated = stage.action_logits.float()[match.clips, match.queries], people.annotated[rows]
    action = F.binary_cross_entropy_with_logits(actions, people.actions[rows], reduction="none")
    return _Sums(
        human=human,
        human_divisor=human_divisor,
        l1=((found - wanted) / extent).abs().sum(),
        giou=(1 - generalised_iou(found, wanted)).sum(),
        action=action.masked_fill(~annotated, 0.0).sum(),
        action_entries=annotated.sum().float(),
    )


def _human_cross_entropy(logits: Tensor, match: Match, taught: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and divisor of the human loss: (B, N, 2) logits, which of the (B, N) queries are taught, and the IoU of each
    pair of the match, which does not count here."""
    classes = torch.full(logits.shape[:2], 1 - PERSON, device=logits.device)
    classes[match.clips, match.queries] = PERSON
    weight = torch.full_like(logits[..., 0], BACKGROUND_WEIGHT).masked_fill(classes == PERSON, 1.0)
    weight = weight.masked_fill(~taught, 0.0)
    loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
    return (loss * weight.flatten()).sum(), weight.sum()


def _human_overlap(logits: Tensor, match: Match, taught: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """As ``_human_cross_entropy``, with the varifocal loss of the IoUs over the number of people."""
    logit = logits[..., PERSON] - logits[..., 1 - PERSON]
    pair = (match.clips, match.queries)
    aim = torch.zeros_like(logit).index_put(pair, overlap)
    weight = (BACKGROUND_SHARE * logit.detach().sigmoid() ** FOCUS).index_put(pair, overlap).masked_fill(~taught, 0.0)
    loss = F.binary_cross_entropy_with_logits(logit, aim, reduction="none")
    return (loss * weight).sum(), logit.new_tensor(len(match.clips))


def _sum_over_ranks(values: Tensor) -> tuple[Tensor, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return values, 1
    total = values.clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()
