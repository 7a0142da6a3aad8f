"""Bounded hand-over between a producer that must not wait and a consumer that may be slow."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

QUEUE_BYTES = 4 * 2**20
"""Media of one stream that may wait for its decoder before no more is read."""


class Closed(Exception):
    """The other side has closed the mailbox."""


class Mailbox(Generic[T]):
    """One slot, newest wins: ``put`` returns what it displaced."""

    def __init__(self) -> None:
        self._item: T | None = None
        self._closed = False
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, item: T) -> T | None:
        """Leave an item; the one that was still there is returned, to be counted as dropped."""
        displaced, self._item = self._item, item
        self._empty.clear()
        self._changed.set()
        return displaced

    def close(self) -> None:
        """No more items; one that is still there is given out first."""
        self._closed = True
        self._changed.set()

    async def get(self) -> T:
        """The next item. Raises Closed after the last."""
        while self._item is None:
            if self._closed:
                raise Closed
            self._changed.clear()
            await self._changed.wait()
        item, self._item = self._item, None
        self._empty.set()
        return item

    async def taken(self) -> None:
        """Until nothing is left in it."""
        await self._empty.wait()


class BoundedQueue(Generic[T]):
    """A queue bounded by the sum of its items' sizes: ``put`` waits while it is full."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._items: deque[tuple[T, int]] = deque()
        self._closed = False
        self._changed = asyncio.Condition()

    async def put(self, item: T, size: int) -> None:
        """Append, waiting for room. An item larger than the whole queue is let in when it is empty. Raises Closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or not self._items or self._size + size <= self._limit)
            if self._closed:
                raise Closed
            self._items.append((item, size))
            self._size += size
            self._changed.notify_all()

    async def close(self) -> None:
        """No more items; what is queued is still given out."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def get(self) -> T:
        """The next item. Raises Closed after the last."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or bool(self._items))
            if not self._items:
                raise Closed
            item, size = self._items.popleft()
            self._size -= size
            self._changed.notify_all()
            return item
