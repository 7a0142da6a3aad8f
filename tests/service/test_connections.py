"""Connections: small answers leave at once, and what one client sends does not cost the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvicorn
from prometheus_client import Gauge
from uvicorn.server import ServerState
from websockets.asyncio.client import connect as connect_async
from websockets.asyncio.server import serve
from websockets.sync.client import connect

from stmixer.service.api import connections, paced
from stmixer.service.api.connections import HttpSocket, StreamSocket
from stmixer.service.api.paced import MESSAGE_S, MOST_UNREAD, SHARE_OF_A_STREAM, PacedTransport
from stmixer.service.api.server import bind
from stmixer.service.events.broker import Broker, BrokerAddress
from stmixer.service.pulled_url import parse_url
from stmixer.service.settings import Settings
from stmixer.service.sources.addresses import AddressPolicy, parse_networks
from stmixer.service.sources.allowance import (
    AT_ONCE_S,
    BURST_S,
    FIRST_READ,
    LEAST_READ,
    MOST_READ,
    PIECE_S,
    SHARE,
    Allowance,
    LoopShare,
)
from stmixer.service.sources.camera import connected

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def undelayed(of: socket.socket) -> bool:
    """Whether it sends small pieces at once."""
    return of.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_answers_leave_at_once(host: str) -> None:
    """Nagle's algorithm holds a body back until its head is acknowledged: 40 ms an answer on a kept connection."""

    async def accepted() -> bool:
        listening, taken = bind(Settings(host=host, port=0)), asyncio.get_running_loop().create_future()

        class Taking(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                taken.set_result(undelayed(cast(socket.socket, transport.get_extra_info("socket"))))
                cast(asyncio.Transport, transport).close()

        server = await asyncio.get_running_loop().create_server(Taking, sock=listening)
        address = listening.getsockname()
        _, writer = await asyncio.open_connection(address[0], address[1])
        writer.close()
        found = await taken
        server.close()
        await server.wait_closed()
        return bool(found)

    assert asyncio.run(accepted())


def test_the_clients_media_leave_at_once() -> None:
    """The sockets of the Python client, which are made by websockets: sync and async."""

    async def both() -> list[bool]:
        async with serve(lambda socket: socket.wait_closed(), "127.0.0.1", 0) as server:
            address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with connect_async(address) as one:
                found = [undelayed(one.transport.get_extra_info("socket"))]

            def in_a_thread() -> None:
                with connect(address) as other:
                    found.append(undelayed(other.socket))

            await asyncio.to_thread(in_a_thread)
        return found

    assert asyncio.run(both()) == [True, True]


def test_what_a_camera_is_asked_leaves_at_once() -> None:
    """FFmpeg's requests, and what goes between it and a camera over TLS."""

    async def connect_to_one() -> bool:
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
            url = parse_url(f"rtsp://127.0.0.1:{server.sockets[0].getsockname()[1]}/cam")
            ours, _ = await connected(url, AddressPolicy(parse_networks("127.0.0.0/8")))
            with ours:
                assert ours.proto == socket.IPPROTO_TCP  # or asyncio would not know it for one
                return undelayed(ours)

    assert asyncio.run(connect_to_one())


def test_what_a_broker_is_told_leaves_at_once() -> None:
    async def tell() -> bool:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.write(b"\x20\x02\0\0")  # CONNACK: taken
            await reader.read()
            writer.close()

        async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
            address = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1], None, None, None)
            broker, found = Broker(address, "one", "will", Gauge("up", "up", registry=None)), asyncio.Future[bool]()

            async def talk() -> None:
                assert broker._connection is not None
                found.set_result(undelayed(broker._connection.client._client.socket()))

            running = asyncio.create_task(broker.run(talk))
            try:
                return await found
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    assert asyncio.run(tell())


# -- none costs the others


def test_a_connection_has_a_share_of_the_loop() -> None:
    now = 100.0
    allowance = Allowance(lambda: now)
    assert allowance.spend(BURST_S) == 0  # at once after a pause
    rest_s = allowance.spend(0.03)
    assert rest_s == pytest.approx(0.03 / SHARE)
    now += rest_s
    assert allowance.spend(0.003) == pytest.approx(0.003 / SHARE)  # no more than what has passed
    now += 3600
    assert allowance.spend(BURST_S) == 0  # and no more than a burst is saved up
    assert allowance.spend(0.003) > 0


def test_a_fetched_source_gives_others_a_turn() -> None:
    async def run() -> list[int]:
        now, turns_of_others, found = 0.0, 0, list[int]()

        async def others() -> None:
            nonlocal turns_of_others
            while True:
                turns_of_others += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        share = LoopShare(lambda: now)
        share.begin()
        for _ in range(20):
            now += AT_ONCE_S / 4
            await share.let_others()
            found.append(turns_of_others)
        other.cancel()
        return found

    found = asyncio.run(run())
    assert found[0] == 0  # not for each piece
    assert all(later > sooner for sooner, later in zip(found, found[5:], strict=False))


def test_a_read_is_as_long_as_the_loop_can_spare() -> None:
    """Pictures cost nanoseconds a byte, messages of a byte microseconds."""
    allowance = Allowance()
    sizes = []
    for _ in range(6):
        allowance.took(allowance.read_bytes, 10e-9 * allowance.read_bytes)
        sizes.append(allowance.read_bytes)
    assert sizes == [8192, 16384, MOST_READ, MOST_READ, MOST_READ, MOST_READ]
    allowance.took(MOST_READ, 3e-6 * MOST_READ)
    assert allowance.read_bytes == 333  # at once, not by halves
    allowance.took(333, 1.0)
    assert allowance.read_bytes == LEAST_READ


class Line(asyncio.Transport):
    """A transport that notes whether it is read, and has ``unread`` bytes to write."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.unread = True, 0

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        self.read = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return False


class Later:
    """A loop's ``call_later``, by hand."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.calls.append((delay, call))


def test_who_has_used_up_the_share_is_not_read_for_a_while() -> None:
    line, later = Line(), Later()
    paced = PacedTransport(line, cast(asyncio.AbstractEventLoop, later))
    paced.spend(BURST_S / 2)
    assert (line.read, later.calls) == (True, [])
    paced.spend(BURST_S)
    assert not line.read
    paced.resume_reading()  # uvicorn has taken all messages, and wants more
    paced.spend(0.01)
    assert not line.read
    ((delay, call),) = later.calls
    assert delay == pytest.approx(BURST_S / 2 / SHARE, rel=0.05)
    call()
    assert line.read
    paced.pause_reading()
    paced.spend(1)
    paced.resume_reading()
    paced.pause_reading()
    later.calls[-1][1]()
    assert not line.read  # it is the protocol that wants no more


def test_messages_count_with_what_is_done_about_them_and_streams_have_the_least_share() -> None:
    line, later = Line(), Later()
    paced = PacedTransport(line, cast(asyncio.AbstractEventLoop, later))
    paced.streaming = True
    paced.was_read(MOST_READ, 100e-6)
    assert paced.allowance.read_bytes == 2 * FIRST_READ  # a large picture's piece: more at a time
    for _ in range(40):
        paced.hand_on()
    paced.was_read(700, 0.001)
    assert paced.allowance.read_bytes == pytest.approx(700 * PIECE_S / (0.001 + 40 * MESSAGE_S), abs=1)
    assert later.calls == []
    paced.was_read(256, BURST_S)
    ((delay, _),) = later.calls
    assert delay == pytest.approx((0.0011 + 40 * MESSAGE_S) / SHARE_OF_A_STREAM, rel=0.1)


def test_who_sends_and_does_not_read_is_not_read() -> None:
    """A flood of pings: each wants an answer, which would wait in our memory."""
    line, later = Line(), Later()
    line.unread = MOST_UNREAD + 1
    PacedTransport(line, cast(asyncio.AbstractEventLoop, later)).spend(0)
    assert not line.read


@asynccontextmanager
async def serving(app: Callable[..., Any]) -> AsyncIterator[int]:
    """The port of an application behind our two protocols."""
    config = uvicorn.Config(app, lifespan="off", http=HttpSocket, ws=StreamSocket, log_config=None, access_log=False)
    config.load()
    state = ServerState()
    loop, listening = asyncio.get_running_loop(), bind(Settings(port=0))
    server = await loop.create_server(lambda: HttpSocket(config, state, {}), sock=listening)
    try:
        yield listening.getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with how many bytes came; a WebSocket with each message, as what kind it came and what it was."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            data = message.get("bytes")
            said = message["text"] if data is None else f"{type(data).__name__} {data!r}"
            await send({"type": "websocket.send", "text": said})
        return
    count, more = 0, True
    while more:
        message = await receive()
        count, more = count + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"%06d" % count})


def test_bodies_and_messages_arrive_whole_in_whatever_pieces() -> None:
    """A body in chunks of a byte, a large one; messages in fragments, small and large, of text and of bytes."""

    async def use() -> None:
        async with serving(echo) as port:
            for body in (b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", b"30d40\r\n" + bytes(200_000) + b"\r\n0\r\n\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
                answer = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(6)
                assert answer.endswith(b"020000" if body.startswith(b"1") else b"200000")
                writer.close()
            async with connect_async(f"ws://127.0.0.1:{port}/", compression=None) as socket:
                for sent, got in (
                    ([b"a", b"b", b"c"], "bytes b'abc'"), (["d", "e"], "de"), (b"f", "bytes b'f'"),
                    ([b"g"] * 500, f"bytes {b'g' * 500!r}"), ([b"h", b""], "bytes b'h'"),
                ):  # fmt: skip
                    await socket.send(sent)
                    assert await socket.recv() == got
                for _ in range(3000):
                    await socket.send(b"i")
                assert [await socket.recv() for _ in range(3000)] == ["bytes b'i'"] * 3000

    asyncio.run(use())


def test_who_breaks_the_protocol_in_mid_message_says_the_rest_and_learns_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is closed while its client still sends is reset, and our close frame may be lost with it."""
    monkeypatch.setattr(StreamSocket, "LAST_WORDS_S", 3600.0)
    too_large = b"\x82\xff" + (17 * 2**20).to_bytes(8, "big") + bytes(4)  # more than is taken

    async def use() -> tuple[bytes, bytes]:
        async with serving(echo) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(too_large + bytes(2**16))
            told = await reader.read()  # to the end of what is said
            for _ in range(20):
                writer.write(bytes(2**16))
                await writer.drain()
            writer.write_eof()
            writer.close()
            await writer.wait_closed()
        return told[:1], told[2:4]

    assert asyncio.run(use()) == (b"\x88", (1009).to_bytes(2, "big"))


@pytest.mark.parametrize(
    ("sent", "told"),
    [(b"\x81\x82\0\0\0\0\xff\xfe\x89\x81\0\0\0\0x", 1007),  # what is no text, and a ping
     (b"\x81\x82\0\0\0\0\xff\xfe\x81\x81\0\0\0\0a", 1007),  # and text
     (b"\x81\x82\0\0\0\0\xff\xfe\x88\x82\0\0\0\0\x03\xe8", 1000)],  # and goodbye
)  # fmt: skip
def test_what_comes_with_what_breaks_the_protocol_breaks_nothing(
    sent: bytes, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> bytes:
        async with serving(echo) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            said = await reader.read()
            writer.close()
        return said

    close = asyncio.run(use()).removeprefix(b"\x8a\x01x")  # the ping had its answer before
    assert (close[:1], close[2:4]) == (b"\x88", told.to_bytes(2, "big"))
    assert "Fatal error" not in caplog.text


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answers before it has heard what comes with the question, and will have no other."""
    headers = [(b"content-length", b"2"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"no"})


UPLOAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"


def test_who_is_answered_in_the_middle_of_an_upload_sends_the_rest_and_learns_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection that is closed while its client still sends is reset, and the answer may be lost with it."""
    monkeypatch.setattr(paced, "LINGERS_S", 3600.0)
    monkeypatch.setattr(paced, "LINGERS_MOST_S", 3600.0)

    async def use() -> bytes:
        async with serving(refuse) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPLOAD + bytes(2**16))
            told = await reader.read()  # to the end of what is said
            for _ in range(100):
                writer.write(bytes(2**16))
                await writer.drain()
            writer.write_eof()
            writer.close()
            await writer.wait_closed()
        return told

    told = asyncio.run(use())
    assert told.startswith(b"HTTP/1.1 413 ")
    assert told.endswith(b"\r\n\r\nno")


@pytest.mark.parametrize("says", ["next to nothing", "more without end"])
def test_the_rest_of_an_upload_that_was_answered_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    monkeypatch.setattr(paced, "LINGERS_S", 0.1 if says == "next to nothing" else 3600.0)
    monkeypatch.setattr(paced, "LINGERS_MOST_S", 3600.0 if says == "next to nothing" else 0.1)

    async def use() -> None:
        async with serving(refuse) as port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, UPLOAD)
                while await loop.sock_recv(client, 2**16):
                    pass
                while True:  # until there is nobody any more
                    await asyncio.sleep(3 * paced.LINGERS_S if says == "next to nothing" else 0)
                    await loop.sock_sendall(client, b"x" if says == "next to nothing" else bytes(2**16))

    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        asyncio.run(use())


def test_a_frame_before_the_handshake_is_answered_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:

    async def use() -> None:
        begun = asyncio.Event()

        async def hesitant(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            begun.set()
            assert (await receive())["type"] == "websocket.disconnect"

        async with serving(hesitant) as port, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HANDSHAKE)
            await begun.wait()
            writer.write(b"\x81\x01a")  # not masked
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(use())
    assert "Fatal error" not in caplog.text


@pytest.mark.parametrize("head", [b"", b"GET /healthz HTT"])
def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)

    async def use() -> bytes:
        async with serving(echo) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            try:
                return await reader.read()  # until it is closed
            finally:
                writer.close()

    assert asyncio.run(use()) == b""


def test_a_request_that_is_cancelled_is_told_so() -> None:
    """Its steps are timed; what goes wrong goes through all the same."""
    ends: list[str] = []
    began = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def use() -> None:
        async with serving(waits) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await began.wait()
            writer.close()

    asyncio.run(use())
    assert ends == ["cancelled"]
