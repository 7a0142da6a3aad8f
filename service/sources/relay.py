"""Between a camera and its decoder, where FFmpeg's own words are not the camera's: TLS, and media by UDP.

The decoder is given one end of a pair of sockets and speaks RTSP over TCP there, with packets in between, as with any
camera: it makes no socket and reaches nothing (``decoder.seccomp``). Here that is put into TLS; or its SETUP is made to
ask for datagrams (``interleaved``), which are taken from the camera's address alone, brought into order and put between
the answers. Nothing of what passes is read but lines about transport, and numbers of packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import ssl
import termios
from collections.abc import Callable, Hashable

from stmixer.service.sources.interleaved import Interleaved, Message, NotRtsp, Packet, framed
from stmixer.service.sources.packet_order import PacketOrder
from stmixer.service.sources.source import cancelled

CHUNK = 64 * 1024
KEPT = 128 * 1024
"""Bytes that the kernel keeps for a decoder that is slow, and of datagrams that wait for it: what is more is lost."""
MOST_TRACKS = 4
"""Of a camera, of which one is read."""
_MOST_ASKED = 16
_AT_ONCE = 64
"""Datagrams that are read one after the other; then it is others' turn."""
_LONGEST = 65535
_TRIES = 20
_HELLO = b"\x80\x00" + bytes(10), b"\x80\xc9\x00\x01" + bytes(4)
"""An RTP packet and a receiver report that say nothing, for whatever stands in between to let answers through."""

Where = tuple[str, int] | tuple[str, int, int, int]
"""An address of a socket, of IPv4 or IPv6."""


class Outlet:
    """What goes to the decoder: pieces in order, each whole. ``freed`` is called when nothing waits any more."""

    def __init__(self, ours: socket.socket, freed: Callable[[], None]) -> None:
        self._socket, self._freed = ours, freed
        self._waiting, self._over = bytearray(), False
        self._room = asyncio.Event()
        self._room.set()
        self._put = 0

    @property
    def full(self) -> bool:
        """Whether the decoder has not taken what it was given, and the kernel keeps no more for it."""
        return bool(self._waiting)

    def put(self, data: bytes) -> None:
        """Hand on; what there is no room for waits here."""
        self._put += len(data)
        self._waiting += data
        if self._room.is_set():
            self._flush()
            if self._waiting:
                self._room.clear()
                asyncio.get_running_loop().add_writer(self._socket, self._go_on)

    async def room(self) -> None:
        """Until nothing waits."""
        await self._room.wait()

    def end(self) -> None:
        """Nothing comes after this."""
        self._over = True
        self._flush()

    def owed(self) -> Hashable | None:
        """How far the decoder has come with what it was given; None where it has all of it."""
        try:
            kept = int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), "little")
        except (OSError, ValueError):
            return None
        return (self._put, len(self._waiting), kept) if kept or self._waiting else None

    def close(self) -> None:
        """Hand on no more."""
        asyncio.get_running_loop().remove_writer(self._socket)

    def _go_on(self) -> None:
        self._flush()
        if not self._waiting:
            asyncio.get_running_loop().remove_writer(self._socket)
            self._room.set()
            self._freed()

    def _flush(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the decoder has ended, as whoever watches it knows
            self._waiting.clear()
            return
        if self._over:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)


class RtpTrack:
    """RTP and RTCP of one track, by UDP: to and from the ``camera``'s address alone."""

    def __init__(self, ours: Where, camera: Where, channels: tuple[int, int], outlet: Outlet) -> None:
        """``ours``: the address of this machine that the camera knows. Raises OSError where there are no ports."""
        self.channels, self._camera, self._outlet = channels, camera, outlet
        self._rtp, self._rtcp = _pair(ours)
        self._order = PacketOrder()
        self._ports: tuple[int, int] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self.resume()

    @property
    def asked_for(self) -> str:
        """The transport that the camera is asked for."""
        port = self._rtp.getsockname()[1]
        return f"RTP/AVP;unicast;client_port={port}-{port + 1}"

    @property
    def told(self) -> str:
        """The transport that the decoder is told of."""
        return f"RTP/AVP/TCP;unicast;interleaved={self.channels[0]}-{self.channels[1]}"

    def begin(self, ports: tuple[int, int]) -> None:
        """The camera has said from where it sends."""
        self._ports = ports
        for ours, port, hello in zip((self._rtp, self._rtcp), ports, _HELLO, strict=True):
            self._send(ours, port, hello)

    def report(self, data: bytes) -> None:
        """What the decoder says in RTCP."""
        if self._ports is not None:
            self._send(self._rtcp, self._ports[1], data)

    def pause(self) -> None:
        """Take nothing, until ``resume``."""
        for ours in (self._rtp, self._rtcp):
            asyncio.get_running_loop().remove_reader(ours)

    def resume(self) -> None:
        """Take what comes."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._rtp, self._take, self._rtp, self._media)
        loop.add_reader(self._rtcp, self._take, self._rtcp, self._reports)

    def close(self) -> None:
        """Give the ports back."""
        self.pause()
        if self._looking is not None:
            self._looking.cancel()
        self._rtp.close()
        self._rtcp.close()

    def _take(self, ours: socket.socket, put: Callable[[bytes], None]) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, sender = ours.recvfrom(_LONGEST)
            except OSError:  # none waits, or the network says that one of ours found nobody
                return
            if sender[0] == self._camera[0]:
                put(data)
            if self._outlet.full:
                self.pause()
                return

    def _media(self, data: bytes) -> None:
        self._hand_on(self._order.put(data, asyncio.get_running_loop().time()))
        self._look_later()

    def _reports(self, data: bytes) -> None:
        self._outlet.put(framed(self.channels[1], data))

    def _look_later(self) -> None:
        until = self._order.waits_until
        if until is not None and self._looking is None:
            self._looking = asyncio.get_running_loop().call_at(until, self._look)

    def _look(self) -> None:
        self._looking = None
        self._hand_on(self._order.overdue(asyncio.get_running_loop().time()))
        self._look_later()

    def _hand_on(self, packets: list[bytes]) -> None:
        if packets:
            self._outlet.put(b"".join(framed(self.channels[0], packet) for packet in packets))

    def _send(self, ours: socket.socket, port: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it may be lost, as any datagram may
            ours.sendto(data, (self._camera[0], port, *self._camera[2:]))


class Relay:
    """One connection. ``datagrams``: media come by UDP; else bytes pass as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, datagrams: bool) -> None:
        self._reader, self._writer, self._datagrams = reader, writer, datagrams
        self._here: Where = writer.get_extra_info("sockname")
        self._camera: Where = writer.get_extra_info("peername")
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)
        self._outlet = Outlet(self._ours, self._resume)
        self._tracks: dict[tuple[int, int], RtpTrack] = {}
        self._asked: dict[int | None, RtpTrack] = {}
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
            self._outlet.close()
            self._ours.close()
            self._theirs.close()
            self._writer.transport.abort()

    # -- from the camera

    async def _down(self) -> None:
        parts = Interleaved()
        try:
            while data := await self._reader.read(CHUNK):
                if self._datagrams:
                    for part in parts.feed(data):
                        self._outlet.put(self._answered(part))
                else:
                    self._outlet.put(data)
                await self._outlet.room()
        except (OSError, NotRtsp):  # the decoder hears nothing more, and says so
            pass
        finally:
            self._outlet.end()

    def _answered(self, part: Message | Packet) -> bytes:
        """What the decoder gets for it."""
        if isinstance(part, Packet):
            return framed(part.channel, part.data)
        track = self._asked.pop(part.number, None) if part.is_answer else None
        if track is None or not part.is_good or part.wants_tcp:
            return part.data
        if (ports := part.sends_from) is not None:
            track.begin(ports)
        return part.with_transport(track.told).data

    # -- from the decoder

    async def _up(self) -> None:
        loop, parts = asyncio.get_running_loop(), Interleaved()
        try:
            while data := await loop.sock_recv(self._ours, CHUNK):
                if self._datagrams:
                    for part in parts.feed(data):
                        self._ask(part)
                else:
                    self._writer.write(data)
                await self._writer.drain()
        except (OSError, NotRtsp):
            pass
        finally:
            self._writer.close()

    def _ask(self, part: Message | Packet) -> None:
        """Raises OSError where there are no ports for what it asks for."""
        if isinstance(part, Packet):
            for track in self._tracks.values():
                if part.channel == track.channels[1]:
                    track.report(part.data)
            return
        if (channels := part.wanted_channels) is not None:
            track = self._track(channels)
            self._asked[part.number] = track
            if len(self._asked) > _MOST_ASKED:
                raise NotRtsp("questions without an answer")
            part = part.with_transport(track.asked_for)
        self._writer.write(part.data)

    def _track(self, channels: tuple[int, int]) -> RtpTrack:
        if channels not in self._tracks:
            if len(self._tracks) >= MOST_TRACKS:
                raise NotRtsp("more tracks than any camera has")
            self._tracks[channels] = RtpTrack(self._here, self._camera, channels, self._outlet)
        return self._tracks[channels]

    def _resume(self) -> None:
        for track in self._tracks.values():
            track.resume()


async def relayed(
    ours: socket.socket, *, tls: ssl.SSLContext | None, name: str, datagrams: bool, within_s: float
) -> Relay:
    """A relay over a socket that is connected to the camera, which it takes over; ``name``: that its certificate has to
    have. Raises OSError, which ssl.SSLError is one of, and TimeoutError after ``within_s``."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection(
            sock=ours, ssl=tls, server_hostname=None if tls is None else name, limit=CHUNK
        )
    return Relay(reader, writer, datagrams=datagrams)


def _pair(ours: Where) -> tuple[socket.socket, socket.socket]:
    """Two sockets on ports that follow each other, the first even (RFC 3550, 11). Raises OSError."""
    for _ in range(_TRIES):
        one = _bound(ours, 0)
        port = one.getsockname()[1]
        try:
            other = _bound(ours, port ^ 1)
        except OSError:
            one.close()
            continue
        return (one, other) if port % 2 == 0 else (other, one)
    raise OSError(errno.EADDRINUSE, "no two ports that follow each other")


def _bound(ours: Where, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in ours[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KEPT)
        made.bind((ours[0], port, *ours[2:]))
    except BaseException:
        made.close()
        raise
    return made
