"""Between a camera and its decoder: what of RTSP is read, packets in order, datagrams of nobody else, and TLS."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import socket
import ssl
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from cameras import certificate

from stmixer.service.pulled_url import parse_url
from stmixer.service.sources import interleaved, rtp_track
from stmixer.service.sources import relay as relay_module
from stmixer.service.sources.allowance import BURST_S, Allowance, LoopShare
from stmixer.service.sources.camera_name import CameraName
from stmixer.service.sources.interleaved import MOST_HEAD, Interleaved, Message, NotRtsp, Packet, framed
from stmixer.service.sources.missing_packets import MissingPackets
from stmixer.service.sources.outlet import Outlet
from stmixer.service.sources.packet_order import MOST_HELD, MOST_LATE, WAIT_S, PacketOrder
from stmixer.service.sources.relay import Relay, relayed
from stmixer.service.sources.rtp_track import RtpTrack, Where, _pair

SETUP = (
    b"SETUP rtsp://10.0.0.1:554/cam/track1 RTSP/1.0\r\nTransport: RTP/AVP/TCP;unicast;interleaved=2-3\r\n"
    b"CSeq: 4\r\nUser-Agent: Lavf\r\n\r\n"
)
ANSWER = (
    b"RTSP/1.0 200 OK\r\nCSeq: 4\r\ntransport: RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001;ssrc=1\r\n"
    b"Session: abc\r\n\r\n"
)
WITH_BODY = b"RTSP/1.0 200 OK\r\nCSeq: 2\r\ncontent-length: 7\r\n\r\nv=0\r\n$\x00"
NAME = CameraName(parse_url("rtsp://10.0.0.1/cam"), "10.0.0.1")


# -- messages and packets


@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_messages_and_packets_in_whatever_pieces(step: int) -> None:
    said = WITH_BODY + framed(2, b"first") + b"\r\n" + SETUP + framed(3, b"") + framed(200, b"$\x00\x00\x01") + ANSWER
    parts = Interleaved()
    found = [part for at in range(0, len(said), step) for part in parts.feed(said[at : at + step])]
    assert found == [
        Message(WITH_BODY), Packet(2, b"first"), Message(SETUP), Packet(3, b""), Packet(200, b"$\x00\x00\x01"),
        Message(ANSWER),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "said", [b"x" * MOST_HEAD, b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n"], ids=["no end", "a large body"]
)
def test_what_is_no_rtsp(said: bytes) -> None:
    with pytest.raises(NotRtsp):
        list(Interleaved().feed(said))


@pytest.mark.parametrize("blank", [b"\r", b"\r\n", b" \r\n\r\n"])
def test_thousands_of_empty_lines_are_one_piece(blank: bytes) -> None:
    """They give nothing after which others could have a turn."""
    parts, looks = Interleaved(), 0
    found_size = parts._found_size

    def look() -> int | None:
        nonlocal looks
        looks += 1
        return found_size()

    parts._found_size = look  # type: ignore[method-assign]
    assert list(parts.feed(blank * 10_000 + framed(2, b"after") + blank * 10_000)) == [Packet(2, b"after")]
    assert looks == 3


def test_what_is_read_of_a_setup() -> None:
    setup, answer = Message(SETUP), Message(ANSWER)
    assert (setup.number, setup.wanted_channels, setup.is_answer) == (4, (2, 3), False)
    assert (answer.number, answer.wanted_channels, answer.is_answer, answer.is_good) == (4, None, True, True)
    assert (answer.sends_from, answer.wants_tcp) == ((6000, 6001), False)
    assert setup.with_transport("RTP/AVP;unicast;client_port=7000-7001").data == SETUP.replace(
        b"RTP/AVP/TCP;unicast;interleaved=2-3", b"RTP/AVP;unicast;client_port=7000-7001"
    )
    assert b"\r\nTransport: x\r\nSession: abc\r\n\r\n" in answer.with_transport("x").data
    one_port = Message(ANSWER.replace(b"6000-6001", b"6000"))
    assert one_port.sends_from == (6000, 6001)
    assert Message(ANSWER.replace(b"6000-6001", b"99999")).sends_from is None
    refused = Message(b"RTSP/1.0 461 Unsupported Transport\r\nCSeq: 4\r\n\r\n")
    assert (refused.is_good, refused.sends_from) == (False, None)
    # what stands in a body is no line of a head
    told = Message(b"RTSP/1.0 200 OK\r\n\r\nTransport: a;server_port=1-2\r\nCSeq: 7\r\n\r\n")
    assert (told.number, told.sends_from) == (None, None)
    play = Message(b"PLAY rtsp://x RTSP/1.0\r\nCSeq: 5\r\nTransport: interleaved=0-1\r\n\r\n")
    assert play.wanted_channels is None


def test_what_is_known_of_a_message_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come byte by byte."""

    class Pattern:
        def __init__(self) -> None:
            self.asked = 0

        def findall(self, data: bytearray, start: int, end: int) -> list[bytes]:
            self.asked += 1
            return [b"1000"]

    pattern, parts = Pattern(), Interleaved()
    monkeypatch.setattr(interleaved, "_LENGTH", pattern)
    said = b"RTSP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(1000)
    found = [part for at in range(len(said)) for part in parts.feed(said[at : at + 1])]
    assert found == [Message(said)]
    assert pattern.asked == 1


# -- the order of packets


REPORT = b"\x80\xc8\x00\x06" + bytes(24)
"""A sender's (RFC 3550, 6.4.1)."""


def rtp(number: int, source: int = 1) -> bytes:
    return b"\x80\x60" + (number % 0x10000).to_bytes(2) + bytes(4) + source.to_bytes(4) + b"%d" % number


def put(order: PacketOrder, *numbers: int, now: float = 0.0) -> list[int]:
    """The numbers that come out for those that go in."""
    return [int(packet[12:]) for number in numbers for packet in order.put(rtp(number), now)]


def test_packets_come_in_their_order() -> None:
    order = PacketOrder()
    assert put(order, 7, 8, 10, 9, 11) == [7, 8, 9, 10, 11]
    assert put(order, 14, 13, 12, 13, 15) == [12, 13, 14, 15]
    assert (order.late, order.waits_until) == (1, None)


def test_numbers_run_over() -> None:
    order = PacketOrder()
    assert put(order, 65534, 65536, 65535, 65537) == [65534, 65535, 65536, 65537]


def test_what_is_lost_holds_up_nobody_for_long() -> None:
    order = PacketOrder()
    assert put(order, 1, now=5.0) == [1]
    assert put(order, 3, now=5.01) == []
    assert put(order, 4, 6, now=5.05) == []
    assert order.waits_until == 5.01 + WAIT_S
    assert order.overdue(5.01 + WAIT_S / 2) == []
    assert [int(packet[12:]) for packet in order.overdue(5.02 + WAIT_S)] == [3, 4]
    assert order.waits_until == 5.05 + WAIT_S
    assert put(order, 2, now=5.2) == []  # nobody waits for it any more
    assert put(order, 5, now=5.2) == [5, 6]
    assert (order.late, order.lost) == (1, 1)


def test_so_many_wait_at_most() -> None:
    order = PacketOrder()
    put(order, 1)
    found = put(order, *range(3, MOST_HELD + 4))
    assert found == list(range(3, MOST_HELD + 4))


def test_a_sender_that_begins_anew_is_followed() -> None:
    order = PacketOrder()
    assert put(order, 100, 101, 103) == [100, 101]
    assert put(order, 30_000, 30_001) == [103, 30_000, 30_001]
    assert put(order, 5) == [5]
    assert order.put(rtp(6)[:11], 0.0) == []  # no whole head
    assert put(order, 6) == [6]


def test_a_sender_that_goes_back_is_followed_soon() -> None:
    """By its own number at once (RFC 3550, 8), else after some that look as if they came too late."""
    order = PacketOrder()
    assert put(order, *range(2000)) == list(range(2000))
    assert [int(packet[12:]) for number in (7, 8) for packet in order.put(rtp(number, source=2), 0.0)] == [7, 8]
    assert order.late == 0
    assert put(order, *range(2000, 4000)) == list(range(2000, 4000))
    assert put(order, *range(3990, 4001)) == [4000]  # a network that repeats is none
    before = order.late
    assert put(order, *range(3000, 4000)) == list(range(3000 + MOST_LATE, 4000))
    assert order.late - before == order.lost == MOST_LATE


def test_a_single_packet_from_afar_is_not_followed() -> None:
    order, now, found = PacketOrder(), 0.0, list[int]()
    for number in range(3000):
        now += 0.003
        if number == 1000:
            assert put(order, number + 1990, now=now) == []
        found += put(order, number, now=now)
        found += [int(packet[12:]) for packet in order.overdue(now)]
    assert found == list(range(3000))
    assert (order.late, order.lost) == (0, 0)


def test_after_many_were_lost_it_goes_on() -> None:
    order = PacketOrder()
    assert put(order, 1) == [1]
    assert put(order, 500, now=1.0) == []
    assert order.waits_until is None
    assert put(order, 501, now=1.5) == []
    assert [int(packet[12:]) for packet in order.overdue(1.5)] == [500, 501]
    assert put(order, 502, now=1.6) == [502]
    assert order.lost == 498


# -- a relay


@asynccontextmanager
async def between(
    *, datagrams: bool, lost: list[int] | None = None
) -> AsyncIterator[tuple[Relay, socket.socket, socket.socket]]:
    """A relay, and both ends: the camera's, and the decoder's. ``lost`` gets how many packets are missing."""
    lost = [] if lost is None else lost
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        ours = socket.socket()
        ours.setblocking(False)
        await loop.sock_connect(ours, listening.getsockname())
        camera, _ = await loop.sock_accept(listening)
    made = await relayed(ours, tls=None, name=NAME, datagrams=datagrams, within_s=20, lost=lost.append)
    decoder = socket.socket(fileno=socket.dup(made.connection))
    made.begun()
    decoder.setblocking(False)
    try:
        yield made, camera, decoder
    finally:
        await made.close()
        camera.close()
        decoder.close()


async def read(ours: socket.socket, size: int) -> bytes:
    """So many bytes."""
    found = b""
    async with asyncio.timeout(60):
        while len(found) < size:
            found += await asyncio.get_running_loop().sock_recv(ours, size - len(found))
    return found


async def until_asked(camera: socket.socket) -> bytes:
    """A message that the camera gets."""
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        found += await read(camera, 1)
    return found


def test_media_come_by_datagrams_of_the_camera_alone() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with between(datagrams=True) as (_, camera, decoder):
            await loop.sock_sendall(decoder, b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 3\r\n\r\n" + SETUP)
            assert (await until_asked(camera)).startswith(b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 3")
            asked = Message(await until_asked(camera))
            head, _, ports = asked._transport.partition(b"client_port=")
            assert head == b"Transport: RTP/AVP;unicast;"
            first, second = map(int, ports.split(b"-"))
            assert (first % 2, second) == (0, first + 1)
            sends = _pair(("127.0.0.1", 0))
            theirs = tuple(one.getsockname()[1] for one in sends)
            answer = ANSWER.replace(b"6000-6001", b"%d-%d" % theirs)
            # a question of the camera's own with the same number is no answer
            await loop.sock_sendall(camera, b"OPTIONS * RTSP/1.0\r\nCSeq: 4\r\n\r\n" + answer)
            assert await until_asked(decoder) == b"OPTIONS * RTSP/1.0\r\nCSeq: 4\r\n\r\n"
            told = Message(await until_asked(decoder))
            assert told._transport == b"Transport: RTP/AVP/TCP;unicast;interleaved=2-3"
            for one in sends:  # whatever stands in between lets answers through
                assert await loop.sock_recv(one, 100)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(("127.0.0.2", 0))
                other.sendto(rtp(1) + b" of another", ("127.0.0.1", first))
            for cut in range(12):  # FFmpeg would lose its place: those of less than 8 bytes
                sends[0].sendto(rtp(9)[:cut], ("127.0.0.1", first))
                if cut < 8:
                    sends[1].sendto(REPORT[:cut], ("127.0.0.1", second))
            for number in (1, 3, 2):
                sends[0].sendto(rtp(number), ("127.0.0.1", first))
            sends[1].sendto(REPORT, ("127.0.0.1", second))
            wanted = {framed(2, rtp(1)), framed(2, rtp(2)), framed(2, rtp(3)), framed(3, REPORT)}
            said = await read(decoder, sum(map(len, wanted)))
            packets = [part for part in Interleaved().feed(said) if isinstance(part, Packet)]
            assert [p.data for p in packets if p.channel == 2] == [rtp(1), rtp(2), rtp(3)]
            assert [p.data for p in packets if p.channel == 3] == [REPORT]
            await loop.sock_sendall(decoder, framed(3, b"heard"))
            assert await loop.sock_recv(sends[1], 100) == b"heard"
            for one in sends:
                one.close()

    asyncio.run(run())


def test_media_that_come_before_the_answer_to_play_wait_for_it() -> None:
    """By UDP they may; FFmpeg takes what comes before an answer for none."""

    async def run() -> None:
        loop, play = asyncio.get_running_loop(), b"PLAY rtsp://x RTSP/1.0\r\nCSeq: 5\r\n\r\n"
        answer = b"RTSP/1.0 200 OK\r\nCSeq: 5\r\nSession: abc\r\n\r\n"
        async with between(datagrams=True) as (_, camera, decoder):
            await loop.sock_sendall(decoder, SETUP)
            port = int(Message(await until_asked(camera))._transport.partition(b"client_port=")[2].split(b"-")[0])
            rtp_from, rtcp_from = _pair(("127.0.0.1", 0))
            ports = b"%d-%d" % (rtp_from.getsockname()[1], rtcp_from.getsockname()[1])
            await loop.sock_sendall(camera, ANSWER.replace(b"6000-6001", ports))
            await until_asked(decoder)
            await loop.sock_sendall(decoder, play)
            assert await until_asked(camera) == play
            for number in (1, 2):
                rtp_from.sendto(rtp(number), ("127.0.0.1", port))
            rtcp_from.sendto(REPORT, ("127.0.0.1", port + 1))
            for _ in range(100):  # the loop has looked at what has come
                await asyncio.sleep(0)
            await loop.sock_sendall(camera, answer)
            wanted = answer + framed(2, rtp(1)) + framed(2, rtp(2)) + framed(3, REPORT)
            said = await read(decoder, len(wanted))
            assert said.startswith(answer)
            assert sorted(part.data for part in Interleaved().feed(said[len(answer) :])) == sorted(
                [rtp(1), rtp(2), REPORT]
            )
            rtp_from.close()
            rtcp_from.close()

    asyncio.run(run())


def test_packets_without_a_head_come_from_nowhere() -> None:
    """FFmpeg would lose its place in the connection: also where a camera sends them within that."""

    async def run() -> None:
        async with between(datagrams=True) as (_, camera, decoder):
            cut = [
                framed(channel, (REPORT if channel % 2 else rtp(1))[:size]) for channel in range(4) for size in range(8)
            ]
            cut += [framed(channel, rtp(1)[:size]) for channel in (0, 2) for size in range(8, 12)]
            whole = framed(2, rtp(1)[:12]) + framed(3, REPORT[:8]) + framed(0, rtp(2))
            await asyncio.get_running_loop().sock_sendall(camera, b"".join(cut) + whole)
            assert await read(decoder, len(whole)) == whole

    asyncio.run(run())


def test_a_lost_datagram_is_waited_for_and_no_longer() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        lost = list[int]()
        async with between(datagrams=True, lost=lost) as (_, camera, decoder):
            await loop.sock_sendall(decoder, SETUP)
            port = int(Message(await until_asked(camera))._transport.partition(b"client_port=")[2].split(b"-")[0])
            await loop.sock_sendall(camera, ANSWER)
            await until_asked(decoder)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sends:
                sends.bind(("127.0.0.1", 0))
                for number in (1, 3):
                    sends.sendto(rtp(number), ("127.0.0.1", port))
                assert await read(decoder, 34) == framed(2, rtp(1)) + framed(2, rtp(3))
        assert lost == [1]

    asyncio.run(run())


def test_losses_are_told_once_while_they_last() -> None:
    async def run() -> None:
        told = list[int]()
        missing = MissingPackets(told.append)
        missing.add(0)
        assert missing._looking is None
        for count in (3, 0, 2):
            missing.add(count)
        assert told == []
        missing._look()
        assert told == [5]
        missing.add(4)
        missing._look()
        assert told == [5]  # it goes on as it began
        missing._look()
        missing.add(1)
        missing.close()
        missing.close()
        assert told == [5, 1]

    asyncio.run(run())


def test_the_kernel_keeps_a_mebibyte_of_media() -> None:
    """Or as much as it may."""

    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as like:
            like.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            most = like.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        async with track_of(("127.0.0.1", 554), Allowance()) as (track, _):
            assert track._rtp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == most

    asyncio.run(run())


def test_a_connection_that_nobody_takes_over_is_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, "too many open files")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, camera = socket.socketpair()
        ours.setblocking(False)
        camera.setblocking(False)
        monkeypatch.setattr(socket, "socketpair", none_left)
        with camera:
            with pytest.raises(OSError, match="too many") as raised:
                await relayed(ours, tls=None, name=NAME, datagrams=False, within_s=20, lost=print)
            async with asyncio.timeout(60):
                assert await loop.sock_recv(camera, 1) == b""
        assert raised.value.errno == errno.EMFILE  # whose frames still have the connection

    asyncio.run(run())


def test_a_decoder_that_takes_nothing_is_owed_and_the_rest_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "KEPT", 4096)
    monkeypatch.setattr(rtp_track, "RTP_KEPT", 4096)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with between(datagrams=True) as (made, camera, decoder):
            assert made.owed() is None
            await loop.sock_sendall(decoder, SETUP)
            port = int(Message(await until_asked(camera))._transport.partition(b"client_port=")[2].split(b"-")[0])
            await loop.sock_sendall(camera, ANSWER)
            await until_asked(decoder)
            assert made.owed() is None
            number = 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sends:
                sends.bind(("127.0.0.1", 0))
                while not made._outlet.full:
                    sends.sendto(rtp(number).ljust(1000, b"x"), ("127.0.0.1", port))
                    number += 1
                    await asyncio.sleep(0)
                before = made.owed()
                assert before is not None
                for _ in range(100):  # nobody reads them now
                    sends.sendto(rtp(number).ljust(1000, b"x"), ("127.0.0.1", port))
                    number += 1
                    await asyncio.sleep(0)
                assert made.owed() == before
            parts, found = Interleaved(), list[int]()
            async with asyncio.timeout(60):
                while made.owed() is not None or not found:
                    for part in parts.feed(await loop.sock_recv(decoder, 65536)):
                        assert isinstance(part, Packet)
                        found.append(int.from_bytes(part.data[2:4]))
                    await asyncio.sleep(0)
            assert found[0] == 0
            assert all(later > sooner for sooner, later in pairwise(found))
            assert len(found) < number

    asyncio.run(run())


@pytest.mark.parametrize("datagrams", [False, True])
def test_an_end_is_passed_on(datagrams: bool) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with between(datagrams=datagrams) as (_, camera, decoder):
            await loop.sock_sendall(camera, WITH_BODY)
            camera.shutdown(socket.SHUT_WR)
            assert await read(decoder, len(WITH_BODY)) == WITH_BODY
            async with asyncio.timeout(60):
                assert await loop.sock_recv(decoder, 1) == b""
        async with between(datagrams=datagrams) as (_, camera, decoder):
            decoder.close()
            async with asyncio.timeout(60):
                assert await loop.sock_recv(camera, 1) == b""

    asyncio.run(run())


def test_a_decoder_that_speaks_no_rtsp_is_passed_on_no_more() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        setups = [SETUP.replace(b"CSeq: 4", b"CSeq: %d" % n) for n in range(40)]
        tracks = [SETUP.replace(b"2-3", b"%d-%d" % (n, n + 1)) for n in range(6)]
        for said in (b"x" * MOST_HEAD, b"".join(setups), b"".join(tracks)):
            async with between(datagrams=True) as (_, camera, decoder):
                sending = asyncio.create_task(loop.sock_sendall(decoder, said))
                async with asyncio.timeout(60):
                    while await loop.sock_recv(camera, 65536):
                        pass
                await asyncio.gather(sending, return_exceptions=True)

    asyncio.run(run())


def filled(ours: socket.socket, data: bytes) -> int:
    """Bytes that the kernel takes at once."""
    sent = 0
    try:
        while True:
            sent += ours.send(data)
    except BlockingIOError:
        return sent


def test_what_a_decoder_says_without_end_keeps_nobody_from_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is little work: there is data at every look, and nothing that waits for room."""
    monkeypatch.setattr(relay_module, "CHUNK", 4096)

    async def run() -> None:
        turn, turns = 0, list[int]()
        monkeypatch.setattr(Relay, "_ask", lambda self, part: turns.append(turn) or b"")
        async with between(datagrams=True) as (_, _, decoder):
            whole = filled(decoder, framed(3, bytes(4092))) // 4096
            async with asyncio.timeout(60):
                while len(turns) < whole:
                    turn += 1
                    await asyncio.sleep(0)
        assert whole >= 8
        assert len(set(turns)) == whole

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "most"), [(framed(3, b""), 16), (b"PLAY a b\r\n\r\n", 1)], ids=["packets", "messages"]
)
@pytest.mark.parametrize("way", ["up", "down"])
def test_others_have_a_turn_among_tiny_packets_and_after_each_message(
    way: str, said: bytes, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "AT_ONCE", 16, raising=False)

    class Turns(LoopShare):
        async def let_others(self) -> None:
            nonlocal turn
            turn += 1
            await asyncio.sleep(0)

    turn, turns = 0, list[int]()
    monkeypatch.setattr(relay_module, "LoopShare", Turns, raising=False)

    def passed(self: Relay, part: Message | Packet) -> bytes:
        turns.append(turn)
        return b""

    monkeypatch.setattr(Relay, "_ask", passed)
    monkeypatch.setattr(Relay, "_answered", passed)

    async def run() -> None:
        async with between(datagrams=True) as (_, camera, decoder):
            await asyncio.get_running_loop().sock_sendall(decoder if way == "up" else camera, said * 1000)
            async with asyncio.timeout(60):
                while len(turns) < 1000:  # noqa: ASYNC110 - a relay tells nobody
                    await asyncio.sleep(0)

    asyncio.run(run())
    assert max(map(turns.count, set(turns))) <= most


@asynccontextmanager
async def track_of(camera: Where, allowance: Allowance) -> AsyncIterator[tuple[RtpTrack, socket.socket]]:
    """A track whose packets come out at the second."""
    ours, decoder = socket.socketpair()
    ours.setblocking(False)
    decoder.setblocking(False)
    outlet = Outlet(ours, lambda: None)
    track = RtpTrack(("127.0.0.1", 0), camera, (2, 3), outlet, allowance, MissingPackets(print))
    try:
        yield track, decoder
    finally:
        track.close()
        outlet.close()
        ours.close()
        decoder.close()


def waiting(ours: socket.socket) -> int:
    """Bytes of the datagram that comes next."""
    return int.from_bytes(fcntl.ioctl(ours, termios.FIONREAD, bytes(4)), "little")


@pytest.mark.parametrize("as_said", [True, False])
def test_the_kernel_drops_what_others_send(as_said: bool) -> None:
    """Where the camera sends from the port that it named; one that does not is heard all the same."""

    async def run() -> None:
        sends = _pair(("127.0.0.1", 0))
        with sends[0], sends[1], socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            ports = tuple(one.getsockname()[1] for one in sends)
            async with track_of(("127.0.0.1", 554), Allowance()) as (track, decoder):
                track.begin((ports[0], ports[1]) if as_said else (ports[1], ports[0]))
                for sender, ours, packet in zip(sends, (track._rtp, track._rtcp), (rtp(1), REPORT), strict=True):
                    sender.sendto(packet, ours.getsockname())
                    assert (await read(decoder, 4 + len(packet)))[4:] == packet
                    other.sendto(b"x" * 20, ours.getsockname())
                    assert waiting(ours) == (0 if as_said else 20)
                sends[0].sendto(rtp(2), track._rtp.getsockname())
                assert (await read(decoder, 4 + len(rtp(2))))[4:] == rtp(2)
                track.report(b"heard")
                where = sends[1 if as_said else 0]
                where.settimeout(20)
                found = b""
                while found != b"heard":
                    found = where.recv(100)

    asyncio.run(run())


def test_a_camera_that_hears_nobody_is_heard() -> None:
    """Of what we say to a port that is closed the network tells us."""

    async def run() -> None:
        rtp_socket, rtcp_socket = _pair(("127.0.0.1", 0))
        with rtp_socket:
            ports = rtp_socket.getsockname()[1], rtcp_socket.getsockname()[1]
            async with track_of(("127.0.0.1", 554), Allowance()) as (track, decoder):
                track.begin(ports)
                rtcp_socket.sendto(REPORT, track._rtcp.getsockname())
                await read(decoder, 4 + len(REPORT))
                rtcp_socket.close()
                for _ in range(3):
                    track.report(b"heard")
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                    again.bind(("127.0.0.1", ports[1]))
                    again.sendto(REPORT, track._rtcp.getsockname())
                    assert (await read(decoder, 4 + len(REPORT)))[4:] == REPORT

    asyncio.run(run())


def test_a_machine_that_is_busy_with_others_costs_no_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes from the loop is nobody's share: a rest would lose what comes meanwhile."""

    class Stalls:
        thread_time = staticmethod(time.thread_time)
        at = itertools.count(step=10.0)

        @classmethod
        def perf_counter(cls) -> float:
            return next(cls.at)

    monkeypatch.setattr(rtp_track, "time", Stalls)

    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sends:
            sends.bind(("127.0.0.1", 0))
            async with track_of(("127.0.0.1", 554), Allowance()) as (track, decoder):
                for number in range(3):
                    sends.sendto(rtp(number), track._rtp.getsockname())
                    assert (await read(decoder, 4 + len(rtp(number))))[4:] == rtp(number)
                    assert track._resting is None

    asyncio.run(run())


def test_a_flood_of_others_has_its_share_of_the_loop() -> None:
    """Then it is left to the kernel, until its time has come again."""

    async def run() -> None:
        clock = 0.0
        allowance = Allowance(lambda: clock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            async with track_of(("127.0.0.1", 554), allowance) as (track, _):
                other.sendto(b"x" * 20, track._rtp.getsockname())
                async with asyncio.timeout(60):
                    while waiting(track._rtp):  # noqa: ASYNC110 - a track tells nobody
                        await asyncio.sleep(0)
                assert track._resting is None
                allowance.spend(2 * BURST_S)
                other.sendto(b"x" * 20, track._rtp.getsockname())
                async with asyncio.timeout(60):
                    while track._resting is None:  # noqa: ASYNC110 - a track tells nobody
                        await asyncio.sleep(0)
                track.resume()  # the decoder has room: that alone is no reason
                assert not asyncio.get_running_loop().remove_reader(track._rtp)
                clock = 3600.0
                other.sendto(b"x" * 20, track._rtp.getsockname())
                async with asyncio.timeout(60):
                    while waiting(track._rtp):  # noqa: ASYNC110 - a track tells nobody
                        await asyncio.sleep(0)
                assert track._resting is None

    asyncio.run(run())


def test_two_ports_follow_each_other_the_first_even() -> None:
    here: Where = ("127.0.0.1", 0)
    for _ in range(5):
        rtp_socket, rtcp_socket = _pair(here)
        with rtp_socket, rtcp_socket:
            first, second = rtp_socket.getsockname()[1], rtcp_socket.getsockname()[1]
            assert (first % 2, second) == (0, first + 1)


def test_a_certificate_has_to_have_the_name(tmp_path: Path) -> None:
    its = certificate(tmp_path)
    tls = ssl.create_default_context(cafile=its)

    async def run() -> None:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(its, its.with_suffix(".key"))
        loop, server = (
            asyncio.get_running_loop(),
            await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=serving),
        )
        async with server:
            for host, good in (("127.0.0.1", True), ("cam.example", False)):
                ours, name = socket.socket(), CameraName(parse_url(f"rtsps://{host}/cam"), "127.0.0.1")
                ours.setblocking(False)
                await loop.sock_connect(ours, server.sockets[0].getsockname())
                if good:
                    await (await relayed(ours, tls=tls, name=name, datagrams=False, within_s=20, lost=print)).close()
                else:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        await relayed(ours, tls=tls, name=name, datagrams=False, within_s=20, lost=print)

    asyncio.run(run())
