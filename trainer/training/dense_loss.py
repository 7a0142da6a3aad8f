"""The loss of a dense person head: task-aligned one-to-many assignment of cells (TOOD, Feng et al., ICCV 2021).

A cell is a place of a feature map with one person logit and one box. Among the cells whose centre lies inside a person
those answer for them whose score and box together fit best, and each is to score how well it fits; all others are
background, but for those that lie in an area to ignore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stmixer.trainer.data.targets import Target
from stmixer.trainer.training.overlap import generalised_iou, iou

FOCUS = 2.0
"""γ of the quality focal loss (Li et al., NeurIPS 2020): a cell whose score is right already weighs little."""

BOX = 2.0
"""Weight of the boxes' loss beside the scores'."""

LEAST_TARGET = 0.05
"""Score that the best cell of a person is taught at least, so that somebody whom no box overlaps yet is learned too."""

TERMS = ("loss_dense_score", "loss_dense_box")


class PersonCells(Protocol):
    """What a dense person head says of F frames: logits (F, cells), boxes (F, cells, 4) of positive area and centres
    (cells, 2), both px of the padded picture."""

    @property
    def logits(self) -> Tensor: ...

    @property
    def boxes_xyxy_px(self) -> Tensor: ...

    @property
    def centres_xy_px(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """Of one frame's cells: ``person`` (cells,) int64, the row of whom it answers for, -1 for nobody; ``target``
    (cells,), the score that it is taught, 0 for nobody."""

    person: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class DenseLosses:
    """``total`` is what is minimised; ``terms`` are before weighting, named as in ``TERMS``."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class DenseLoss:
    """Cells and targets to losses.

    Attributes:
        alpha, beta: a cell fits a person by score^alpha · IoU^beta.
        best: how many cells, those that fit best, may answer for one person.
    """

    alpha: float = 1.0
    beta: float = 6.0
    best: int = 13

    def __call__(self, cells: PersonCells, targets: Sequence[Target]) -> DenseLosses:
        """The losses of F frames, both terms over the sum of what cells are taught, at least 1, of this process.

        Args:
            cells: the head's.
            targets: F targets, any of them empty.
        """
        # float32 throughout, whatever autocast gave: sums over thousands of cells
        logits, boxes, centres = cells.logits.float(), cells.boxes_xyxy_px.float(), cells.centres_xy_px.float()
        scores = logits.detach().sigmoid()
        person, wanted, weight, people = [], [], [], []
        for frame, target in enumerate(targets):
            found = self.assign(scores[frame], boxes[frame].detach(), centres, target.boxes_xyxy_px.float())
            person.append(found.person)
            wanted.append(found.target)
            hidden = _inside(centres, target.ignore_xyxy_px.float()).any(0) & (found.person < 0)
            weight.append((~hidden).float())
            people.append(target.boxes_xyxy_px.float()[found.person[found.person >= 0]])
        aim, mine = torch.stack(wanted), torch.stack(person) >= 0
        divisor = aim.sum().clamp(min=1)
        focus = torch.stack(weight) * (aim - scores).abs() ** FOCUS
        score = (focus * F.binary_cross_entropy_with_logits(logits, aim, reduction="none")).sum() / divisor
        box = (aim[mine] * (1 - generalised_iou(boxes[mine], torch.cat(people)))).sum() / divisor
        return DenseLosses(score + BOX * box, dict(zip(TERMS, (score, box), strict=True)))

    @torch.no_grad()
    def assign(
        self, scores: Tensor, boxes_xyxy_px: Tensor, centres_xy_px: Tensor, people_xyxy_px: Tensor
    ) -> Assignment:
        """Which cell of a frame answers for whom.

        A person inside whom no centre lies has the cell nearest to their own; a cell goes to the person whom it fits
        best. What a cell is taught rises with how it fits: to the person's best IoU for the one that fits best.

        Args:
            scores: (cells,) probabilities.
            boxes_xyxy_px: (cells, 4).
            centres_xy_px: (cells, 2).
            people_xyxy_px: (n, 4) of positive area.
        """
        nobody, nothing = torch.full_like(scores, -1, dtype=torch.int64), torch.zeros_like(scores)
        n = len(people_xyxy_px)
        if not n:
            return Assignment(nobody, nothing)
        candidate = _inside(centres_xy_px, people_xyxy_px)
        without = (~candidate.any(1)).nonzero()[:, 0]
        middle = (people_xyxy_px[without, :2] + people_xyxy_px[without, 2:]) / 2
        candidate[without, torch.cdist(middle, centres_xy_px).argmin(1)] = True

        # pairs of a person and a cell, as few as there are: the whole table is a hundred times as long
        who, cell = candidate.nonzero(as_tuple=True)
        overlap = iou(people_xyxy_px[who], boxes_xyxy_px[cell])
        fits = torch.full_like(candidate, -1.0, dtype=scores.dtype)
        fits[who, cell] = scores[cell] ** self.alpha * overlap**self.beta
        fit, cell = fits.topk(min(self.best, len(scores)), dim=1)
        who = torch.arange(n, device=cell.device)[:, None].expand_as(cell)[fit >= 0]
        fit, cell = fit[fit >= 0], cell[fit >= 0]
        dearest = fit == torch.full_like(scores, -1.0).scatter_reduce(0, cell, fit, "amax")[cell]
        # of equals the first, so that every run does the same
        person = torch.full_like(nobody, n).scatter_reduce(0, cell[dearest], who[dearest], "amin")
        own = dearest & (person[cell] == who)
        who, cell, fit = who[own], cell[own], fit[own]

        overlap = iou(people_xyxy_px[who], boxes_xyxy_px[cell])
        best_fit, best_overlap = (
            torch.zeros(n, dtype=v.dtype, device=v.device).scatter_reduce(0, who, v, "amax")[who]
            for v in (fit, overlap)
        )
        least = torch.finfo(fit.dtype).tiny  # where no box overlaps anybody, all cells fit alike
        aim = (fit + least) / (best_fit + least) * best_overlap.clamp(min=LEAST_TARGET)
        return Assignment(nobody.index_put((cell,), who), nothing.index_put((cell,), aim))


def _inside(centres_xy_px: Tensor, boxes_xyxy_px: Tensor) -> Tensor:
    """(cells, 2) and (n, 4) -> (n, cells), whether the centre lies in the box."""
    x, y = centres_xy_px.unbind(-1)
    x1, y1, x2, y2 = boxes_xyxy_px.unsqueeze(-1).unbind(1)
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
