"""Each set's report by the protocol of its kind (trainer.evaluators), from what a detector found."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from stmixer.model.labels import Label
from stmixer.trainer.config.run import AvaSet, CustomSet, PictureSet, SetConfig, TubeSet
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.evaluate.predictions import Predictions, Tables, tables
from stmixer.trainer.evaluate.report import Report, Subject, report_ava, report_frames
from stmixer.trainer.evaluators.ava import AVA_ACTIVITYNET, AVA_UNCAPPED
from stmixer.trainer.evaluators.empty import EmptyReport, report_empty
from stmixer.trainer.evaluators.frames import (
    FRAMES_ALL,
    FRAMES_CUSTOM,
    FRAMES_CUSTOM_NEGATIVE,
    PICTURES,
    FrameProtocol,
    every,
)
from stmixer.trainer.evaluators.tables import Ints, Keyframes, Mask


def frame_protocol(chosen: SetConfig, step: int = 1) -> FrameProtocol:
    """By which rules a set's frames count; for AVA those by which its people do. A custom set's keyframes are annotated
    frames whose index is a multiple of ``step``."""
    match chosen:
        case CustomSet(unlabelled="negative"):
            return every(FRAMES_CUSTOM_NEGATIVE, step)
        case CustomSet():
            return every(FRAMES_CUSTOM, step)
        case PictureSet():
            return PICTURES
        case TubeSet() | AvaSet():
            return FRAMES_ALL


def report_sets(
    sources: Sequence[ClipSource],
    found: Predictions,
    labels: Sequence[Label],
    *,
    notes: tuple[str, ...] = (),
    with_actions: bool = True,
    with_tubes: bool = False,
    among: Collection[str] = (),
    score_threshold: float = 0.0,
    excluded: Keyframes | None = None,
    step: int = 1,
) -> list[Report]:
    """One report per set with people, two for AVA where its exclusion list is given; labels in the logits' order.

    A set in which nobody is, on the keyframes of its protocol, has one of `report_empty_sets` instead.

    Args:
        notes: for the reports' heads.
        with_actions: what people do too, not only whether they are found.
        with_tubes: video mAP too, which takes its time; not of sets that know labels one by one.
        among: labels for which the share out of set is told by themselves too.
        score_threshold: person score from which ``found`` says what people do.
        excluded: AVA's list.
        step: of custom sets, as for `frame_protocol`.
    """
    reports: list[Report] = []
    for i, source in enumerate(sources):
        if _nobody_is_in(source, step):
            continue
        given = tables(source, found.of(i), labels)
        subject = Subject(source.split.name, source.split.part, source.split.origin, notes + _step_notes(source, step))
        if isinstance(source.config, AvaSet) and with_actions:
            reports += _ava(subject, given, excluded)
            continue
        # tracks are what tubes are made of
        people, protocol = ~source.split.crowd, frame_protocol(source.config, step)
        tubes = with_tubes and given.absent is None and bool((source.split.track[people] >= 0).all())
        reports.append(
            report_frames(
                *(subject, given.truth, given.actions, given.labels, protocol),
                people=given.people,
                empty=given.empty if protocol is PICTURES else None,
                ignored=given.ignored,
                absent=given.absent,
                among=among,
                actions_from=score_threshold,
                with_actions=with_actions,
                with_tubes=tubes,
            )
        )
    return reports


def report_empty_sets(
    sources: Sequence[ClipSource],
    found: Predictions,
    labels: Sequence[Label],
    *,
    notes: tuple[str, ...] = (),
    step: int = 1,
) -> list[EmptyReport]:
    """One report per set of clips without people, and per set whose keyframes happen to show nobody; labels in the
    logits' order."""
    reports = []
    for i, source in enumerate(sources):
        if _nobody_is_in(source, step):
            given = tables(source, found.of(i), labels)
            keyframes = given.keyframes.take(_counting(source, given.keyframes.frame, step))
            name, part, all_notes = source.split.name, source.split.part, notes + _step_notes(source, step)
            reports.append(report_empty(name, part, keyframes, given.people, notes=all_notes, ignored=given.ignored))
    return reports


def _step_notes(source: ClipSource, step: int) -> tuple[str, ...]:
    """What a reader of a custom set's figures must know, where not all that it annotates is looked at."""
    if step == 1 or source.empty or not isinstance(source.config, CustomSet):
        return ()
    return (f"keyframes: annotated frames whose index is a multiple of {step}",)


def _nobody_is_in(source: ClipSource, step: int) -> bool:
    """Whether a set has keyframes by its protocol, and on none of these a person."""
    split = source.split
    people = split.frame[split.person_keyframes[~split.crowd]]
    return bool(_counting(source, split.frame, step).any()) and not _counting(source, people, step).any()


def _counting(source: ClipSource, frames: Ints, step: int) -> Mask:
    """(n,) which frames are keyframes by a set's protocol; all of them in a set of clips without people."""
    kept = None if source.empty else frame_protocol(source.config, step).step
    return np.asarray(frames % (kept or 1) == 0, dtype=np.bool_)


def _ava(subject: Subject, given: Tables, excluded: Keyframes | None) -> list[Report]:
    reports = [
        report_ava(subject, given.truth, given.actions, given.labels, AVA_ACTIVITYNET, people=given.people),
    ]
    if excluded is not None:
        uncapped = report_ava(
            subject, given.truth, given.actions, given.labels, AVA_UNCAPPED, excluded=excluded, people=given.people
        )
        reports.append(uncapped)
    return reports


def main_figures(reports: Sequence[Report], empty_reports: Sequence[EmptyReport] = ()) -> dict[str, float]:
    """The reports' main numbers, by name."""
    values: dict[str, float] = {}
    for report in reports:
        name = report.subject.name
        if report.mean_ap is not None:
            values.setdefault(f"{name}/frame_map", report.mean_ap)
        if report.people is not None:
            values[f"{name}/person_ap"] = report.people.ap
            values[f"{name}/person_recall"] = report.people.recall
            values[f"{name}/person_recall_when_precise"] = report.people.precise.recall
            values[f"{name}/false_people_per_keyframe"] = report.people.false_per_keyframe
        if report.out_of_set is not None and report.out_of_set.any_label.share is not None:
            values[f"{name}/named_out_of_set"] = report.out_of_set.any_label.share
    for empty in empty_reports:
        values[f"{empty.name}/false_people_per_keyframe"] = empty.false_per_keyframe
    return values
