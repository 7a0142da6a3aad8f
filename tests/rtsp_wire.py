"""A wire between a service and a camera over RTSP that loses, hides and shifts what passes: a relay of tests' own.

It runs in a thread of its own. Of media by UDP it is both ends: each side is told of its ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Self

from wire import RESET

from stmixer.service.sources.interleaved import Interleaved, Message, NotRtsp, Packet, framed
from stmixer.service.sources.source import cancelled

CLIENT, SERVER = re.compile(rb"client_port=(\d+)-(\d+)"), re.compile(rb"server_port=(\d+)-(\d+)")
SENDER_REPORT = 200


class RtspWire:
    """``port``: the camera's; ``loss``: the share of its media that is lost; ``delay_s``: how long what it says takes;
    ``shift``: ticks by which its clock is another one; ``rate``: times that its clock runs as fast as it did. All may
    be changed at any time. ``asked``: what the service has asked the camera last, as it did."""

    def __init__(self, port: int, rate: float = 1.0) -> None:
        self.port, self.loss, self.delay_s, self.shift, self.rate = port, 0.0, 0.0, 0, rate
        self.asked = deque[bytes](maxlen=100)
        self._arrives, self._under_way = 0.0, 0
        self._first: int | None = None
        self._loop = asyncio.new_event_loop()
        self._chance = random.Random(port)
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.near = 0
        """Where the service connects to."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def refuse(self) -> None:
        """Take no connection, until ``accept``."""
        self._do(self._stop())

    def accept(self) -> None:
        """Take connections again, where it did before."""
        self._do(self._listen())

    def cut(self) -> None:
        """Every connection there is ends at once, on both sides."""
        self._do(self._leave(half=False))

    def leave_half_open(self) -> None:
        """The camera's side of every connection ends; the service hears neither of that nor of anything else."""
        self._do(self._leave(half=True))

    def later(self, hand_on: Callable[[bytes], None], data: bytes) -> None:
        """Hand on what the camera said once it has arrived, in order."""
        now = self._loop.time()
        self._arrives = max(now + self.delay_s, self._arrives + 1e-6)
        if self.delay_s or self._under_way:
            self._under_way += 1
            self._loop.call_at(self._arrives, self._arrived, hand_on, data)
        else:
            hand_on(data)

    def _arrived(self, hand_on: Callable[[bytes], None], data: bytes) -> None:
        self._under_way -= 1
        hand_on(data)

    def passed(self, data: bytes, channel: int) -> bytes | None:
        """What becomes of a packet of the camera's; None where it is lost."""
        if channel % 2 == 0 and self._chance.random() < self.loss:
            return None
        at = 4 if channel % 2 == 0 else 16
        if len(data) < at + 4 or (channel % 2 and data[1] != SENDER_REPORT):
            return data
        stamp = int.from_bytes(data[at : at + 4])
        self._first = stamp if self._first is None else self._first
        moved = (self._first + round((stamp - self._first) % 2**32 * self.rate) + self.shift) % 2**32
        return data[:at] + struct.pack(">I", moved) + data[at + 4 :]

    # -- in its own thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.near)
            self.near = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _leave(self, *, half: bool) -> None:
        for line in list(self._lines):
            line.leave(half=half)

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.close()
            return
        line = _Line(self, (reader, writer), far)
        self._lines.add(line)
        try:
            await line.run()
        finally:
            self._lines.discard(line)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Line:
    """One connection."""

    def __init__(self, wire: RtspWire, near: Ends, far: Ends) -> None:
        self._wire, self._near, self._far = wire, near, far
        self._left = False
        self._media: list[_Media] = []

    async def run(self) -> None:
        ways = [asyncio.create_task(self._down()), asyncio.create_task(self._up())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            await cancelled(*ways)
            if self._left:
                while await self._near[0].read(65536):  # and says nothing
                    pass
        except OSError:
            pass
        finally:
            await cancelled(*ways)
            for media in self._media:
                media.close()
            for _, writer in (self._near, self._far):
                writer.close()

    def leave(self, *, half: bool) -> None:
        for media in self._media:
            media.close()
        self._left = half
        for _, writer in (self._far,) if half else (self._far, self._near):
            ours = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _down(self) -> None:
        """From the camera to the service."""
        parts = Interleaved()
        with contextlib.suppress(OSError, NotRtsp):
            while data := await self._far[0].read(65536):
                for part in parts.feed(data):
                    if isinstance(part, Message):
                        self._wire.later(self._near[1].write, self._answer(part.data))
                    elif (passed := self._wire.passed(part.data, part.channel)) is not None:
                        self._wire.later(self._near[1].write, framed(part.channel, passed))
                await self._near[1].drain()

    async def _up(self) -> None:
        """From the service to the camera."""
        parts = Interleaved()
        with contextlib.suppress(OSError, NotRtsp):
            while data := await self._near[0].read(65536):
                for part in parts.feed(data):
                    if isinstance(part, Packet):
                        self._far[1].write(framed(part.channel, part.data))
                    else:
                        self._wire.asked.append(part.data)
                        self._far[1].write(await self._question(part.data))
                await self._far[1].drain()

    async def _question(self, message: bytes) -> bytes:
        if (ports := CLIENT.search(message)) is None:
            return message
        media = await _Media.made(self._wire, (int(ports[1]), int(ports[2])))
        self._media.append(media)
        return CLIENT.sub(b"client_port=%d-%d" % media.ports, message)

    def _answer(self, message: bytes) -> bytes:
        if (ports := SERVER.search(message)) is None:
            return message
        media = self._media[-1]
        media.camera = int(ports[1]), int(ports[2])
        message = CLIENT.sub(b"client_port=%d-%d" % media.service, message)
        return SERVER.sub(b"server_port=%d-%d" % media.ports, message)


class _Media:
    """RTP and RTCP of one track by UDP, in both directions; ``service``, ``camera``: the ports of each."""

    def __init__(self, wire: RtspWire, service: tuple[int, int]) -> None:
        self._wire, self.service = wire, service
        self.camera, self.ports = (0, 0), (0, 0)
        self._ways: list[asyncio.DatagramTransport] = []

    @classmethod
    async def made(cls, wire: RtspWire, service: tuple[int, int]) -> Self:
        media, loop = cls(wire, service), asyncio.get_running_loop()
        for which in (0, 1):
            way, _ = await loop.create_datagram_endpoint(lambda n=which: _Datagrams(media, n), ("127.0.0.1", 0))  # type: ignore[misc]
            media._ways.append(way)
        first, second = (way.get_extra_info("sockname")[1] for way in media._ways)
        media.ports = first, second
        return media

    def take(self, which: int, data: bytes, port: int) -> None:
        """A datagram that came from this port."""
        if port == self.service[which]:
            self._ways[which].sendto(data, ("127.0.0.1", self.camera[which]))
        elif (passed := self._wire.passed(data, which)) is not None:
            self._wire.later(lambda late: self._deliver(which, late), passed)

    def _deliver(self, which: int, data: bytes) -> None:
        if not self._ways[which].is_closing():
            self._ways[which].sendto(data, ("127.0.0.1", self.service[which]))

    def close(self) -> None:
        for way in self._ways:
            way.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, media: _Media, which: int) -> None:
        self._media, self._which = media, which

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # type: ignore[override]
        self._media.take(self._which, data, addr[1])
