"""A replica's side of the coordinator: it asks what to fetch, and sees to that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError

from stmixer.service.cluster.coordinator import Joined, ToFetch
from stmixer.service.cluster.placing import LEASE_S, Order, PullRefusal
from stmixer.service.errors import StmixerError

log = logging.getLogger("stmixer.cluster")

RETRY_S = 0.25


class Fetching(Protocol):
    """What a member does with what it is told."""

    @property
    def fetched(self) -> frozenset[int]:
        """Numbers of the streams that were placed here and run."""
        ...

    @property
    def others(self) -> int:
        """Streams that run besides."""
        ...

    @property
    def capacity(self) -> int:
        """Streams that there is room for, in all."""
        ...

    async def fetch(self, order: Order) -> str:
        """Begin with one; what it is then, as JSON. Raises StmixerError."""
        ...

    async def end(self, number: int) -> None:
        """End one."""
        ...


class Member:
    """``find`` gives the coordinator's handle, ``actor`` is our own; ``filed``: what ``--streams`` says here."""

    def __init__(
        self,
        name: str,
        find: Callable[[], Awaitable[Any]],
        actor: Any,
        filed: dict[str, str] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._find, self._actor, self._filed, self._clock = find, actor, filed, clock
        self._coordinator: Any = None
        self._number: int | None = None
        self._answered_at = clock()
        self._beginning: dict[int, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._left = False

    async def join(self) -> Joined:
        """Tell that we are there."""
        joined: Joined = await self._said("join", self.name, self._actor, self._filed, self._number)
        self._answered_at, self._number = self._clock(), joined.number
        return joined

    def start(self, fetching: Fetching) -> None:
        """See to it from now on."""
        self._tasks = [asyncio.create_task(self._follow(fetching)), asyncio.create_task(self._fence(fetching))]

    async def leave(self, fetching: Fetching) -> None:
        """Fetch nothing more, and have others do it."""
        if self._left:
            return
        self._left = True
        await self._end_tasks()
        await asyncio.gather(*(fetching.end(number) for number in fetching.fetched))
        with contextlib.suppress(RayError, TimeoutError):
            async with asyncio.timeout(LEASE_S):
                await self._said("leave", self.name)

    async def place(self, text: str, owner: str) -> PullRefusal | str:
        """Have a stream fetched, here or elsewhere."""
        answer: PullRefusal | str = await self._said("place", text, owner)
        return answer

    async def forget(self, number: int) -> None:
        """End a stream for good."""
        await self._said("forget", number)

    async def knows(self, number: int) -> bool:
        """Whether a stream is to be fetched by anybody."""
        known: bool = await self._said("knows", number)
        return known

    async def _follow(self, fetching: Fetching) -> None:
        seen = -1
        while True:
            try:
                wanted: ToFetch = await self._said("ask", self.name, fetching.others, fetching.capacity, seen)
                if not wanted.known:
                    await self.join()
                    continue
                self._answered_at, seen = self._clock(), wanted.version
                await self._be_as(fetching, wanted.orders)
            except Exception:  # whatever it was, it is asked again
                log.exception("what to fetch")
                await asyncio.sleep(RETRY_S)

    async def _be_as(self, fetching: Fetching, orders: tuple[Order, ...]) -> None:
        wanted = {order.number: order for order in orders}
        for number, task in list(self._beginning.items()):
            if number not in wanted:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(fetching.end(number) for number in fetching.fetched - wanted.keys()))
        for number in wanted.keys() - fetching.fetched - self._beginning.keys():
            self._beginning[number] = asyncio.create_task(self._begin(fetching, wanted[number]))

    async def _begin(self, fetching: Fetching, order: Order) -> None:
        try:
            running = await fetching.fetch(order)
            if not await self._said("began", self.name, order.number, running):
                await fetching.end(order.number)
        except StmixerError as error:
            log.warning("stream %d does not begin here: %s", order.number, error)
            await self._said("refused", self.name, order.number, PullRefusal.of(error))
        except Exception:
            log.exception("stream %d does not begin", order.number)
            why = PullRefusal("internal", "this replica could not begin it; the log says why", 503, 5)
            await self._said("refused", self.name, order.number, why)
        finally:
            del self._beginning[order.number]

    async def _fence(self, fetching: Fetching) -> None:
        """Whom the coordinator does not answer it takes for gone, and has others fetch what they did."""
        while True:
            await asyncio.sleep(RETRY_S)
            if self._clock() - self._answered_at > LEASE_S and fetching.fetched:
                log.warning("the coordinator has not answered for %.0f s: what we fetch ends here", LEASE_S)
                await asyncio.gather(*(fetching.end(number) for number in fetching.fetched))

    async def _said(self, verb: str, *arguments: Any) -> Any:
        """Its answer, whenever it is there again."""
        while True:
            try:
                if self._coordinator is None:
                    self._coordinator = await self._find()
                return await getattr(self._coordinator, verb).remote(*arguments)
            except RayTaskError:  # it answers, with an error
                raise
            except RayError as error:
                log.warning("the coordinator does not answer (%s), asked again", type(error).__name__)
                self._coordinator = None
                await asyncio.sleep(RETRY_S)

    async def _end_tasks(self) -> None:
        tasks = [*self._tasks, *self._beginning.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
