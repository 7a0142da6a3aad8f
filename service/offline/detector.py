"""A loaded model, ready for files and frames: what ``stmixer.load`` gives."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pydantic import ValidationError

from stmixer.model.labels import Label
from stmixer.model.runtimes import PrecisionName, RuntimeName
from stmixer.service.errors import InputError
from stmixer.service.offline.file import FileResults
from stmixer.service.offline.stream import FrameStream
from stmixer.service.schemas import DetectOptions, Preset
from stmixer.service.worker.runner import Runner, pick_device, start_runtime

log = logging.getLogger("stmixer")


class ActionDetector:
    """Who does what, where and when: people with boxes and actions, keyframe by keyframe.

    The options of ``detect`` and ``stream`` are those of the service:

    ``keyframe_hz``: keyframes per second of video, 0.001 to 30 (models of the realtime family take the nearest rate
    that their sampling grid has). ``score_threshold``: least person score, 0 to 1; None for 0.6, or what ``preset``
    (``"cctv"``, a lower one for small and distant people) says. ``top_k``: most actions per person,
    None for all. ``action_threshold``: least action score, 0 to 1. ``lookahead_ms``: see at most this far past a
    keyframe, 0 to 10 000; None for as far as the model wants. What is out of range is an InputError ``bad_option``.

    Several runs of one detector may be under way at a time, in one thread.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @classmethod
    def open(
        cls,
        weights: Path | None,
        device: str = "auto",
        *,
        runtime: RuntimeName = "auto",
        precision: PrecisionName = "auto",
    ) -> ActionDetector:
        """Load a model file, None for the bundled one. Raises StartError for what cannot be had."""
        chosen, warning = pick_device(device)
        if warning:
            log.warning(warning)
        return cls(Runner(start_runtime(None, weights, chosen, runtime, precision)))

    def __repr__(self) -> str:
        return f"ActionDetector({self.name}, {len(self.labels)} actions, on {self.device})"

    @property
    def name(self) -> str:
        """The model's name, as its file says."""
        return self._runner.card.name

    @property
    def trained(self) -> bool:
        """False for initial weights, whose boxes and names mean nothing."""
        return self._runner.card.trained

    @property
    def labels(self) -> tuple[Label, ...]:
        """The actions it names: each label's number in its data set, and its name."""
        return self._runner.card.labels

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda`` or ``cuda:N``."""
        return str(self._runner.runtime.device)

    def detect(
        self,
        path: str | os.PathLike[str],
        *,
        keyframe_hz: float = 1.0,
        preset: Preset | None = None,
        score_threshold: float | None = None,
        top_k: int | None = None,
        action_threshold: float = 0.0,
        lookahead_ms: float | None = None,
        track_max_gap_s: float = 2.0,
        batch_size: int = 1,
    ) -> FileResults:
        """An iterator over a video file's results, made as they are asked for; it has ``summary`` and ``warnings``.

        ``batch_size``: keyframes a forward, which a GPU wants more of. Raises MediaError for a file that cannot be
        read, here or on the way, and InputError for an option.
        """
        options = _options(keyframe_hz, preset, score_threshold, top_k, action_threshold, lookahead_ms, track_max_gap_s)
        if batch_size < 1:
            raise InputError("bad_option", "batch_size: must be 1 or more")
        return FileResults(self._runner, Path(path), options, batch_size=batch_size)

    def stream(
        self,
        *,
        keyframe_hz: float = 1.0,
        preset: Preset | None = None,
        score_threshold: float | None = None,
        top_k: int | None = None,
        action_threshold: float = 0.0,
        lookahead_ms: float | None = None,
        track_max_gap_s: float = 2.0,
    ) -> FrameStream:
        """A stream to ``feed`` with frames and their times, in a ``with`` block. Raises InputError for an option."""
        options = _options(keyframe_hz, preset, score_threshold, top_k, action_threshold, lookahead_ms, track_max_gap_s)
        return FrameStream(self._runner, options)


def _options(
    keyframe_hz: float,
    preset: Preset | None,
    score_threshold: float | None,
    top_k: int | None,
    action_threshold: float,
    lookahead_ms: float | None,
    track_max_gap_s: float,
) -> DetectOptions:
    try:
        return DetectOptions(
            **({} if score_threshold is None else {"score_threshold": score_threshold}),
            preset=preset,
            model=None,
            keyframe_hz=keyframe_hz,
            top_k=top_k,
            action_threshold=action_threshold,
            lookahead_ms=lookahead_ms,
            track_max_gap_s=track_max_gap_s,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("bad_option", f"{first['loc'][0]}: {first['msg']}") from None
