"""What a batch leaves for its streams besides its results: entries of query banks, scores of all actions, and looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stmixer.model.smoothing import ActionScores
from stmixer.service.engine.stream import Pending
from stmixer.service.ipc.messages import MessageError

SCORE, LOOK = np.dtype(np.float32), np.dtype(np.float16)

LONGEST = 1.01
"""Of a look, squared: rounded to half precision."""


@dataclass(frozen=True, slots=True)
class Left:
    """Of a keyframe: the entry for its stream's bank, empty where it has none; of its actors the scores of all actions,
    and (actors, 2D) unit vectors to tell them apart by, zero where nothing is known."""

    entry: bytes
    scores: ActionScores
    looks: NDArray[np.float16]


def left_of(
    keyframes: Sequence[Pending], people: Sequence[int], labels: tuple[int, ...], dim: int, payload: bytes
) -> list[Left]:
    """Take a worker's payload (``BatchDone``) apart, checked.

    Args:
        keyframes: those that ran.
        people: how many actors each of them has.
        labels: numbers of the model's actions, in its order.
        dim: of its queries.

    Raises:
        MessageError: bytes are missing or left over, a score is not one, or a look is longer than 1.
    """
    banks = [pending.stream.bank for pending in keyframes]
    sizes = [0 if bank is None else bank.entry_bytes for bank in banks]
    each, look = len(labels) * SCORE.itemsize, 2 * dim * LOOK.itemsize
    if len(payload) != sum(sizes) + sum(people) * (each + look):
        wanted = f"the query banks of {len(keyframes)} keyframes and the scores and looks of {sum(people)} actors"
        raise MessageError(f"{len(payload)} bytes for {wanted}")
    entries, start = list[bytes](), 0
    for size in sizes:
        entries.append(payload[start : start + size])
        start += size
    values = np.frombuffer(payload, SCORE, sum(people) * len(labels), start).reshape(-1, len(labels))
    looks = np.frombuffer(payload, LOOK, offset=start + sum(people) * each).reshape(-1, 2 * dim)
    if not ((values >= 0) & (values <= 1)).all():
        raise MessageError("scores of actions that are not from 0 to 1")
    if not (np.square(looks, dtype=np.float32).sum(1) <= LONGEST).all():
        raise MessageError("looks of people that are longer than 1")
    return [
        Left(entry, ActionScores(labels, values[end - n : end]), looks[end - n : end])
        for entry, end, n in zip(entries, np.cumsum(people), people, strict=True)
    ]
