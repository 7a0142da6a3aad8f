"""What a batch leaves for its streams besides its results: entries of query banks, and scores of all actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stmixer.model.smoothing import ActionScores
from stmixer.service.engine.stream import Pending
from stmixer.service.ipc.messages import MessageError

SCORE = np.dtype(np.float32)


def left_of(
    keyframes: Sequence[Pending], people: Sequence[int], labels: tuple[int, ...], payload: bytes
) -> tuple[list[bytes], list[ActionScores]]:
    """Take a worker's payload (``BatchDone``) apart, checked.

    Args:
        keyframes: those that ran.
        people: how many actors each of them has.
        labels: numbers of the model's actions, in its order.

    Returns:
        Of each keyframe the entry for its stream's bank, empty where it has none, and the scores of its actors.

    Raises:
        MessageError: bytes are missing or left over, or a score is not one.
    """
    banks = [pending.stream.bank for pending in keyframes]
    sizes = [0 if bank is None else bank.entry_bytes for bank in banks]
    each = len(labels) * SCORE.itemsize
    if len(payload) != sum(sizes) + sum(people) * each:
        wanted = f"the query banks of {len(keyframes)} keyframes and the scores of {sum(people)} actors"
        raise MessageError(f"{len(payload)} bytes for {wanted}")
    entries, start = list[bytes](), 0
    for size in sizes:
        entries.append(payload[start : start + size])
        start += size
    values = np.frombuffer(payload, SCORE, offset=start).reshape(-1, len(labels))
    if not ((values >= 0) & (values <= 1)).all():
        raise MessageError("scores of actions that are not from 0 to 1")
    ends = np.cumsum(people)
    return entries, [ActionScores(labels, values[end - n : end]) for end, n in zip(ends, people, strict=True)]
