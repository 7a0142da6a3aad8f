"""The weights that training starts from, and those it writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from stmixer.model.card import CheckpointError, ModelCard, read_header
from stmixer.model.checkpoint import load_exactly, read_tensors, save
from stmixer.model.config import DetectorConfig
from stmixer.model.detector import Detector, build
from stmixer.model.foreign.pretrained import read_pretrained
from stmixer.model.labels import Label
from stmixer.trainer.config.file import starts_elsewhere
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.sets import RunData
from stmixer.trainer.errors import TrainError
from stmixer.trainer.long_term.bank import QueryBank

log = logging.getLogger("stmixer.train")


def initial_detector(config: RunConfig, labels: Sequence[Label]) -> Detector:
    """The detector that training starts from.

    Raises:
        TrainError: a file of another variant, or, with ``classifier: keep``, of other labels.
    """
    wanted = config.detector(len(labels))
    detector = build(wanted, seed=config.init.seed)
    if config.init.weights is None and config.init.backbone is None:
        if (other := starts_elsewhere(config)) is not None:
            log.info(
                "model %s starts from nothing: the weights of preset %s are of %s", config.model, config.preset, other
            )
        return detector
    try:
        if config.init.weights is None:
            load_exactly(detector, detector.state_dict() | _pretrained(config, wanted))
            return detector
        card, _ = read_header(config.init.weights)
        theirs, ours = ((c.backbone.kind, c.backbone.map_channels) for c in (card.config, wanted))
        if theirs != ours:
            raise TrainError(
                f"init.weights: {config.init.weights.name} is of another variant than model {config.model}; name the "
                "model that it is of, other weights, or train from nothing with init: {weights: null}"
            )
        tensors = read_tensors(config.init.weights)
        if config.init.average_with is not None:
            tensors = _with_another(tensors, config.init.average_with, card)
        if config.init.backbone is not None:
            pretrained = _pretrained(config, wanted)
            for name, x in pretrained.items():
                if name not in tensors or tensors[name].shape != x.shape:
                    raise TrainError(
                        f"init.backbone: {config.init.weights} has no such {name}: it is of another variant"
                    )
            tensors |= _between(tensors, pretrained, 0.5)
        if config.init.classifier != "keep":
            names = [label.name for label in card.labels] if config.init.classifier == "matching" else []
            tensors |= _classifiers(tensors, names, detector, [label.name for label in labels])
        elif [label.name for label in card.labels] != [label.name for label in labels]:
            raise TrainError(f"{config.init.weights} has other labels; with init.classifier: new they are learned anew")
        load_exactly(detector, tensors)
    except CheckpointError as error:
        raise TrainError(str(error).splitlines()) from None
    return detector


def _classifiers(
    tensors: Mapping[str, Tensor], theirs: Sequence[str], detector: Detector, ours: Sequence[str]
) -> dict[str, Tensor]:
    """The action heads' last layers: rows of a file's tensors for the labels that it has, else the detector's own."""
    fresh = {name: x.clone() for name, x in detector.state_dict().items() if ".action_head.3." in name}
    for name, x in fresh.items():
        for row, label in enumerate(ours):
            if label in theirs:
                x[row] = tensors[name][theirs.index(label)].to(x)
    return fresh


def _pretrained(config: RunConfig, wanted: DetectorConfig) -> dict[str, Tensor]:
    """The tensors of ``init.backbone``. Raises CheckpointError."""
    assert config.init.backbone is not None
    pretrained = read_pretrained(config.init.backbone, wanted)
    for line in pretrained.report():
        log.info(f"{config.init.backbone.name}: {line}")
    return dict(pretrained.tensors)


def write_weights(
    path: Path,
    detector: Detector,
    first: Mapping[str, Tensor] | None,
    config: RunConfig,
    data: RunData,
    labels: Sequence[Label],
    *,
    trained: bool = True,
) -> None:
    """The trained detector as a self-describing file.

    Args:
        trained: what the file says of itself; False for one that finds nobody.
        first: the tensors it started from, where only ``mixing`` of the way from them is to be written.

    Raises:
        TrainError: the disk does not take it, or numbers have become none.
    """
    names = ", ".join(sorted({f"{source.split.name} ({len(source.split)} keyframes)" for source in data.train}))
    file = config.init.weights or config.init.backbone
    start = "initial weights" if file is None else file.name
    if config.init.average_with is not None:
        start = f"the mean of {start} and {config.init.average_with.name}"
    if config.init.weights is not None and config.init.backbone is not None:
        start = f"{start}, its backbone half-way to {config.init.backbone.name}"
    bank = None if config.bank is None else QueryBank(config.bank).card.digest
    card = ModelCard(
        replace(detector.config),
        tuple(labels),
        trained=trained,
        trained_on=names,
        licence=config.licence,
        source=f"stmixer-train fit, {config.epochs} epochs from {start}",
        bank_digest=bank,
    )
    last = {name: tensor.detach().cpu() for name, tensor in detector.state_dict().items()}
    try:
        save(path, last if first is None else _between(first, last, config.mixing), card)
    except CheckpointError as error:
        raise TrainError(str(error).splitlines()) from None


def _with_another(tensors: Mapping[str, Tensor], other: Path, card: ModelCard) -> dict[str, Tensor]:
    """The mean of two files' tensors. Raises TrainError unless both are of one network and its labels."""
    theirs, more = read_header(other)[0], read_tensors(other)
    if theirs.config != card.config or theirs.labels != card.labels or tensors.keys() != more.keys():
        raise TrainError(f"init.average_with: {other} is another variant or has other labels")
    return _between(tensors, more, 0.5)


def _between(first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """From one network's tensors a share of the way to the other's; counts are the last's."""
    return {
        name: first[name].float().lerp(end.float(), share) if end.is_floating_point() else end
        for name, end in last.items()
    }
