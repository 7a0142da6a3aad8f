"""An RTSP server that hands on what is published to it, packet by packet, as go2rtc and MediaMTX do (RFC 2326, 10.3,
10.11): the SDP and the packets that its viewers get are the publisher's own.

One film at a time, within the connection. A publisher may begin once somebody has asked to play.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stmixer.service.sources.interleaved import Interleaved, Message, NotRtsp, Packet, framed
from stmixer.service.sources.source import cancelled

_WITHIN = re.compile(rb"interleaved=\d+-\d+")


class Restream:
    """``port``: where both publisher and viewers connect to, any path."""

    def __init__(self) -> None:
        self.port = 0
        self._sdp: bytes | None = None
        self._announced, self._played = asyncio.Event(), asyncio.Event()
        self._viewers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def run(self, begun: threading.Event, over: asyncio.Event) -> None:
        """Until it is over."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        begun.set()
        await over.wait()
        server.close()
        await cancelled(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        parts, publishes = Interleaved(), False
        try:
            while data := await reader.read(65536):
                for part in parts.feed(data):
                    if isinstance(part, Message):
                        publishes |= part.data.startswith(b"ANNOUNCE ")
                        writer.write(await self._answer(part, writer))
                    elif publishes:
                        self._hand_on(part)
                await writer.drain()
        except (OSError, NotRtsp):
            pass
        finally:
            self._viewers.discard(writer)
            writer.close()
            if publishes:
                self._end()

    def _hand_on(self, packet: Packet) -> None:
        for viewer in self._viewers:
            viewer.write(framed(packet.channel, packet.data))

    def _end(self) -> None:
        """Its film is over: so it is for whoever looks."""
        for viewer in self._viewers:
            viewer.close()
        self._sdp = None
        self._announced.clear()
        self._played.clear()

    async def _answer(self, asked: Message, writer: asyncio.StreamWriter) -> bytes:
        method, url, _ = asked.data.split(b" ", 2)
        says, body = [b"CSeq: %d" % (asked.number or 0), b"Session: 1"], b""
        match method:
            case b"OPTIONS":
                says.append(b"Public: ANNOUNCE, RECORD, DESCRIBE, SETUP, PLAY, TEARDOWN")
            case b"ANNOUNCE":
                self._sdp = asked.data.partition(b"\r\n\r\n")[2]
                self._announced.set()
            case b"DESCRIBE":
                await self._announced.wait()
                body = self._sdp or b""
                says += [b"Content-Base: %b/" % url, b"Content-Type: application/sdp"]
            case b"SETUP":
                within = _WITHIN.search(asked.data)
                assert within is not None
                says.append(b"Transport: RTP/AVP/TCP;unicast;" + within[0])
            case b"PLAY":
                self._viewers.add(writer)
                self._played.set()
            case b"RECORD":
                await self._played.wait()
        says.append(b"Content-Length: %d" % len(body))
        return b"RTSP/1.0 200 OK\r\n" + b"\r\n".join(says) + b"\r\n\r\n" + body


@contextmanager
def restreaming() -> Iterator[Restream]:
    """One that runs, in a thread of its own."""
    begun, ways = threading.Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event, Restream]]()

    async def run() -> None:
        ways.append((asyncio.get_running_loop(), asyncio.Event(), Restream()))
        await ways[0][2].run(begun, ways[0][1])

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert begun.wait(20)
    loop, over, made = ways[0]
    try:
        yield made
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(over.set)
        thread.join(20)
