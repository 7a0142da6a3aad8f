"""What calibration learns from: every query of every validation keyframe, and whether it was right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stmixer.model.decoder import PERSON, DecoderOutput, last_arrays
from stmixer.model.postprocess import PostProcess
from stmixer.trainer.calibrate.logit_maps import ActionSamples, Floats, Mask, PersonSamples
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.records import Ints
from stmixer.trainer.evaluate.network import LoadedNetwork, run_network
from stmixer.trainer.evaluators.ignore_areas import IGNORED_FROM
from stmixer.trainer.evaluators.overlap import assign, inside, overlaps, pairs, ranks

OVERLAP = 0.5
"""IoU from which a query is somebody at their place."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Of n queries, m of which found somebody.

    Attributes:
        person: of every query.
        actions: of those that found somebody.
        action_person_logits, action_starts: (m,) their person logits, and their cells'.
        person_half, action_half: (n,) and (m,), 0 or 1: a video is in one of two halves.
        on_empty: (n,) the query's clip has nobody in it, and no area to ignore.
        people, keyframes, empty_keyframes: how many there were.
    """

    person: PersonSamples
    actions: ActionSamples
    action_person_logits: Floats
    action_starts: Floats
    person_half: Ints
    action_half: Ints
    on_empty: Mask
    people: int
    keyframes: int
    empty_keyframes: int

    def half(self, half: int) -> Samples:
        """One half's queries; the counts stay those of both."""
        queries, found = self.person_half == half, self.action_half == half
        return Samples(
            self.person.take(queries),
            self.actions.take(found),
            self.action_person_logits[found],
            self.action_starts[found],
            self.person_half[queries],
            self.action_half[found],
            self.on_empty[queries],
            self.people,
            self.keyframes,
            self.empty_keyframes,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _KeyframeQueries:
    """A keyframe's N queries: boxes 0–1, person logits (person minus background), their cells' (0 where there was
    none), action logits (N, C)."""

    keyframe: int
    boxes_xyxy: Floats
    person: Floats
    starts: Floats
    actions: Floats


def gather(
    network: LoadedNetwork,
    sources: Sequence[ClipSource],
    config: RunConfig,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Run a network on all keyframes; ``progress`` is told batches done and in all."""
    seen: list[list[_KeyframeQueries]] = [[] for _ in sources]
    everyone = PostProcess(score_threshold=0.0)
    for result in run_network(network, sources, config, device, progress=progress):
        last = result.output.stages[-1]
        person = last.human_logits[..., PERSON] - last.human_logits[..., 1 - PERSON]
        found = everyone(*last_arrays(result.output, result.sizes_wh))
        for b, draw in enumerate(result.batch.draws):
            boxes = found[b].boxes_xyxy.astype(np.float64)
            logits, actions = (c.to("cpu", torch.float64).numpy() for c in (person[b], last.action_logits[b]))
            starts = _start_logits(result.output, b)
            seen[draw.source].append(_KeyframeQueries(draw.keyframe, boxes, logits, starts, actions))
    return _joined([_of_source(source, rows) for source, rows in zip(sources, seen, strict=True)])


def _start_logits(output: DecoderOutput, b: int) -> Floats:
    """(N,) of one clip's queries."""
    starts = np.zeros(output.stages[-1].human_logits.shape[1])
    if output.start_logits is not None:
        of_cells = output.start_logits[b, :, 0].to("cpu", torch.float64).numpy()
        starts[: len(of_cells)] = of_cells
    return starts


def _of_source(source: ClipSource, seen: Sequence[_KeyframeQueries]) -> Samples:
    """One set's, matched as the evaluators do: the surest query takes its best-overlapping person."""
    split = source.split
    keyframe = np.repeat([s.keyframe for s in seen], [len(s.person) for s in seen]).astype(np.int64)
    boxes, person, starts, actions = (
        np.concatenate([getattr(s, part) for s in seen]) for part in ("boxes_xyxy", "person", "starts", "actions")
    )
    rows = np.where(split.crowd, -1, split.person_keyframes)
    i, j, overlap = overlaps(boxes, split.boxes_xyxy, keyframe, rows, "normalised")
    taken = assign(i, j, overlap, ranks(person), OVERLAP, best_only=False)
    judged = (taken >= 0) | ~_in_areas(source, boxes, keyframe)
    boxes, person, starts, actions = boxes[judged], person[judged], starts[judged], actions[judged]
    keyframe, taken = keyframe[judged], taken[judged]
    found, empty = taken >= 0, np.diff(split.starts) == 0
    who, half = taken[found], split.video[keyframe] % 2
    return Samples(
        person=PersonSamples(person, starts, found, np.ones(len(person))),
        actions=ActionSamples(actions[found], source.actions[who], source.annotated[who], _of_tracks(source, who)),
        action_person_logits=person[found],
        action_starts=starts[found],
        person_half=half,
        action_half=half[found],
        on_empty=empty[keyframe],
        people=int((~split.crowd).sum()),
        keyframes=len(split),
        empty_keyframes=int(empty.sum()),
    )


def _in_areas(source: ClipSource, boxes: Floats, keyframe: Ints) -> Mask:
    """(n,) which queries' boxes lie in areas to ignore, by the evaluators' rule: they are neither right nor wrong."""
    split = source.split
    i, j = pairs(keyframe, np.where(split.crowd, split.person_keyframes, -1))
    covered = np.zeros(len(boxes), dtype=np.bool_)
    covered[i[inside(boxes[i], split.boxes_xyxy[j], "normalised") >= IGNORED_FROM]] = True
    return covered


def _of_tracks(source: ClipSource, who: Ints) -> Floats:
    """Weights of people, so that every track weighs 1; people without a track share their video's."""
    split = source.split
    video = split.video[split.person_keyframes]
    _, track, count = np.unique(
        np.stack((video[who], split.track[who]), 1), axis=0, return_inverse=True, return_counts=True
    )
    return np.asarray(1.0 / count[track.reshape(-1)], dtype=np.float64)


def _joined(parts: Sequence[Samples]) -> Samples:
    """All sets' together, each with the same weight, on average 1 a query."""
    keyframes = sum(p.keyframes for p in parts)
    person, actions = [p.person for p in parts], [p.actions for p in parts]
    return Samples(
        person=PersonSamples(
            np.concatenate([p.logits for p in person]),
            np.concatenate([p.starts for p in person]),
            np.concatenate([p.right for p in person]),
            np.concatenate([p.person.weights * keyframes / (len(parts) * p.keyframes) for p in parts]),
        ),
        actions=ActionSamples(
            np.concatenate([a.logits for a in actions]),
            np.concatenate([a.there for a in actions]),
            np.concatenate([a.annotated for a in actions]),
            np.concatenate([a.weights for a in actions]),
        ),
        action_person_logits=np.concatenate([p.action_person_logits for p in parts]),
        action_starts=np.concatenate([p.action_starts for p in parts]),
        person_half=np.concatenate([p.person_half for p in parts]),
        action_half=np.concatenate([p.action_half for p in parts]),
        on_empty=np.concatenate([p.on_empty for p in parts]),
        people=sum(p.people for p in parts),
        keyframes=keyframes,
        empty_keyframes=sum(p.empty_keyframes for p in parts),
    )
