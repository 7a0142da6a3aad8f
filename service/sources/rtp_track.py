"""Media of one track by UDP (RFC 3550): from the camera's address alone, in order, to its decoder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable

from stmixer.service.sources.allowance import Allowance
from stmixer.service.sources.interleaved import LEAST_RTCP, framed
from stmixer.service.sources.missing_packets import MissingPackets
from stmixer.service.sources.outlet import Outlet
from stmixer.service.sources.packet_order import PacketOrder

RTP_KEPT, RTCP_KEPT = 1 << 20, 128 * 1024
"""Bytes of datagrams that the kernel is asked to keep for us (Linux: up to net.core.rmem_max): what is more is lost."""
AT_ONCE = 64
"""Datagrams that are read one after the other; then it is others' turn."""
_LONGEST = 65535
_TRIES = 20
_HELLO = b"\x80\x00" + bytes(10), b"\x80\xc9\x00\x01" + bytes(4)
"""An RTP packet and a receiver report that say nothing, for whatever stands in between to let answers through."""

Where = tuple[str, int] | tuple[str, int, int, int]
"""An address of a socket, of IPv4 or IPv6."""


class RtpTrack:
    """RTP and RTCP of one track, by UDP: to and from the ``camera``'s address alone.

    Once the camera has sent from the port that it named, the kernel drops what comes from elsewhere. Some send from
    another: whatever comes then is read here, and costs no more of the loop's thread than ``allowance``. Its CPU time
    counts: after a rest for what a busy machine takes packets would be lost.
    """

    def __init__(
        self,
        ours: Where,
        camera: Where,
        channels: tuple[int, int],
        outlet: Outlet,
        allowance: Allowance,
        missing: MissingPackets,
    ) -> None:
        """``ours``: the address of this machine that the camera knows. Raises OSError where there are no ports."""
        self.channels, self._camera, self._outlet, self._allowance = channels, camera, outlet, allowance
        self._rtp, self._rtcp = _pair(ours)
        self._rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTP_KEPT)
        self._order, self._missing, self._lost = PacketOrder(), missing, 0
        self._ports: tuple[int, int] | None = None
        self._kept_to = [False, False]
        self._held = False
        self._resting: asyncio.TimerHandle | None = None
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

    def hold(self) -> None:
        """Take nothing until ``let_go``, whatever else ``resume`` is called for: the kernel keeps it meanwhile."""
        self._held = True
        self.pause()

    def let_go(self) -> None:
        """Take what was kept, and what comes."""
        self._held = False
        self.resume()

    def resume(self) -> None:
        """Take what comes."""
        if self._resting is not None or self._held:
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._rtp, self._take, self._rtp, self._media)
        loop.add_reader(self._rtcp, self._take, self._rtcp, self._reports)

    def close(self) -> None:
        """Give the ports back."""
        self.pause()
        for timer in (self._looking, self._resting):
            if timer is not None:
                timer.cancel()
        self._rtp.close()
        self._rtcp.close()

    def _take(self, ours: socket.socket, put: Callable[[bytes], None]) -> None:
        began = time.thread_time()
        for _ in range(AT_ONCE):
            try:
                data, sender = ours.recvfrom(_LONGEST)
            except OSError:  # none waits, or the network says that one of ours found nobody
                break
            if sender[0] == self._camera[0]:
                self._keep_to(ours, sender)
                put(data)
            if self._outlet.full:
                self.pause()
                break
        if (rest_s := self._allowance.spend(time.thread_time() - began)) > 0 and self._resting is None:
            self.pause()
            self._resting = asyncio.get_running_loop().call_later(rest_s, self._rested)

    def _rested(self) -> None:
        self._resting = None
        if not self._outlet.full:
            self.resume()

    def _keep_to(self, ours: socket.socket, sender: Where) -> None:
        """Have the kernel drop what others send, once it is sure from where the camera does."""
        number = 0 if ours is self._rtp else 1
        if self._ports is None or self._kept_to[number] or sender[1] != self._ports[number]:
            return
        with contextlib.suppress(OSError):
            ours.connect(sender)
            self._kept_to[number] = True

    def _media(self, data: bytes) -> None:
        self._hand_on(self._order.put(data, asyncio.get_running_loop().time()))
        self._look_later()

    def _reports(self, data: bytes) -> None:
        if len(data) >= LEAST_RTCP:
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
        self._missing.add(self._order.lost - self._lost)
        self._lost = self._order.lost
        if packets:
            self._outlet.put(b"".join(framed(self.channels[0], packet) for packet in packets))

    def _send(self, ours: socket.socket, port: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it may be lost, as any datagram may
            ours.sendto(data, (self._camera[0], port, *self._camera[2:]))


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
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTCP_KEPT)
        made.bind((ours[0], port, *ours[2:]))
    except BaseException:
        made.close()
        raise
    return made
