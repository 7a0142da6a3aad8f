"""The numbers of one evaluation: each set by the protocol of its kind (trainer.evaluate)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.labels import Label
from trainer.config import AvaSet, CustomSet, SetConfig, TubeSet
from trainer.data.clipset import Source
from trainer.evaluate.ava import AVA_CAPPED, evaluate_ava
from trainer.evaluate.frames import (
    FRAMES_ALL,
    FRAMES_CUSTOM,
    FRAMES_CUSTOM_NEGATIVE,
    FrameProtocol,
    evaluate_frames,
)
from trainer.evaluate.people import PersonScore, evaluate_people
from trainer.evaluate.precision import Score
from trainer.findings import Findings, Tables, tables


@dataclass(frozen=True, slots=True, eq=False)
class SetScores:
    """One set's: frame mAP at 0.5 by its protocol, and people. ``people`` is None for AVA, whose protocol is apart."""

    name: str
    tables: Tables
    frames: Score
    people: PersonScore | None


def frame_protocol(chosen: SetConfig) -> FrameProtocol | None:
    """By which rules a set's frames count; None for AVA."""
    match chosen:
        case CustomSet(unlabelled="negative"):
            return FRAMES_CUSTOM_NEGATIVE
        case CustomSet():
            return FRAMES_CUSTOM
        case TubeSet():
            return FRAMES_ALL
        case AvaSet():
            return None


def score_sets(sources: Sequence[Source], found: Findings, labels: Sequence[Label]) -> list[SetScores]:
    """Score every set by itself; labels in the logits' order."""
    return [_score(source, tables(source, found.of(i), labels)) for i, source in enumerate(sources)]


def _score(source: Source, given: Tables) -> SetScores:
    protocol = frame_protocol(source.config)
    if protocol is None:
        frames = evaluate_ava(given.truth, given.actions, given.labels, AVA_CAPPED)
        return SetScores(source.split.name, given, frames, None)
    frames = evaluate_frames(given.truth, given.actions, given.labels, protocol)
    return SetScores(source.split.name, given, frames, evaluate_people(given.truth, given.people, protocol))
