"""Scores that mean what they say: affine maps of logits, fitted on validation clips and folded into the weights.

Person logits (the difference that the softmax sees) get one scale and one bias: Platt scaling (Platt, 1999) of "this
query is the person at its place", by the evaluators' rule, so that duplicates and false people count against it. Where
queries start at cells, the cell's own logit is a second input with a scale of its own: how far a stage's word is worth
more than what the dense head said before it.
Action logits get one scale for all classes and a bias for each: temperature and bias, with priors that keep a class of
few tracks near where training left it. It rises, so that no ranking within a class changes, nor its AP; no more does
that of people, but where the second input changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from stmixer.model.ablations import KeyframeDecoder
from stmixer.model.decoder import PERSON, Decoder
from stmixer.model.detector import Detector
from stmixer.model.stage import StageBase
from stmixer.trainer.errors import TrainError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SCALE_SPREAD = 0.5
"""Of the prior on the logarithm of a scale, around a scale of 1."""

BIAS_SPREAD = 1.0
"""Of the prior on a class's bias, around 0: some four tracks weigh as much as it."""

_MOST_LOG_SCALE = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class PersonSamples:
    """Queries as people: ``logits`` (n,), person minus background; ``starts`` (n,), the logit of the cell that it
    started at, 0 where there was none; ``right`` (n,), whether it is somebody at their place whom no surer query found;
    ``weights`` (n,)."""

    logits: Floats
    starts: Floats
    right: Mask
    weights: Floats

    def take(self, rows: Mask) -> PersonSamples:
        """Some of them."""
        return PersonSamples(self.logits[rows], self.starts[rows], self.right[rows], self.weights[rows])


@dataclass(frozen=True, slots=True, eq=False)
class ActionSamples:
    """People who were found: ``logits``, ``there`` and ``annotated`` (m, C); ``weights`` (m,)."""

    logits: Floats
    there: Mask
    annotated: Mask
    weights: Floats

    def take(self, rows: Mask) -> ActionSamples:
        """Some of them."""
        return ActionSamples(self.logits[rows], self.there[rows], self.annotated[rows], self.weights[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """``logits -> scale * logits + bias``, a bias (C,) for each class. The scale is over 0."""

    scale: float
    bias: Floats

    def __post_init__(self) -> None:
        assert self.scale > 0, self.scale

    def scores(self, logits: Floats) -> Floats:
        """Probabilities of mapped logits."""
        return np.asarray(expit(self.scale * logits + self.bias), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class PersonMap:
    """``logits, starts -> scale * logits + start_scale * starts + bias``. The scale is over 0."""

    scale: float = 1.0
    start_scale: float = 0.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        assert self.scale > 0, self.scale

    def scores(self, logits: Floats, starts: Floats) -> Floats:
        """Probabilities of mapped logits."""
        mapped = self.scale * logits + self.start_scale * starts + self.bias
        return np.asarray(expit(mapped), dtype=np.float64)


def fit_person(samples: PersonSamples) -> PersonMap:
    """The likeliest map. Raises TrainError where scores do not rise with being right: none would mend that."""
    right, weights = samples.right, samples.weights
    if not right.any() or right.all():
        raise TrainError("calibration: no query finds anybody, or every one does; there is nothing to fit people on")
    means = [float(np.average(samples.logits[of], weights=weights[of])) for of in (right, ~right)]
    if means[0] <= means[1]:
        raise TrainError("calibration: person scores do not rise with being right; the weights have not learned people")
    return _fit_person(samples)


def fit_actions(samples: ActionSamples) -> Affine:
    """The likeliest map under the priors. Entries that are not annotated have no say."""
    if not samples.annotated.any():
        raise TrainError("calibration: nobody with annotated actions is found; there is nothing to fit actions on")
    entries = samples.annotated * samples.weights[:, None]
    return _fit_actions(samples.logits, samples.there, entries)


def _fit_person(samples: PersonSamples) -> PersonMap:
    """Weighted logistic regression: a log scale with a Gaussian prior, the starts' scale and the bias without."""
    logits, starts, right, weights = samples.logits, samples.starts, samples.right, samples.weights

    def loss(parameters: Floats) -> tuple[float, Floats]:
        log_scale, start_scale, bias = parameters
        scale = np.exp(log_scale)
        mapped = scale * logits + start_scale * starts + bias
        value = float((weights * (np.logaddexp(0, mapped) - right * mapped)).sum())
        slope = weights * (expit(mapped) - right)
        of_scale = float(slope @ logits) * scale + log_scale / SCALE_SPREAD**2
        return value + 0.5 * (log_scale / SCALE_SPREAD) ** 2, np.array((of_scale, slope @ starts, slope.sum()))

    limits = [(-_MOST_LOG_SCALE, _MOST_LOG_SCALE), (0, None) if starts.any() else (0, 0), (None, None)]
    log_scale, start_scale, bias = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=limits).x
    return PersonMap(float(np.exp(log_scale)), float(start_scale), float(bias))


def _fit_actions(logits: Floats, there: Mask, weights: Floats) -> Affine:
    """Weighted logistic regression of (n, C) outcomes: one log scale, C biases, Gaussian priors."""

    def loss(parameters: Floats) -> tuple[float, Floats]:
        log_scale, bias = parameters[0], parameters[1:]
        scale = np.exp(log_scale)
        mapped = scale * logits + bias
        value = float((weights * (np.logaddexp(0, mapped) - there * mapped)).sum())
        slope = weights * (expit(mapped) - there)
        gradient = np.concatenate(([float((slope * logits).sum()) * scale], slope.sum(0)))
        value += 0.5 * (log_scale / SCALE_SPREAD) ** 2 + 0.5 * float((bias**2).sum()) / BIAS_SPREAD**2
        gradient[0] += log_scale / SCALE_SPREAD**2
        gradient[1:] += bias / BIAS_SPREAD**2
        return value, gradient

    limits = [(-_MOST_LOG_SCALE, _MOST_LOG_SCALE), *[(None, None)] * logits.shape[1]]
    found = minimize(loss, np.zeros(1 + logits.shape[1]), jac=True, method="L-BFGS-B", bounds=limits)
    return Affine(float(np.exp(found.x[0])), found.x[1:])


@torch.no_grad()
def fold(detector: Detector, person: PersonMap, actions: Affine) -> None:
    """Put both maps into the last layers of the last stage's heads, in place: other weights, the same network."""
    assert not isinstance(detector.decoder, KeyframeDecoder)
    stage = detector.decoder.stages[-1]
    assert isinstance(stage, StageBase)
    assert stage.human_head is not None
    assert stage.action_head is not None
    human, action = stage.human_head.last, stage.action_head.last
    human.weight.mul_(person.scale)
    human.bias.mul_(person.scale)
    if isinstance(detector.decoder, Decoder) and detector.decoder.start_weight is not None:
        detector.decoder.start_weight[-1].mul_(person.scale).add_(person.start_scale)
    # half of the bias to the person, half from the background: the softmax sees the difference
    half = person.bias / 2
    human.bias[PERSON] += half
    human.bias[1 - PERSON] -= half
    action.weight.mul_(actions.scale)
    action.bias.mul_(actions.scale).add_(torch.from_numpy(actions.bias).to(action.bias))
