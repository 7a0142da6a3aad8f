"""A replica's side of the coordinator: it asks what to fetch, and sees to that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError

from stmixer.service.cluster.coordinator import BEGIN_S, Joined, ToFetch
from stmixer.service.cluster.orders import Order, PullRefusal
from stmixer.service.cluster.placing import LEASE_S
from stmixer.service.errors import CapacityError, StmixerError

log = logging.getLogger("stmixer.cluster")

RETRY_S = 0.25
SIGN_S = 1.25
"""So long after the last answer it leaves a sign, and as often: a question is answered within a second."""
ALONE_S = 60.0
"""So long it goes on by its signs alone: what was ended meanwhile it has not heard of."""
ANSWER_S = 3.0
"""So long a request waits for the coordinator."""


class Fetching(Protocol):
    """What a member does with what it is told."""

    @property
    def fetched(self) -> frozenset[int]:
        """Numbers of the streams that were placed here and run."""
        ...

    @property
    def over(self) -> frozenset[int]:
        """Those of them that have come to their end."""
        ...

    @property
    def others(self) -> int:
        """Streams that run besides."""
        ...

    @property
    def capacity(self) -> int:
        """Streams that there is room for, in all."""
        ...

    @property
    def late(self) -> bool:
        """Whether keyframes are too old when they are told: others get what comes."""
        ...

    async def fetch(self, order: Order) -> str:
        """Begin with one; what it is then, as JSON. Raises StmixerError."""
        ...

    async def end(self, number: int, *, moves: bool) -> None:
        """End one here; ``moves``: it goes on elsewhere."""
        ...


class Member:
    """``find`` gives the coordinator's handle, ``actor`` is our own; ``leave_sign`` says in Ray's store that we are
    there, and raises where that does not answer; ``filed``: what ``--streams`` says here, in this ``deployment``."""

    def __init__(
        self,
        name: str,
        find: Callable[[], Awaitable[Any]],
        actor: Any,
        leave_sign: Callable[[], Awaitable[None]],
        filed: dict[str, str],
        deployment: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._find, self._actor, self._leave_sign, self._clock = find, actor, leave_sign, clock
        self._filed, self._deployment = filed, deployment
        self._coordinator: Any = None
        self._number: int | None = None
        self._answered_at = clock()
        """When the last question was asked that was answered: the coordinator has heard it then or later."""
        self._heard_at = self._signed_at = self._answered_at
        """When the last answer came; when we left the last sign, or before."""
        self._beginning: dict[int, asyncio.Task[None]] = {}
        self._ending: dict[int, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._left = False

    async def join(self) -> Joined:
        """Tell that we are there."""
        joined: Joined
        self._answered_at, joined = await self._timed(
            "join", self.name, self._actor, self._filed, self._deployment, self._number
        )
        self._number = joined.number
        return joined

    def start(self, fetching: Fetching) -> None:
        """See to it from now on."""
        work = self._follow(fetching), self._fence(fetching), self._sign(fetching)
        self._tasks = [asyncio.create_task(one) for one in work]

    async def leave(self, fetching: Fetching) -> None:
        """Fetch nothing more, and have others do it."""
        if self._left:
            return
        self._left = True
        await self._end_tasks()
        for number in fetching.fetched:
            self._end(fetching, number, moves=True)
        await asyncio.gather(*self._ending.values(), return_exceptions=True)
        with contextlib.suppress(RayError, TimeoutError):
            async with asyncio.timeout(LEASE_S):
                await self._said("leave", self.name)

    async def place(self, text: str, owner: str) -> PullRefusal | str:
        """Have a stream fetched, here or elsewhere. Raises CapacityError where the coordinator is not there."""
        # by a name of its own: asked again after an error it is the same stream
        answer: PullRefusal | str = await self._asked(BEGIN_S + 5, "place", uuid.uuid4().hex, text, owner)
        return answer

    async def change(self, number: int, text: str) -> bool:
        """One that we fetch is to be another order wherever it goes; False where we should not fetch it. Raises
        CapacityError."""
        changed: bool = await self._asked(ANSWER_S, "change", self.name, number, text)
        return changed

    async def forget(self, number: int, owner: str, *, sees_all: bool) -> bool:
        """End a stream of this owner for good; False where there is none. Raises CapacityError."""
        known: bool = await self._asked(ANSWER_S, "forget", number, owner, sees_all)
        return known

    async def knows(self, number: int, owner: str, *, sees_all: bool) -> bool:
        """Whether a stream of this owner is to be fetched by anybody. Raises CapacityError."""
        known: bool = await self._asked(ANSWER_S, "knows", number, owner, sees_all)
        return known

    async def placed(self, owner: str, *, sees_all: bool) -> tuple[Order, ...]:
        """All that is to be fetched of this owner. Raises CapacityError."""
        orders: tuple[Order, ...] = await self._asked(ANSWER_S, "placed", owner, sees_all)
        return orders

    async def _follow(self, fetching: Fetching) -> None:
        seen = -1
        while True:
            try:
                how = fetching.others, fetching.capacity, seen, tuple(fetching.over), fetching.late
                asked, wanted = await self._timed("ask", self.name, *how)
                if not wanted.known:
                    await self.join()
                    continue
                self._answered_at, self._heard_at, seen = asked, self._clock(), wanted.version
                self._be_as(fetching, wanted)
            except Exception:  # whatever it was, it is asked again
                log.exception("what to fetch")
                await asyncio.sleep(RETRY_S)

    def _be_as(self, fetching: Fetching, told: ToFetch) -> None:
        """Begin and end what has to. It waits for nothing: while a stream takes long others are seen to."""
        wanted = {order.number: order for order in told.orders}
        for number in self._beginning.keys() - wanted.keys():
            self._ending[number] = task = self._beginning.pop(number)
            task.cancel()
            task.add_done_callback(partial(self._ended, number))
        for number in fetching.fetched - wanted.keys():
            self._end(fetching, number, moves=False)
        for number in wanted.keys() - fetching.fetched - self._beginning.keys():
            self._beginning[number] = asyncio.create_task(self._begin(fetching, wanted[number]))

    def _end(self, fetching: Fetching, number: int, *, moves: bool) -> None:
        if number not in self._ending:
            self._ending[number] = task = asyncio.create_task(fetching.end(number, moves=moves))
            task.add_done_callback(partial(self._ended, number))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        if self._ending.get(number) is task:
            del self._ending[number]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("stream %d does not end well", number, exc_info=error)

    async def _begin(self, fetching: Fetching, order: Order) -> None:
        try:
            if (ending := self._ending.get(order.number)) is not None:  # what it was here before
                await asyncio.wait([ending])
            running = await fetching.fetch(order)
            if not await self._said("began", self.name, order.number, running):
                self._end(fetching, order.number, moves=True)
        except StmixerError as error:
            log.warning("stream %d does not begin here: %s", order.number, error)
            await self._said("refused", self.name, order.number, PullRefusal.of(error))
        except Exception:
            log.exception("stream %d does not begin", order.number)
            why = PullRefusal("internal", "this replica could not begin it; the log says why", 503, 5)
            await self._said("refused", self.name, order.number, why)
        finally:
            if self._beginning.get(order.number) is asyncio.current_task():
                del self._beginning[order.number]

    async def _fence(self, fetching: Fetching) -> None:
        """Whom the coordinator knows nothing of it takes for gone, and has others fetch what they did."""
        while True:
            await asyncio.sleep(RETRY_S)
            if self._clock() - max(self._answered_at, self._signed_at) > LEASE_S and fetching.fetched:
                log.warning("the coordinator has not heard of us for %.0f s: what we fetch ends here", LEASE_S)
                for number in fetching.fetched:
                    self._end(fetching, number, moves=True)

    async def _sign(self, fetching: Fetching) -> None:
        """While it does not answer, say where it looks that we are there: it may have died, and comes back."""
        while True:
            await asyncio.sleep(RETRY_S)
            now = self._clock()
            due = now - max(self._heard_at, self._signed_at) >= SIGN_S
            if not (due and now - self._heard_at <= ALONE_S and fetching.fetched):
                continue
            try:
                await self._leave_sign()
                self._signed_at = now
            except Exception:  # Ray's store is not there either, for whatever reason
                log.exception("nobody hears that we are there")

    async def _asked(self, seconds: float, verb: str, *arguments: Any) -> Any:
        """Its answer, to somebody who waits for it. Raises CapacityError."""
        try:
            async with asyncio.timeout(seconds):
                return await self._said(verb, *arguments)
        except TimeoutError:
            raise CapacityError("coordinator", "the coordinator does not answer; try again later", 503, 2) from None

    async def _said(self, verb: str, *arguments: Any) -> Any:
        """Its answer, whenever it is there again."""
        return (await self._timed(verb, *arguments))[1]

    async def _timed(self, verb: str, *arguments: Any) -> tuple[float, Any]:
        """When it was asked what it answers, and the answer."""
        while True:
            try:
                if self._coordinator is None:
                    self._coordinator = await self._find()
                asked = self._clock()
                return asked, await getattr(self._coordinator, verb).remote(*arguments)
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
