"""What ``auto`` is on a CPU where several runtimes could run a model: the fastest, measured once. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from stmixer.model.bundled import DEFAULT, bundled
from stmixer.model.card import CheckpointError, ModelCard, read_header
from stmixer.model.named import weights_named
from stmixer.model.onnx_files import graphs_of
from stmixer.model.runtimes.arrays import DeviceName
from stmixer.model.runtimes.choices import CandidateTimes, ChoiceFile
from stmixer.model.runtimes.choose import has_torch
from stmixer.model.runtimes.measure import LONGEST_S, Candidate, Trial, measured
from stmixer.model.runtimes.processor import processor

log = logging.getLogger("stmixer")

ONNX, EAGER, EAGER_BF16 = Candidate("onnx", "fp32"), Candidate("eager", "fp32"), Candidate("eager", "bf16")
MOST_MAP_LOST = 0.005
"""Of any validation set, for a precision to be chosen by itself."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
PACKAGES = ("stmixer", "onnxruntime-gpu", "onnxruntime", "torch")


@dataclass(frozen=True, slots=True)
class Won:
    """What runs, and why, as a clause. ``how``: the runtime and precision to ask ``open_runtime`` for."""

    candidate: Candidate
    why: str

    @property
    def how(self) -> tuple[str, str]:
        """Graphs by ``auto``, which has PyTorch step in where they turn out to be broken."""
        return ("auto", "fp32") if self.candidate == ONNX else (self.candidate.runtime, self.candidate.precision)


def contest(
    name: str | None,
    weights: Path | None,
    device: DeviceName,
    *,
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    tell: Callable[[str], None] = log.info,
) -> Won | None:
    """The arguments of ``open_runtime`` -> what to open; None where it is not ours to choose, or there is no choice.

    ``cache``: the folder where choices are kept. ``tell``: what is about to take its time, in words.
    Never raises: what is wrong with weights, opening them says.
    """
    if device.type != "cpu" or runtime != "auto" or precision not in ("auto", "fp32"):
        return None
    meant = weights if weights is not None else Path(DEFAULT if name is None else name)
    if meant.suffix == ".onnx" or (weights is None and str(meant) not in bundled()):
        return None
    try:
        card, digest = read_header(meant)
        found = [one for one in candidates(meant, card, digest) if precision in ("auto", one.precision)]
    except CheckpointError:
        return None
    if len(found) < 2:
        return None
    kept = None if cache is None else ChoiceFile(cache)
    key = _key(card, digest, found, threads)
    choice = None if kept is None else kept.read(key, found)
    if choice is None:
        names = ", ".join(map(str, found))
        tell(f"measuring what is fastest on this CPU, for {len(found) * LONGEST_S} s at most: {names}")
        trials = [(one, Trial(name, _text(weights), one.runtime, one.precision, threads)) for one in found]
        seconds = {one: took for one, trial in trials if (took := measured(trial)) is not None}
        if not seconds:
            return None
        choice = CandidateTimes(tuple(seconds.items()), tuple(one for one in found if one not in seconds))
        if kept is not None:
            kept.keep(key, choice)
    return Won(choice.best(), str(choice))


def candidates(weights: Path, card: ModelCard, digest: str) -> list[Candidate]:
    """What may run this file on this CPU, the lightest first. Raises CheckpointError."""
    if card.config.long_term is not None:
        return [EAGER]
    named = weights_named(weights)
    try:
        graphs = graphs_of(weights if named is None else named.file)
    except CheckpointError:  # of other weights: whoever opens them says so
        graphs = None
    found = [ONNX] if graphs is not None else []
    if has_torch():
        found.append(EAGER)
        if processor()[1] & BF16_FLAGS and map_lost(weights, card, digest).get("bf16", 1.0) <= MOST_MAP_LOST:
            found.append(EAGER_BF16)
    return found


def map_lost(weights: Path, card: ModelCard, digest: str) -> Mapping[str, float]:
    """What each precision was seen to lose at most of any validation set's mAP, against fp32; nothing is known of
    others. Of bundled weights the manifest says it, of other files ``map_lost`` in their card's metrics."""
    if (named := weights_named(weights)) is not None and named.lost_by is not None:
        return named.map_lost if named.lost_by == digest else {}
    lost: Any = (card.metrics or {}).get("map_lost")
    if not isinstance(lost, dict):
        return {}
    return {name: float(value) for name, value in lost.items() if isinstance(value, int | float)}


def _key(card: ModelCard, digest: str, found: list[Candidate], threads: int | None) -> str:
    """All that a figure rests on: weights, size of pictures, candidates, threads, processor, versions."""
    name, flags = processor()
    versions = [_version(package) for package in PACKAGES]
    rests_on = [digest, card.config.to_dict(), [str(one) for one in found], threads, name, sorted(flags), versions]
    return hashlib.sha256(json.dumps(rests_on, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
