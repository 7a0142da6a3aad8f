"""The store, asked from the event loop: one thread does what it is asked, in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from stmixer.service.events.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """``do`` with methods of its ``store``, then ``close`` it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "events")

    async def do(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What that gives, once all that was asked before is done. Raises sqlite3.Error where the disk fails it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments, **named))

    async def close(self) -> None:
        """After all that was asked."""
        await self.do(self.store.close)
        self._thread.shutdown(wait=False)
