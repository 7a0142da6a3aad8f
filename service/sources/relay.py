"""Between a camera and its decoder, where FFmpeg's own words are not the camera's: its name, TLS, and media by UDP.

The decoder is given one end of a pair of sockets and speaks RTSP over TCP there, with packets in between, as with any
camera: it makes no socket and reaches nothing (``decoder.seccomp``). Here the camera's name is put into what it asks
(``camera_name``); that is put into TLS; or its SETUP is made to ask for datagrams (``interleaved``), which are taken
from the camera's address alone, brought into order and put between the answers. Nothing of what a camera says is read
but lines about transport, and numbers of packets.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Hashable, Iterator

from stmixer.service.sources.allowance import Allowance, LoopShare
from stmixer.service.sources.camera_name import CameraName
from stmixer.service.sources.interleaved import Interleaved, Message, NotRtsp, Packet, framed
from stmixer.service.sources.missing_packets import MissingPackets
from stmixer.service.sources.outlet import Outlet
from stmixer.service.sources.rtp_track import RtpTrack, Where
from stmixer.service.sources.source import cancelled

CHUNK = 64 * 1024
AT_ONCE = 256
"""Packets of a chunk, after which others may have a turn: they may be of four bytes each."""
KEPT = 128 * 1024
"""Bytes that the kernel keeps for a decoder that is slow."""
MOST_TRACKS = 4
"""Of a camera, of which one is read."""
_MOST_ASKED = 16


class Relay:
    """One connection. ``name``: what the camera is asked by; ``datagrams``: media come by UDP, else what the camera
    says passes as it is; ``lost``: is told of packets."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        name: CameraName,
        datagrams: bool,
        lost: Callable[[int], None],
    ) -> None:
        self._reader, self._writer, self._name, self._datagrams = reader, writer, name, datagrams
        self._here: Where = writer.get_extra_info("sockname")
        self._camera: Where = writer.get_extra_info("peername")
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)
        self._outlet = Outlet(self._ours, self._resume)
        self._allowance = Allowance(time.perf_counter)
        """Of the event loop, of all that passes here: CPU time of its thread, by the second."""
        self._missing = MissingPackets(lost)
        self._tracks: dict[tuple[int, int], RtpTrack] = {}
        self._asked: dict[int | None, RtpTrack] = {}
        self._begins = False
        """The camera was asked to play and has not answered: FFmpeg takes no packet before that."""
        self._tasks = [asyncio.create_task(way()) for way in (self._down, self._up)]

    @property
    def connection(self) -> int:
        """The descriptor of the decoder's end."""
        return self._theirs.fileno()

    def begun(self) -> None:
        """The decoder has its end; only it has."""
        self._theirs.close()

    def owed(self) -> Hashable | None:
        """How far the decoder has come with what it was given; None where it has all of it."""
        return self._outlet.owed()

    async def close(self) -> None:
        """Hang up, and free everything."""
        try:
            await cancelled(*self._tasks)
        finally:
            for track in self._tracks.values():
                track.close()
            self._tracks.clear()
            self._missing.close()
            self._outlet.close()
            self._ours.close()
            self._theirs.close()
            self._writer.transport.abort()

    # -- from the camera

    async def _down(self) -> None:
        parts, share = Interleaved(), LoopShare(time.thread_time, self._allowance)
        try:
            while data := await self._reader.read(CHUNK):
                share.begin()
                if self._datagrams:
                    for some in _by_turns(parts.feed(data)):
                        self._outlet.put(b"".join(map(self._answered, some)))
                        await share.let_others()
                else:
                    self._outlet.put(data)
                await share.let_others()
                await self._outlet.room()
        except (OSError, NotRtsp):  # the decoder hears nothing more, and says so
            pass
        finally:
            self._outlet.end()

    def _answered(self, part: Message | Packet) -> bytes:
        """What the decoder gets for it."""
        if isinstance(part, Packet):
            return framed(part.channel, part.data) if part.has_head else b""
        if part.is_answer and self._begins:
            self._begins = False
            for held in self._tracks.values():
                held.let_go()
        track = self._asked.pop(part.number, None) if part.is_answer else None
        if track is None or not part.is_good or part.wants_tcp:
            return part.data
        if (ports := part.sends_from) is not None:
            track.begin(ports)
        return part.with_transport(track.told).data

    # -- from the decoder

    async def _up(self) -> None:
        loop, parts = asyncio.get_running_loop(), Interleaved()
        share = LoopShare(time.thread_time, self._allowance)
        try:
            while data := await loop.sock_recv(self._ours, CHUNK):
                share.begin()
                for some in _by_turns(parts.feed(data)):
                    self._writer.write(b"".join(map(self._ask, some)))
                    await share.let_others()
                await share.let_others()
                await self._writer.drain()
                await asyncio.sleep(0)  # where there is data, and room for it, nothing above has waited
        except (OSError, NotRtsp):
            pass
        finally:
            self._writer.close()

    def _ask(self, part: Message | Packet) -> bytes:
        """What the camera gets for it. Raises OSError where there are no ports for what it asks for."""
        if isinstance(part, Message):
            part = self._name.put(part)
            return (self._by_datagrams(part) if self._datagrams else part).data
        if not self._datagrams:
            return framed(part.channel, part.data)
        for track in self._tracks.values():
            if part.channel == track.channels[1]:
                track.report(part.data)
        return b""

    def _by_datagrams(self, part: Message) -> Message:
        """The same, with media by UDP."""
        if (channels := part.wanted_channels) is not None:
            track = self._track(channels)
            self._asked[part.number] = track
            if len(self._asked) > _MOST_ASKED:
                raise NotRtsp("questions without an answer")
            return part.with_transport(track.asked_for)
        if part.is_play:
            self._begins = True
            for track in self._tracks.values():
                track.hold()
        return part

    def _track(self, channels: tuple[int, int]) -> RtpTrack:
        if channels not in self._tracks:
            if len(self._tracks) >= MOST_TRACKS:
                raise NotRtsp("more tracks than any camera has")
            self._tracks[channels] = RtpTrack(
                self._here, self._camera, channels, self._outlet, self._allowance, self._missing
            )
        return self._tracks[channels]

    def _resume(self) -> None:
        for track in self._tracks.values():
            track.resume()


async def relayed(
    ours: socket.socket,
    *,
    tls: ssl.SSLContext | None,
    name: CameraName,
    datagrams: bool,
    within_s: float,
    lost: Callable[[int], None],
) -> Relay:
    """A relay over a socket that is connected to the camera, which it takes over; ``name``: what that is asked by, and
    what its certificate has to have; ``lost`` is told how many packets are missing. Raises OSError, which ssl.SSLError
    is one of, and TimeoutError after ``within_s``."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection(
            sock=ours, ssl=tls, server_hostname=None if tls is None else name.host, limit=CHUNK
        )
    try:
        return Relay(reader, writer, name=name, datagrams=datagrams, lost=lost)
    except BaseException:
        writer.transport.abort()
        raise


def _by_turns(parts: Iterator[Message | Packet]) -> Iterator[list[Message | Packet]]:
    """So many that others may have a turn after them: a message, in which there is more to read, is the last."""
    some = list[Message | Packet]()
    for part in parts:
        some.append(part)
        if isinstance(part, Message) or len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some
