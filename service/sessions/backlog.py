"""What a stream has said last, numbered, for whoever follows it: now, or again after a pause."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

MOST = 512
"""Messages that are kept: minutes at one keyframe a second."""
MOST_CHARACTERS = 2 * 2**20
"""Of all that is kept: results of a crowd are large."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message: ``text`` is JSON with its ``type``, which is ``kind``; ``number`` counts from 1."""

    number: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Missing:
    """So many messages are gone that whoever follows has not seen."""

    count: int


class Backlog:
    """Bounded: whoever falls behind by more than is kept is told how much is missing."""

    def __init__(self, most: int = MOST, most_characters: int = MOST_CHARACTERS) -> None:
        self._kept, self._characters = deque[Said](), 0
        self._most, self._most_characters = most, most_characters
        self._next, self._closed = 1, False
        self._changed = asyncio.Event()

    def add(self, kind: str, text: str) -> None:
        """Say something."""
        self._kept.append(Said(self._next, kind, text))
        self._next += 1
        self._characters += len(text)
        while len(self._kept) > self._most or (self._characters > self._most_characters and len(self._kept) > 1):
            self._characters -= len(self._kept.popleft().text)
        self._wake()

    def close(self) -> None:
        """Nothing more will be said."""
        self._closed = True
        self._wake()

    async def follow(self, seen: int | None = None) -> AsyncGenerator[Said | Missing]:
        """What is said from now on; with ``seen`` what was said after that number, first. Ends when it is closed.

        A number that was never given is of another life: all that is kept comes then.
        """
        at = self._next if seen is None else seen + 1
        if at > self._next:
            at = self._next - len(self._kept)
        while True:
            changed, oldest = self._changed, self._next - len(self._kept)
            if at < oldest:
                yield Missing(oldest - at)
                at = oldest
            elif at < self._next:
                said = self._kept[at - oldest]
                at += 1
                yield said
            elif self._closed:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
