"""Nobody takes the connections from the others: how many there may be, who goes, and who reads nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from conftest import OWN_CLIPS
from posting import eventually, post
from serving import Server, running_server
from uvicorn.server import ServerState
from ws_client import Client, jpeg, plain_socket

from stmixer.service.api import paced
from stmixer.service.api.connections import HttpSocket, StreamSocket
from stmixer.service.api.doorway import Doing, Doorway, Seldom, raise_descriptor_limit, tell_in_a_line
from stmixer.service.api.protocol import HAS_BEGUN
from stmixer.service.api.server import bind, doorway
from stmixer.service.settings import Settings

SILENT = 300
DESCRIPTORS = 256


class Guest:
    """A connection that does as it is told."""

    def __init__(self, address: str, doing: Doing = Doing.NOTHING_YET) -> None:
        self.address, self.doing, self.gone = address, doing, False

    def leave(self) -> None:
        self.gone = True


def test_who_has_never_asked_goes_first_and_who_is_answered_stays() -> None:
    door = Doorway(4, 4)
    busy, idle, silent, later = guests = [
        Guest("a", Doing.ASKING), Guest("b", Doing.BETWEEN), Guest("c"), Guest("d"),
    ]  # fmt: skip
    assert all(door.enter(guest) for guest in guests)
    for goes in (silent, later, idle):
        assert door.enter(Guest("e", Doing.ASKING))
        assert [guest.gone for guest in guests] == [g in (silent, later, idle)[: 1 + (silent, later, idle).index(goes)]
                                                    for g in guests]  # fmt: skip
    assert not door.enter(Guest("f"))
    assert not busy.gone
    door.left(busy)
    door.left(busy)
    door.left(silent)  # it has been let go of already
    assert door.enter(Guest("f"))
    assert door.enter(Guest("g"))  # for f, which has asked nothing yet


@pytest.mark.parametrize(("address", "let_in"), [("10.0.0.1", 2), ("192.0.2.1", 5), ("10.0.0.2", 2)])
def test_one_address_has_its_share_and_proxies_have_all(address: str, let_in: int) -> None:
    door = Doorway(100, 2, {"192.0.2.1"})
    assert sum(door.enter(Guest(address, Doing.ASKING)) for _ in range(5)) == let_in
    assert door.enter(Guest("10.9.9.9", Doing.ASKING))
    silent = Guest("10.1.1.1")
    assert door.enter(silent)
    assert door.enter(Guest("10.1.1.1"))
    assert door.enter(Guest("10.1.1.1"))  # within the share of one, its own oldest goes
    assert silent.gone


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("10.0.0.1", "10.0.0.2", False), ("10.0.0.1", "::ffff:10.0.0.1", True), ("2001:db8::1", "2001:db8::2:3:4:5", True),
     ("2001:db8:0:1::1", "2001:db8:0:2::1", False), ("fe80::1%eth0", "fe80::2%eth1", True), ("testclient", "x", False)],
)  # fmt: skip
def test_a_line_is_one_address(one: str, other: str, same: bool) -> None:
    door = Doorway(100, 1)
    assert door.enter(Guest(one, Doing.ASKING))
    assert door.enter(Guest(other, Doing.ASKING)) != same


def test_what_is_turned_away_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    door = Doorway(1, 1, clock=lambda: now)
    door.enter(Guest("a", Doing.ASKING))
    for _ in range(50):
        assert not door.enter(Guest("b"))
    now = 11.0
    assert not door.enter(Guest("b"))
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "1 connections turned away", "50 connections turned away",
    ]  # fmt: skip
    seldom = Seldom(lambda: now)
    assert [seldom.times() for _ in range(3)] == [1, 0, 0]


def test_half_of_the_descriptors_are_kept_for_work() -> None:
    door = doorway(Settings(), DESCRIPTORS)
    silent = [Guest(f"10.0.{n}.1", Doing.ASKING) for n in range(200)]
    assert sum(map(door.enter, silent)) == DESCRIPTORS // 2
    door = doorway(Settings(max_connections=10, max_connections_per_address=3), DESCRIPTORS)
    assert sum(door.enter(Guest("10.0.0.1", Doing.ASKING)) for _ in range(20)) == 3
    assert sum(door.enter(Guest("127.0.0.1", Doing.ASKING)) for _ in range(20)) == 7


def test_the_limit_of_descriptors_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: said.append(limits))
    for limits, raised, gives in (
        ((1024, 524_288), [(65_536, 524_288)], 65_536), ((256, 256), [], 256), ((256, 4096), [(4096, 4096)], 4096),
        ((1024, -1), [(65_536, -1)], 65_536), ((-1, -1), [], 65_536),
    ):  # fmt: skip
        monkeypatch.setattr(resource, "getrlimit", lambda what, limits=limits: limits)
        said.clear()
        assert (raise_descriptor_limit(), said) == (gives, raised)


def test_a_connection_that_cannot_be_taken_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    async def use() -> None:
        loop = asyncio.get_running_loop()
        tell_in_a_line(loop)
        for _ in range(5):
            error = OSError(24, "Too many open files")
            loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": error})
        loop.call_exception_handler({"message": "something else", "exception": ValueError("x")})

    asyncio.run(use())
    ours = [record for record in caplog.records if record.name == "stmixer.connections"]
    assert [(record.levelno, record.exc_info) for record in ours] == [(logging.ERROR, None)]
    assert "Too many open files" in ours[0].getMessage()
    assert "something else" in caplog.text


# -- a real service


@pytest.fixture(scope="module")
def narrow(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, descriptors=DESCRIPTORS) as server:
        yield server


def test_silent_sockets_shut_nobody_out(narrow: Server) -> None:
    """More of them than descriptors: others are answered, clips and cameras too."""
    host, port = narrow.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT):
            silent = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            with contextlib.suppress(OSError):
                silent.sendall(b"GET /healthz HTT")
        assert httpx.get(narrow.url + "/readyz", timeout=5).status_code == 200
        assert post(narrow, OWN_CLIPS / "fall.mp4", timeout=60).status_code == 200
        with plain_socket(narrow) as connected:
            client = Client(connected)
            client.say("start")
            client.first("ready")
            client.picture(jpeg(0))
            assert client.stop()["received"] == 1
        process = psutil.Process(narrow.process.pid)
        assert process.num_fds() < DESCRIPTORS
        assert len([c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]) <= 128
    assert not [line for line in narrow.log if "Traceback" in line]
    eventually(lambda: httpx.get(narrow.url + "/healthz", timeout=5).status_code, lambda status: status == 200)


# -- behind one door


@contextlib.asynccontextmanager
async def served(app: Any, door: Doorway | None = None) -> Any:
    """The port of an application behind our two protocols."""
    config = uvicorn.Config(app, lifespan="off", http=HttpSocket, ws=StreamSocket, log_config=None, access_log=False)
    config.load()
    state, loop, listening = ServerState(), asyncio.get_running_loop(), bind(Settings(port=0))
    made = partial(HttpSocket, config, state, {}, doorway=door)
    server = await loop.create_server(made, sock=listening)
    try:
        yield listening.getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/":
            scope["state"][HAS_BEGUN]()
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(("path", "stays"), [("/", True), ("/says-nothing-yet", False)])
def test_a_websocket_that_has_asked_nothing_gives_way(path: str, stays: bool) -> None:
    async def use() -> tuple[bytes, bool]:
        async with served(ok, Doorway(1, 1)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPGRADE % path.encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            other, asking = await asyncio.open_connection("127.0.0.1", port)
            asking.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = (await other.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
            if not stays:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            there = not (reader.at_eof() or reader.exception())
            asking.transport.abort()
            writer.transport.abort()
            return answer, there

    answer, there = asyncio.run(use())
    assert there == stays
    assert answer == (b"HTTP/1.1 503 Service Unavailable" if stays else b"HTTP/1.1 200 OK")


UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_who_leaves_leaves_room() -> None:
    """A WebSocket too, whose connection has changed hands."""

    async def use() -> list[bytes]:
        heads = []
        async with served(ok, Doorway(1, 1)) as port:
            for ask in (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                UPGRADE % b"/",
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(ask)
                heads.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
                if b"websocket" in ask:
                    other, closing = await asyncio.open_connection("127.0.0.1", port)
                    heads.append((await other.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
                    assert await other.read() == b""
                    closing.close()
                writer.transport.abort()
                await asyncio.sleep(0.05)  # the loop's own turn to see that it is gone
        return heads

    assert asyncio.run(use()) == [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 503 Service Unavailable",
        b"HTTP/1.1 200 OK",
    ]  # fmt: skip


@pytest.mark.parametrize("pieces", [64 * 2**10, 2**20])
def test_an_answer_that_nobody_reads_ends(monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    monkeypatch.setattr(paced, "UNREAD_S", 0.3)
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.done():
            await send({"type": "http.response.body", "body": bytes(pieces), "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    async def _gone(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def use() -> None:
        async with served(endless) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(60):
                await ended.wait()
            writer.close()

    asyncio.run(use())
    assert ended.is_set()


def test_an_answer_that_is_read_slowly_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paced, "UNREAD_S", 0.5)
    whole = 12 * 2**20

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % whole)]})
        await send({"type": "http.response.body", "body": bytes(whole)})

    async def use() -> int:
        async with served(large) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            count = 0
            while chunk := await reader.read(256 * 1024):
                count += len(chunk)
                await asyncio.sleep(0.03)
            writer.close()
            return count

    assert asyncio.run(use()) == whole
