"""A camera over RTSP: connected to here, at an address that was checked, and read by a decoder that gets the socket.

The decoder can reach nothing else (``decoder.seccomp``), and can be ended at any moment, whatever FFmpeg waits for.
Where the camera has a name, is reached by TLS, or sends by UDP, a ``relay`` stands in between, and the decoder gets an
end of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal

from stmixer.service.ipc.messages import OpenCamera, Progress
from stmixer.service.pulled_url import PulledUrl
from stmixer.service.sources.addresses import AddressPolicy, AddressRefused
from stmixer.service.sources.camera_name import CameraName
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.relay import Relay, relayed
from stmixer.service.sources.source import WHAT_IT_DID, DecodedSource
from stmixer.service.sources.trouble import Trouble
from stmixer.service.sources.trust import Trust, not_secured

CONNECT_S = 5.0
MOST_ADDRESSES = 8
"""Of one name, that are tried."""
RECEIVE_BUFFER = 256 * 1024
"""What the kernel may keep of a camera that sends faster than its pictures are decoded: a second or so, and no more."""
_BYTES_RECEIVED_AT = 128
"""Of ``struct tcp_info``: tcpi_bytes_received, a uint64 (linux/tcp.h, from 4.1 on)."""


async def connected(url: PulledUrl, policy: AddressPolicy) -> tuple[socket.socket, str]:
    """A socket to a checked address of the URL's host, and that address. Raises Trouble."""
    trouble = Trouble("unreachable", f"{url.host} has no address")
    addresses = await reachable(url, policy)
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        ours = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            ours.setblocking(False)
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            async with asyncio.timeout(connect_within_s(len(addresses))):
                await asyncio.get_running_loop().sock_connect(ours, (address, url.port))
            return ours, address
        except OSError as error:  # TimeoutError is one
            ours.close()
            trouble = not_reached(url, error)
        except BaseException:
            ours.close()
            raise
    raise trouble


def connect_within_s(addresses: int) -> float:
    """Seconds for a connection to each address of a name, so that dead ones keep no attempt apart from the next."""
    return max(CONNECT_S / addresses, 1.0)


async def reachable(url: PulledUrl, policy: AddressPolicy) -> tuple[str, ...]:
    """The addresses of its host that may be connected to. Raises Trouble."""
    try:
        async with asyncio.timeout(CONNECT_S):
            return (await policy.reach(url.host, url.port))[:MOST_ADDRESSES]
    except AddressRefused as error:
        raise Trouble("address_refused", str(error)) from None
    except TimeoutError:
        raise Trouble("name", f"nobody says within {CONNECT_S:g} s what the name {url.host} stands for") from None
    except (OSError, UnicodeError):
        raise Trouble("name", f"there is no host of the name {url.host}") from None


def taken_of_waiting(connection: socket.socket) -> int | None:
    """How many bytes of a TCP connection its readers have taken so far; None where none wait, or nobody knows."""
    try:
        waiting = int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), "little")
        about = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        received = struct.unpack_from("=Q", about, _BYTES_RECEIVED_AT)[0]
    except (OSError, struct.error):
        return None
    return int(received) - waiting if waiting else None


def not_reached(url: PulledUrl, error: OSError) -> Trouble:
    """What a failed connect means."""
    if error.errno == errno.ECONNREFUSED:
        return Trouble("refused", f"{url.place} refuses the connection: nothing listens there")
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return Trouble("timeout", f"{url.place} does not answer")
    return Trouble("unreachable", f"{url.place} cannot be reached ({os.strerror(error.errno or errno.EIO)})")


@dataclass(frozen=True, slots=True)
class Way:
    """How a camera is reached: by addresses that may be, whose certificate counts, and how its packets come."""

    policy: AddressPolicy
    trust: Trust = field(default_factory=Trust)
    transport: Literal["tcp", "udp"] = "tcp"


class Direct:
    """A connection that the decoder reads itself; ours is there to be looked at."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(True)  # as FFmpeg expects of one that is new
        self._socket = ours

    @property
    def connection(self) -> int:
        """The descriptor that the decoder gets."""
        return self._socket.fileno()

    def begun(self) -> None:
        """The decoder has its own."""

    def owed(self) -> int | None:
        """Bytes of the camera's that were taken, while some wait; while none do the camera has said nothing."""
        return taken_of_waiting(self._socket)

    async def close(self) -> None:
        """Hang up."""
        self._socket.close()


class CameraSource(DecodedSource):
    """One connection after another; each has a decoder of its own, which ends with it."""

    def __init__(self, context: SourceContext, url: PulledUrl, way: Way, silent_s: float) -> None:
        super().__init__(context)
        self._url, self._way, self._silent_s = url, way, silent_s
        self._line: Direct | Relay | None = None
        self._address = ""

    async def fetch(self, begun: Callable[[], None]) -> None:
        """Connect, and have a decoder read. Raises Trouble, CapacityError, ChannelError."""
        self._context.capture_origin_us = None  # each connection begins with a clock of its own
        ours, self._address = await connected(self._url, self._way.policy)
        self._line = await self._lined(ours)
        try:
            await self.open()
            self._line.begun()
            begun()
        except BaseException:
            await self._hang_up()
            raise

    async def _lined(self, ours: socket.socket) -> Direct | Relay:
        """What the decoder reads, over a connection. Raises Trouble."""
        url, way = self._url, self._way
        if url.scheme == "rtsp" and way.transport == "tcp" and url.host == self._address:
            return Direct(ours)
        try:
            tls = await asyncio.to_thread(way.trust.context, "rtsps") if url.scheme == "rtsps" else None
        except BaseException:
            ours.close()
            raise
        name, udp = CameraName(url, self._address), way.transport == "udp"
        try:
            return await relayed(ours, tls=tls, name=name, datagrams=udp, within_s=CONNECT_S, lost=self._missing)
        except ssl.SSLError as error:
            raise not_secured(url, error) from None
        except OSError as error:
            if isinstance(error, ConnectionError):
                what = "ends the connection where TLS is to begin"
                raise Trouble("connection_lost", f"{url.place} {what}") from None
            raise not_reached(url, error) from None

    def _missing(self, packets: int) -> None:
        said = f"{packets} packets of the camera are missing: lost on the network, or for want of time here"
        self._context.notice("packets_lost", f"{said}; over TCP none would be")
        self._context.warnings.append(said)
        self._context.changed()

    async def leave(self) -> None:
        """End what reads from this connection."""
        try:
            await self.close()
        finally:
            self._context.counts.cut("decoder")

    async def close(self) -> None:
        """Free everything, the connection as well."""
        try:
            await super().close()
        finally:
            await self._hang_up()

    @property
    def owes(self) -> bool:
        """Whether there is something that its decoder has not taken yet."""
        return self._owed() is not None

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with contextlib.suppress(OSError):
                await line.close()

    # -- to the decoder

    def _order(self, progress: Progress | None) -> tuple[OpenCamera, list[int]]:
        url = self._url.at(self._address, with_credentials=True, scheme="rtsp")  # TLS ends here
        return OpenCamera(self._context.sampling(), url, self._silent_s, progress), []

    def _connection(self) -> int | None:
        assert self._line is not None
        return self._line.connection

    def _owed(self) -> Hashable | None:
        """How far its decoder has come with what the camera has said; None while that has said nothing more."""
        return None if self._line is None else self._line.owed()

    async def _died(self, death: DecoderDied) -> bool:
        self._fail(WHAT_IT_DID[death.reason])
        return False

    # -- it has no socket that a client could lose

    def interrupt(self) -> None:
        """It has no client."""

    async def resume(self) -> None:
        """It was never interrupted."""

    async def ended(self) -> None:
        """It ends when its camera does."""
