"""Several seats: who sits where, and what becomes of the streams of one that loses its worker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import cast

import pytest
from pydantic import ValidationError
from test_engine import NO_SECONDS, OPENED, TINY, Played
from test_stream import Camera

from stmixer.service.engine.engine import MOVED_AFTER_S, Engine
from stmixer.service.engine.stream import Policy
from stmixer.service.engine.worker import WeightsSource, Worker, worker_options
from stmixer.service.errors import CapacityError
from stmixer.service.ipc.channel import ChannelError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import AttachRing, BatchDone, DetachRing, RunBatch, WindowsCopied
from stmixer.service.metrics import Metrics
from stmixer.service.places import Place, places_of
from stmixer.service.settings import Settings


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("auto", [Place("auto")]),
        ("cuda:1", [Place("cuda:1")]),
        ("cuda:0, cuda:1", [Place("cuda:0"), Place("cuda:1")]),
        ("cuda,cpu", [Place("cuda"), Place("cpu")]),
        ("cpu,cpu", [Place("cpu", (0, 2)), Place("cpu", (3, 4, 7))]),
        ("cpu,cuda:0,cpu,cpu", [Place("cpu", (0,)), Place("cuda:0"), Place("cpu", (2, 3)), Place("cpu", (4, 7))]),
    ],
)
def test_a_list_of_devices_is_a_place_each(devices: str, expected: list[Place]) -> None:
    assert list(places_of(devices, (0, 2, 3, 4, 7))) == expected


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        ("cpu,cpu,cpu", "3 workers on the CPU, and 2 cores"),
        ("cuda:0,cuda", "stands twice"),
        ("cuda:1,cuda:1", "stands twice"),
        ("auto,cpu", "'auto' cannot stand in a list"),
        ("cpu,", "'' cannot stand in a list"),
        ("cpu,mps", "'mps' cannot stand in a list"),
    ],
)
def test_a_list_that_means_nothing_is_refused_in_words(devices: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        places_of(devices, (0, 1))


def test_settings_refuse_it_before_anything_starts() -> None:
    with pytest.raises(ValidationError, match="'disk' cannot stand in a list"):
        Settings(device="cpu,disk")


def test_a_worker_keeps_to_the_cores_of_its_place() -> None:
    options = worker_options(Settings(), WeightsSource(None, None), Place("cpu", (3, 5, 6)))
    assert (options.device, options.threads, options.cores) == ("cpu", 3, (3, 5, 6))


@dataclass
class Row:
    """An engine with seats, each with a worker that is played."""

    engine: Engine
    played: list[Played]

    async def opened(self, policy: Policy = "latest", hz: float = 1.0) -> Camera:
        """A camera whose stream has a ring."""
        camera = Camera(policy, hz=hz, opened=False)
        camera.stream.id = self.engine.entry.admit(policy, hz)
        self.engine.add(camera.stream)
        await self.engine.opened(camera.stream, OPENED)
        return camera

    def sat(self) -> list[list[int]]:
        """The ids of each seat's streams."""
        return [sorted(seat.streams) for seat in self.engine.seats]

    def dies(self, number: int) -> None:
        """A seat loses its worker in service, as its supervisor tells."""
        seat = self.engine.seats[number]
        worker, seat.worker = seat.worker, None
        assert worker is not None
        self.engine._on_death(seat, worker, worker.batch)


def acted(act: Callable[[Row], Awaitable[None]], capacities: tuple[int, ...] = (20, 20)) -> None:
    async def run() -> None:
        devices = ",".join(f"cuda:{number}" for number in range(len(capacities)))
        settings = Settings(batch_wait_ms=0, device=devices)
        engine, played = Engine(settings, Metrics()), [Played() for _ in capacities]
        for seat, stand_in, capacity in zip(engine.seats, played, capacities, strict=True):
            seat.worker, seat.model = Worker(seat.name, cast(Child, stand_in), TINY, {1: 0.1}), TINY
            seat.capacity = capacity
        await act(Row(engine, played))
        for seat in engine.seats:
            seat.worker = None
        for stream in list(engine.streams.values()):
            engine.remove(stream)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(
    ("capacities", "expected"), [((20, 20), (4, 4)), ((20, 23), (4, 4)), ((10, 40), (2, 6)), ((9, 9, 9), (3, 3, 2))]
)
def test_streams_spread_by_room(capacities: tuple[int, ...], expected: tuple[int, ...]) -> None:
    async def act(row: Row) -> None:
        for _ in range(8):
            await row.opened()
        assert tuple(len(streams) for streams in row.sat()) == expected
        for seat, played in zip(row.sat(), row.played, strict=True):
            assert [order.stream for order in played.orders if isinstance(order, AttachRing)] == seat
        for number, many in enumerate(expected):
            labels = {"worker": str(number)}
            assert row.engine.metrics.registry.get_sample_value("stmixer_seat_streams", labels) == many
            assert row.engine.metrics.registry.get_sample_value("stmixer_seat_capacity", labels) == capacities[number]

    acted(act, capacities)


def test_a_heavy_stream_counts_for_what_it_takes() -> None:
    async def act(row: Row) -> None:
        await row.opened(hz=8.0)
        for _ in range(3):
            await row.opened()
        assert row.sat() == [[1], [2, 3, 4]]

    acted(act)


def test_each_seat_has_room_for_itself() -> None:
    """Two seats of five: nobody finds room for 6 keyframes a second, though three and three are free."""

    async def act(row: Row) -> None:
        for hz in (2.0, 2.0, 1.0, 1.0):
            await row.opened(hz=hz)
        assert row.engine.entry.capacity == 10
        assert row.engine.entry.has_room("latest", 2.0)
        assert not row.engine.entry.has_room("latest", 3.0)
        with pytest.raises(CapacityError):
            row.engine.entry.admit("latest", 3.0)
        assert row.engine.entry.has_room("latest", 4.0, besides=[1])

    acted(act, (5, 5))


def test_a_seat_without_a_worker_takes_nobody() -> None:
    async def act(row: Row) -> None:
        row.dies(0)
        assert row.engine.entry.capacity == 20
        for _ in range(3):
            await row.opened()
        assert row.sat() == [[], [1, 2, 3]]
        assert row.engine.metrics.registry.get_sample_value("stmixer_seat_capacity", {"worker": "0"}) == 0

    acted(act)


def test_both_seats_are_given_work_in_one_round_and_only_of_their_own() -> None:
    async def act(row: Row) -> None:
        for _ in range(4):
            list((await row.opened("all")).run(1.0))
        await row.engine.step(10.0)
        given = [
            [job.stream for o in played.orders if isinstance(o, RunBatch) for job in o.jobs] for played in row.played
        ]
        assert [sorted(streams) for streams in given] == row.sat() == [[1, 3], [2, 4]]

    acted(act)


def test_the_streams_of_a_seat_that_stays_empty_go_to_the_others_and_run_there() -> None:
    async def act(row: Row) -> None:
        cameras = [await row.opened("all") for _ in range(4)]
        for camera in cameras:
            list(camera.run(1.0))
        await row.engine.step(time.monotonic())
        row.dies(0)
        left_at = time.monotonic()
        seat = row.engine.seats[0]
        assert seat.empty_since is not None
        assert abs(seat.empty_since - left_at) < 1
        assert await row.engine.step(seat.empty_since + 1) == pytest.approx(seat.empty_since + MOVED_AFTER_S)
        assert row.sat() == [[1, 3], [2, 4]]
        played = row.played[1]
        before = len(played.orders)
        await row.engine.step(seat.empty_since + MOVED_AFTER_S)
        assert row.sat() == [[], [1, 2, 3, 4]]
        assert [type(order) for order in played.orders[before:]] == [AttachRing, AttachRing]
        await _runs(row, 1)
        ran = Counter(job.stream for o in played.orders if isinstance(o, RunBatch) for job in o.jobs)
        assert set(ran) >= {1, 3}, "what died with the batch runs again at the other seat"
        for camera in cameras:
            summary = camera.stream.summary
            settled = summary.ok + summary.superseded + summary.deadline + summary.cancelled + summary.pending
            assert (settled, summary.error, summary.worker_lost) == (summary.keyframes_due, 0, 0)

    acted(act)


def test_streams_stay_where_a_spare_takes_over_in_time() -> None:
    async def act(row: Row) -> None:
        for _ in range(4):
            await row.opened()
        row.dies(0)
        seat = row.engine.seats[0]
        spare = Played()
        seat.spare = Worker("0", cast(Child, spare), TINY, {1: 0.1})
        await seat.promote()
        assert seat.empty_since is None
        await row.engine.step(time.monotonic() + 2 * MOVED_AFTER_S)
        assert row.sat() == [[1, 3], [2, 4]]
        assert [order.stream for order in spare.orders if isinstance(order, AttachRing)] == [1, 3]

    acted(act)


def test_nobody_moves_where_there_is_nowhere_to_go() -> None:
    async def act(row: Row) -> None:
        for _ in range(4):
            await row.opened()
        row.dies(0)
        row.dies(1)
        await row.engine.step(time.monotonic() + 2 * MOVED_AFTER_S)
        assert row.sat() == [[1, 3], [2, 4]]

    acted(act)


def test_a_worker_that_takes_over_forgets_a_stream_that_went_meanwhile() -> None:
    async def act(row: Row) -> None:
        one, two = [await row.opened() for _ in range(2)]
        seat = row.engine.seats[0]
        assert sorted(seat.streams) == [one.stream.id]

        class Slow(Played):
            async def send(self, message: object, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
                await super().send(message, payload, fds)
                if isinstance(message, AttachRing):
                    row.engine.remove(one.stream)

        row.dies(0)
        spare = Slow()
        seat.spare = Worker("0", cast(Child, spare), TINY, {1: 0.1})
        await seat.promote()
        await asyncio.sleep(0)
        assert [type(order) for order in spare.orders] == [AttachRing, DetachRing]
        assert sorted(row.engine.streams) == [two.stream.id]

    acted(act)


@pytest.mark.parametrize("opens", [True, False])
def test_a_worker_that_takes_over_has_the_ring_of_who_has_a_number_now(opens: bool) -> None:
    """And before that one's ring nothing of who had it before."""

    async def act(row: Row) -> None:
        one, other = (await row.opened()).stream, Camera("latest", opened=False).stream
        seat = row.engine.seats[0]
        other.id = one.id

        class Slow(Played):
            async def send(self, message: object, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
                await super().send(message, payload, fds)
                if row.engine.streams[one.id] is one:
                    row.engine.remove(one)
                    row.engine.add(other)
                    if opens:
                        await row.engine.opened(other, replace(OPENED, input_width=OPENED.input_width + 32))

        row.dies(0)
        row.dies(1)
        spare = Slow()
        seat.spare = Worker("0", cast(Child, spare), TINY, {1: 0.1})
        await seat.promote()
        await asyncio.sleep(0)
        first, gone, *then = spare.orders
        assert isinstance(first, AttachRing)
        assert gone == DetachRing(one.id)
        widths = [order.width for order in then if isinstance(order, AttachRing)]
        assert widths == [OPENED.input_width + 32] * opens
        assert len(then) == opens

    acted(act)


def test_a_seat_whose_worker_is_gone_as_a_stream_comes_to_it_loses_nothing() -> None:
    async def act(row: Row) -> None:
        class Gone(Played):
            async def send(self, message: object, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
                raise ChannelError("gone")

        row.engine.seats[0].worker = Worker("0", cast(Child, Gone()), TINY, {1: 0.1})
        await row.opened()
        row.dies(0)
        spare = Played()
        seat = row.engine.seats[0]
        seat.spare = Worker("0", cast(Child, spare), TINY, {1: 0.1})
        await seat.promote()
        assert [order.stream for order in spare.orders if isinstance(order, AttachRing)] == [1]

    acted(act)


async def _runs(row: Row, number: int) -> None:
    """A seat's worker runs what it is given, until there is nothing more."""
    seat, played, done = row.engine.seats[number], row.played[number], 0
    worker = seat.worker
    assert worker is not None
    at = time.monotonic() + 3 * MOVED_AFTER_S
    while (batch := worker.batch) is not None and done < 20:
        ids = batch.id
        assert [o.id for o in played.orders if isinstance(o, RunBatch)][-1] == ids
        row.engine._copied(batch, WindowsCopied(ids, ()))
        row.engine.finish(seat, worker, batch, BatchDone(ids, ((),) * len(batch.keyframes), NO_SECONDS, 0), b"")
        await row.engine.step(at)
        done += 1
