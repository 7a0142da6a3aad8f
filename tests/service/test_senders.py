"""One address's requests share what it may take of the event loop's time, over however many connections they come."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from uvicorn.server import ServerState
from websockets.asyncio.client import connect

from stmixer.service.access import Caller
from stmixer.service.api import connections, pulled
from stmixer.service.api.connections import HttpSocket, StreamSocket
from stmixer.service.api.entrance import Entrance
from stmixer.service.api.protocol import HAS_BEGUN
from stmixer.service.api.senders import (
    LIVE_SEEN_S,
    MOST_OF_AN_ANSWER_S,
    SENDER,
    SHARE_BESIDE_LIVE,
    SHARE_OF_ONE,
    STREAM_S,
    Bill,
    Sender,
    Senders,
    count_decoder,
)
from stmixer.service.api.server import bind
from stmixer.service.api.uploads import WaitingUploads, received_file
from stmixer.service.errors import InputError
from stmixer.service.key_file import Key
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import PullOrder
from stmixer.service.settings import Settings
from stmixer.service.sources.allowance import BURST_S

ABUSER, OTHER, PROXY = "127.0.0.2", "127.0.0.3", "127.0.0.1"
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class World:
    """A clock that goes by hand, or once it ``goes`` a second each time it is looked at, in which nobody owes anything
    for long; live streams that there are said to be; and senders by both."""

    def __init__(self) -> None:
        self.now, self.goes, self.live = 100.0, False, 0
        self.senders = Senders({PROXY}, lambda: self.live, self.clock)

    def clock(self) -> float:
        self.now += self.goes
        return self.now

    def of(self, address: str) -> Sender:
        sender = self.senders.of(address)
        assert sender is not None
        return sender

    def owing(self, seconds: float, address: str = ABUSER) -> Sender:
        """One that has to rest so many seconds of a loop's time."""
        sender = self.of(address)
        sender.spend(BURST_S + seconds)
        return sender


def test_one_address_has_less_beside_live_streams_that_are_not_its_own() -> None:
    assert (SHARE_OF_ONE, SHARE_BESIDE_LIVE) == (0.5, 0.05)  # half, and a twentieth, as docs/protocol.md promises
    world = World()
    for live, own, share in (
        (0, 0, SHARE_OF_ONE),
        (8, 0, SHARE_BESIDE_LIVE),
        (8, 8, SHARE_OF_ONE),
        (8, 7, SHARE_BESIDE_LIVE),
    ):
        world.now += 3600
        world.live, world.of(ABUSER).streams = live, own
        assert world.of(ABUSER).spend(BURST_S) == 0
        assert world.of(ABUSER).spend(0.01) == pytest.approx(0.01 / share)
    assert world.of(OTHER).spend(BURST_S) == 0  # which has nothing to do with it


def test_live_streams_are_looked_at_again() -> None:
    world = World()
    sender = world.owing(0.01)
    assert sender.spend(0) == pytest.approx(0.01 / SHARE_OF_ONE)
    world.live, world.now = 1, world.now + LIVE_SEEN_S
    sender.spend(BURST_S + 0.01)
    assert sender.spend(0) == pytest.approx(
        (0.01 + 0.01 + BURST_S - SHARE_BESIDE_LIVE * LIVE_SEEN_S) / SHARE_BESIDE_LIVE
    )


def test_who_comes_again_owes_what_it_owed() -> None:
    """A connection of its own for each request, and of IPv6 an address of its own."""
    world = World()
    world.owing(1, "2001:db8::1")
    gc.collect()
    assert not world.of("2001:db8::2").is_due
    assert world.of("2001:db8:0:1::1").is_due
    assert world.senders.of(PROXY) is None


def test_an_answer_that_goes_on_for_hours_is_none_of_the_next_ones() -> None:
    world = World()
    bill = Bill(world.of(ABUSER))
    for _ in range(1000):
        bill.add(0.01)
    assert world.of(ABUSER).spend(0) == 0
    assert world.of(ABUSER).spend(0.01) == pytest.approx((MOST_OF_AN_ANSWER_S - BURST_S + 0.01) / SHARE_OF_ONE)


def test_those_who_wait_go_on_one_after_the_other() -> None:
    """What the one costs is seen before the next one begins."""

    async def use() -> None:
        world, went = World(), list[int]()
        sender = world.owing(0.001)
        all_but_last = asyncio.Event()

        def costly(number: int) -> None:
            went.append(number)
            if number == 2:
                all_but_last.set()
                sender.spend(BURST_S)

        for number in range(4):
            sender.when_due(partial(costly, number))
        assert went == []
        world.now += 10
        sender.when_due(lambda: went.append(4))  # no sooner than those before it
        await all_but_last.wait()
        sender.spend(1)
        await asyncio.wait_for(world.of(OTHER).turn(), 60)
        assert went == [0, 1, 2]
        waiting = asyncio.ensure_future(sender.turn())
        await asyncio.sleep(0)
        world.now += 10
        await waiting
        assert went == [0, 1, 2, 3, 4]

    asyncio.run(use())


# -- behind our protocols


@asynccontextmanager
async def serving(world: World, app: Callable[..., Any]) -> AsyncIterator[tuple[int, set[Any]]]:
    """The port of an application, and its connections."""
    config = uvicorn.Config(app, lifespan="off", http=HttpSocket, ws=StreamSocket, log_config=None, access_log=False)
    config.load()
    state, loop, listening = ServerState(), asyncio.get_running_loop(), bind(Settings(port=0))
    server = await loop.create_server(partial(HttpSocket, config, state, {}, senders=world.senders), sock=listening)
    try:
        yield listening.getsockname()[1], state.connections
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)


class App:
    """Answers, and notes whom. ``costs``: what an answer takes of the abuser besides."""

    def __init__(self, world: World, costs: float = 0.0) -> None:
        self.world, self.costs, self.asked = world, costs, list[str]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        address = scope["client"][0]
        self.asked.append(address)
        if address == ABUSER:
            self.world.of(ABUSER).spend(self.costs)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def connected(port: int, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))


async def answers(reader: asyncio.StreamReader, count: int = 1) -> None:
    """That many came."""
    for _ in range(count):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(2) == b"ok"


async def others_are_answered(port: int, times: int = 20) -> None:
    """Round after round, in which all that is not held back would have its turn too: a proxy's, which owes nothing."""
    reader, writer = await connected(port, PROXY)
    for _ in range(times):
        writer.write(ASK)
        await answers(reader)
    writer.close()


def run(use: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(use(), 60))


def test_requests_that_came_at_once_wait_for_their_share() -> None:
    """Sixteen in one piece, on four connections: what is read already is not answered sooner than what is not."""

    async def use() -> None:
        world = World()
        app = App(world, costs=BURST_S)
        async with serving(world, app) as (port, _):
            flood = [await connected(port, ABUSER) for _ in range(4)]
            flood[0][1].write(ASK * 16)
            await answers(flood[0][0], 1)
            for _, writer in flood[1:]:
                writer.write(ASK * 16)
            await others_are_answered(port)
            assert app.asked.count(ABUSER) <= 2  # the first one, and one that its debt had not reached
            app.costs = 0
            world.goes = True
            for number, (reader, writer) in enumerate(flood):
                await answers(reader, 15 if number == 0 else 16)
                writer.close()
            assert app.asked.count(ABUSER) == 64

    run(use)


def test_a_connection_for_each_request_changes_nothing() -> None:
    async def use() -> None:
        world = World()
        app = App(world)
        world.owing(1)
        async with serving(world, app) as (port, _):
            flood = [await connected(port, ABUSER) for _ in range(20)]
            for _, writer in flood:
                writer.write(ASK)
            await others_are_answered(port)
            assert ABUSER not in app.asked
            world.goes = True
            for reader, writer in flood:
                await answers(reader)
                writer.close()

    run(use)


def test_those_who_are_sent_away_while_they_wait_are_not_answered() -> None:
    async def use() -> None:
        world = World()
        app, errors = App(world), list[Any]()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        world.owing(1)
        async with serving(world, app) as (port, inside):
            reader, writer = await connected(port, ABUSER)
            writer.write(ASK)
            await others_are_answered(port)
            for connection in list(inside):
                connection.shutdown()
            assert await reader.read() == b""
            last, asking = await connected(port, ABUSER)
            asking.write(ASK)
            await others_are_answered(port)
            world.goes = True
            await answers(last)
            asking.close()
            writer.close()
            assert (app.asked.count(ABUSER), errors) == (1, [])

    run(use)


@pytest.mark.parametrize("whole", [True, False])
def test_a_head_that_we_do_not_look_at_has_its_time_all_the_same(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)

    async def use() -> None:
        world = World()
        world.owing(1)
        async with serving(world, App(world)) as (port, _):
            reader, writer = await connected(port, ABUSER)
            writer.write(ASK if whole else ASK[:10])
            await others_are_answered(port, 1)
            for _ in range(2):  # twice as long as a head may take
                silent, closing = await connected(port, OTHER)
                assert await silent.read() == b""
                closing.close()
            world.goes = True
            if whole:
                await answers(reader)
            else:
                assert await reader.read() == b""
            writer.close()

    run(use)


def test_a_body_is_read_at_the_pace_of_its_address() -> None:
    """However many uploads there are; what a stream's messages take is the connection's own."""

    async def use() -> None:
        world, came, begun = World(), [0], asyncio.Event()

        async def takes(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            more = True
            while more:
                message = await receive()
                came[0] += len(message["body"])
                more = message["more_body"]
            await App(world)(scope, receive, send)

        async with serving(world, takes) as (port, _):
            reader, writer = await connected(port, ABUSER)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
            await begun.wait()
            world.owing(1)
            writer.write(bytes(9_000_000))
            first, asking = await connected(port, PROXY)
            for _ in range(50):
                asking.write(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                await answers(first)
            asking.close()
            assert came[0] <= 64 * 1024  # a read or two
            world.goes = True
            await answers(reader)
            assert came[0] == 9_000_000
            writer.close()

    run(use)


def test_a_stream_of_its_own_counts_once_and_its_messages_do_not() -> None:
    async def use() -> None:
        world, gone = World(), asyncio.Event()

        async def stream(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            for live in (True, True, False):
                scope["state"][HAS_BEGUN](live=live)
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            gone.set()

        async with serving(world, stream) as (port, _):
            sender = world.of(ABUSER)
            async with connect(f"ws://127.0.0.1:{port}/", local_addr=(ABUSER, 0), compression=None) as socket:
                await socket.send("first")
                assert await socket.recv() == "first"
                assert sender.streams == 1
                owed = sender.spend(BURST_S)
                assert owed * SHARE_OF_ONE >= STREAM_S
                for _ in range(200):
                    await socket.send("x" * 1000)
                    assert await socket.recv() == "x" * 1000
            await gone.wait()
            for _ in range(10_000):
                if sender.streams == 0:
                    break
                await asyncio.sleep(0)
            assert sender.streams == 0

    run(use)


# -- uploads


@pytest.mark.parametrize("body", [b"a video", b""])
def test_the_decoder_of_an_upload_counts_as_a_streams_does(body: bytes) -> None:
    async def use() -> None:
        world, caller = World(), Caller(None)
        sender, waiting = world.of(ABUSER), WaitingUploads(1, 2**30, Metrics())

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        request = Request({"type": "http", "headers": [], "state": {SENDER: sender}}, receive)
        with waiting.one_more(caller) as upload, contextlib.suppress(InputError):
            async with received_file(request, Settings(), caller, waiting, upload) as (file, _):
                assert file.read() == body
        assert upload.whole
        decoders = 1 if body else 0  # none meets nothing
        assert sender.spend(BURST_S) == pytest.approx(decoders * STREAM_S / SHARE_OF_ONE)

    asyncio.run(use())


@pytest.mark.parametrize("key", [None, Key(name="a", sha256="0" * 64, scopes=("stream",))])
def test_a_stream_that_is_fetched_counts_for_whoever_began_it_without_a_key(key: Key | None) -> None:
    async def use() -> None:
        sender = World().of(ABUSER)

        async def begin_pulled(_: Caller, __: PullOrder) -> SimpleNamespace:
            return SimpleNamespace(id="1", model_dump=lambda mode: {})

        scope = {"type": "http", "headers": [], "state": {SENDER: sender, "caller": Caller(key)}}
        service = SimpleNamespace(begin_pulled=begin_pulled)
        request = Request({**scope, "app": SimpleNamespace(state=SimpleNamespace(service=service))})
        assert (await pulled.begin(request, PullOrder(url="rtsp://cam/"))).status_code == 201
        decoders = 1 if key is None else 0
        assert sender.spend(BURST_S) == pytest.approx(decoders * STREAM_S / SHARE_OF_ONE)

    asyncio.run(use())


def test_a_connection_says_whose_request_it_is() -> None:
    async def use() -> None:
        world = World()
        app = App(world)

        async def decodes(scope: Any, receive: Any, send: Any) -> None:
            count_decoder(scope)
            await app(scope, receive, send)

        async with serving(world, decodes) as (port, _):
            for address in (ABUSER, PROXY):  # whose decoders are nobody's
                reader, writer = await connected(port, address)
                writer.write(ASK)
                await answers(reader)
                writer.close()
            assert world.of(ABUSER).spend(BURST_S) * SHARE_OF_ONE >= STREAM_S

    run(use)


# -- behind a proxy


def test_whom_a_proxy_asks_for_has_a_share_of_its_own() -> None:
    async def use() -> None:
        world = World()
        app = App(world)
        entrance = Entrance(app, PROXY, "", world.senders)

        async def ask(behind: str | None) -> None:
            async def send(message: Any) -> None: ...

            headers = [] if behind is None else [(b"x-forwarded-for", behind.encode())]
            scope = {"type": "http", "path": "/", "client": [PROXY, 1], "headers": headers}
            await entrance(scope, send, send)  # type: ignore[arg-type]

        world.owing(1, "10.0.0.9")
        waiting = asyncio.ensure_future(ask("10.0.0.9"))
        await asyncio.sleep(0)  # it begins
        for behind in ("10.0.0.8", None, "10.0.0.8"):
            await ask(behind)
        assert app.asked == ["10.0.0.8", PROXY, "10.0.0.8"]
        assert not waiting.done()
        world.goes = True
        await waiting
        assert app.asked[3:] == ["10.0.0.9"]

    run(use)


@pytest.mark.parametrize("live", [True, False])
def test_a_stream_behind_a_proxy_is_its_clients(live: bool) -> None:
    async def use() -> None:
        world, seen = World(), list[bool]()
        sender = world.of("10.0.0.9")

        async def stream(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(2):
                scope["state"][HAS_BEGUN](live=live)
            count_decoder(scope)
            assert sender.streams == int(live)
            raise ConnectionError

        async def nothing(_: Any = None) -> None: ...

        state = {HAS_BEGUN: lambda *, live: seen.append(live)}
        scope = {"type": "websocket", "path": "/", "client": [PROXY, 1], "state": state,
                 "headers": [(b"x-forwarded-for", b"10.0.0.9")]}  # fmt: skip
        with pytest.raises(ConnectionError):
            await Entrance(stream, PROXY, "", world.senders)(scope, nothing, nothing)  # type: ignore[arg-type]
        assert (sender.streams, seen) == (0, [live, live])
        assert sender.spend(BURST_S) * SHARE_OF_ONE >= (2 if live else 1) * STREAM_S

    run(use)
