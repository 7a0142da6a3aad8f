"""Each set's report by the protocol of its kind (trainer.evaluators), from what a detector found."""

from __future__ import annotations

from collections.abc import Sequence

from stmixer.model.labels import Label
from stmixer.trainer.config.run import AvaSet, CustomSet, PictureSet, SetConfig, TubeSet
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.evaluate.predictions import Predictions, Tables, tables
from stmixer.trainer.evaluate.report import Report, Subject, report_ava, report_frames
from stmixer.trainer.evaluators.ava import AVA_ACTIVITYNET, AVA_UNCAPPED
from stmixer.trainer.evaluators.empty import EmptyReport, report_empty
from stmixer.trainer.evaluators.frames import FRAMES_ALL, FRAMES_CUSTOM, FRAMES_CUSTOM_NEGATIVE, FrameProtocol
from stmixer.trainer.evaluators.tables import Keyframes


def frame_protocol(chosen: SetConfig) -> FrameProtocol:
    """By which rules a set's frames count; for AVA those by which its people do."""
    match chosen:
        case CustomSet(unlabelled="negative"):
            return FRAMES_CUSTOM_NEGATIVE
        case CustomSet() | PictureSet():
            return FRAMES_CUSTOM
        case TubeSet() | AvaSet():
            return FRAMES_ALL


def report_sets(
    sources: Sequence[ClipSource],
    found: Predictions,
    labels: Sequence[Label],
    *,
    notes: tuple[str, ...] = (),
    with_tubes: bool = False,
    excluded: Keyframes | None = None,
) -> list[Report]:
    """One report per set with people, two for AVA where its exclusion list is given; labels in the logits' order.

    Args:
        notes: for the reports' heads.
        with_tubes: video mAP too, which takes its time.
        excluded: AVA's list.
    """
    reports: list[Report] = []
    for i, source in enumerate(sources):
        if source.empty:
            continue
        given = tables(source, found.of(i), labels)
        subject = Subject(source.split.name, source.split.part, source.split.origin, notes)
        if isinstance(source.config, AvaSet):
            reports += _ava(subject, given, excluded)
            continue
        # tracks are what tubes are made of
        tubes = with_tubes and bool((source.split.track >= 0).all())
        protocol = frame_protocol(source.config)
        reports.append(
            report_frames(
                subject, given.truth, given.actions, given.labels, protocol, people=given.people, with_tubes=tubes
            )
        )
    return reports


def report_empty_sets(
    sources: Sequence[ClipSource], found: Predictions, *, notes: tuple[str, ...] = ()
) -> list[EmptyReport]:
    """One report per set of clips without people."""
    reports = []
    for i, source in enumerate(sources):
        if source.empty:
            given = tables(source, found.of(i), ())
            reports.append(
                report_empty(source.split.name, source.split.part, given.keyframes, given.people, notes=notes)
            )
    return reports


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
        values.setdefault(f"{name}/frame_map", report.actions.mean_ap)
        if report.people is not None:
            values[f"{name}/person_ap"] = report.people.ap
            values[f"{name}/person_recall"] = report.people.recall
            values[f"{name}/false_people_per_keyframe"] = report.people.false_per_keyframe
    for empty in empty_reports:
        values[f"{empty.name}/false_people_per_keyframe"] = empty.false_per_keyframe
    return values
