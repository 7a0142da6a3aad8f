"""Which replica has a stream: the coordinator is asked seldom, whoever asks, and however often."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from stmixer.service.cluster.owners import KEPT_S, MOST_A_SECOND, MOST_KNOWN, Owners, UnansweredError


class World:
    """A clock that goes by hand, and what the coordinator says, once it may answer."""

    def __init__(self) -> None:
        self.now, self.homes = 100.0, {7: "one", 8: "two"}
        self.asked = Counter[int]()
        self.answers = asyncio.Event()
        self.answers.set()
        self.is_there = True
        self.owners = Owners(self._ask, lambda: self.now)

    async def _ask(self, number: int) -> str | None:
        self.asked[number] += 1
        await self.answers.wait()
        if not self.is_there:
            raise UnansweredError
        return self.homes.get(number)


def played(act: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(act(World()), 20)

    asyncio.run(run())


def test_an_answer_counts_for_a_moment() -> None:
    async def act(world: World) -> None:
        for _ in range(5):
            assert await world.owners.of(7) == "one"
        assert world.asked == {7: 1}
        world.homes[7], world.now = "two", world.now + KEPT_S
        assert await world.owners.of(7) == "two"
        del world.homes[7]
        world.now += KEPT_S
        assert await world.owners.of(7) is None
        assert await world.owners.of(7) is None, "what is nowhere yet may be somewhere the next moment"
        assert world.asked == {7: 4}

    played(act)


def test_who_asks_at_once_asks_once_and_who_goes_away_ends_it_for_nobody() -> None:
    async def act(world: World) -> None:
        world.answers.clear()
        waiting = [asyncio.create_task(world.owners.of(7)) for _ in range(10)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        world.answers.set()
        assert await asyncio.gather(*waiting[1:]) == ["one"] * 9
        assert world.asked == {7: 1}

    played(act)


def test_what_was_known_is_good_enough_while_nobody_answers() -> None:
    async def act(world: World) -> None:
        assert await world.owners.of(7) == "one"
        world.is_there, world.now = False, world.now + KEPT_S
        assert (await world.owners.of(7), await world.owners.of(7)) == ("one", "one")
        assert await world.owners.of(8) is None
        world.is_there = True
        del world.homes[7]
        assert (await world.owners.of(7), await world.owners.of(8)) == (None, "two")

    played(act)


def test_a_flood_of_made_up_numbers_does_not_reach_the_coordinator() -> None:
    """And what was known of others stays good enough."""

    async def act(world: World) -> None:
        assert await world.owners.of(7) == "one"
        for number in range(1000, 6000):
            assert await world.owners.of(number) is None
        assert world.asked.total() == MOST_A_SECOND
        world.homes[7], world.now = "two", world.now + KEPT_S
        for number in range(6000, 9000):
            assert await world.owners.of(number) is None
        assert world.asked.total() == 2 * MOST_A_SECOND
        assert await world.owners.of(7) == "one", "as it was known last"
        assert await world.owners.of(8) is None
        world.now += KEPT_S
        assert (await world.owners.of(7), await world.owners.of(8)) == ("two", "two")

    played(act)


def test_so_many_are_known_at_most() -> None:
    async def act(world: World) -> None:
        world.homes = dict.fromkeys(range(MOST_KNOWN + 1), "one")
        for number in range(MOST_KNOWN + 1):
            world.now += 2 / MOST_A_SECOND
            assert await world.owners.of(number) == "one"
        assert list(world.owners._known) == list(range(1, MOST_KNOWN + 1))

    played(act)
