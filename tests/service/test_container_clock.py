"""Times of a live container against the moments at which it comes, by a made-up clock."""

from __future__ import annotations

import io
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import av
import pytest
from live_video import picture

from stmixer.media.limits import Limits
from stmixer.service.decoder import process
from stmixer.service.decoder.cutting import Cutting
from stmixer.service.ipc.channel import Channel, Received
from stmixer.service.ipc.messages import Frames, OpenContainer, Opened, SamplingOrder, SourceEnded, SourceWarns, UseRing
from stmixer.service.ipc.ring import RingShape, create_ring

FRAMES, RATE = 120, 25
ORDER = OpenContainer(SamplingOrder((1, 15), 24, False, Limits.unlimited()))


class Line:
    """A channel to whoever gives a ring as soon as there is a picture, with room for all of them. ``said``: all that
    has come of it."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, message: object, payload: bytes = b"") -> None:
        self.said.append(message)

    def readable(self) -> bool:
        return False

    def receive(self) -> Received:
        (opened,) = (message for message in self.said if isinstance(message, Opened))
        shape = RingShape(opened.input_width, opened.input_height, 8)
        memory = create_ring(shape)
        return Received(UseRing(shape.width, shape.height, shape.capacity, 10**6), b"", [memory.fd])

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]


class Sender:
    """Gives a frame's bytes at a time, and turns the clock on by what lies between two."""

    def __init__(self, data: bytes, ends: list[int], every_s: float) -> None:
        self._data, self._ends, self._every_s = io.BytesIO(data), [*ends, len(data)], every_s
        self.now = 1000.0

    def read(self, size: int) -> bytes:
        while self._ends and self._data.tell() >= self._ends[0]:
            del self._ends[0]
            self.now += self._every_s
        return self._data.read(min(size, self._ends[0] - self._data.tell()) if self._ends else size)


def recorded(unit: Fraction) -> tuple[bytes, list[int]]:
    """Four seconds of WebM whose stamps count in ``unit`` times what they should, and where each frame of it ends."""
    target, ends = io.BytesIO(), list[int]()
    with av.open(target, "w", format="webm", options={"live": "1", "cluster_time_limit": "0"}) as output:
        track = output.add_stream("libvpx", rate=RATE)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        track.options = {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}
        for number in range(FRAMES):
            for packet in track.encode(picture(number)):
                packet.pts = packet.dts = round(Fraction(number * 1000, RATE) * max(unit, 1))
                packet.time_base = Fraction(1, 1000)
                output.mux(packet)
            ends.append(target.tell())
        output.mux(track.encode(None))
    data = bytearray(target.getvalue())
    at = data.index(b"\x2a\xd7\xb1\x83\x0f\x42\x40") + 4  # nanoseconds of a tick
    data[at : at + 3] = round(1_000_000 * min(unit, 1)).to_bytes(3)
    return bytes(data), ends


def told(data: bytes, ends: list[int], every_s: float, monkeypatch: pytest.MonkeyPatch) -> Line:
    """What a decoder says of a container that comes so."""
    line, sender = Line(), Sender(data, ends, every_s)
    clock = SimpleNamespace(monotonic=lambda: sender.now, thread_time=lambda: 0.0)
    monkeypatch.setattr(process, "time", clock)
    channel = cast(Channel, line)
    process.decode_video(channel, cast(BinaryIO, sender), ORDER, Cutting(channel))
    assert sum(len(message.pts_us) for message in line.of(Frames)) == FRAMES
    return line


UNITS = {
    "a thousand times too fast": (Fraction(1000), "1,000 times faster"),
    "a thousand times too slow": (Fraction(1, 1000), "1,000 times slower"),
}


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("every_s", [1 / RATE, 4 / RATE], ids=["in time", "behind time"])
def test_stamps_in_another_unit_are_told_while_they_come(
    kind: str, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, pace = UNITS[kind]
    line = told(*recorded(unit), every_s, monkeypatch)
    warnings = [message for message in line.of(SourceWarns) if "times " in message.message]
    assert [(w.code, w.message.partition(" than ")[0]) for w in warnings] == [("timestamps", f"timestamps run {pace}")]
    assert line.said.index(warnings[0]) < line.said.index(line.of(Frames)[-1])
    (ended,) = line.of(SourceEnded)
    assert warnings[0].message in ended.warnings


@pytest.mark.parametrize("every_s", [1 / RATE, 10 / RATE, 1e-4], ids=["in time", "slowly", "all at once"])
def test_stamps_in_their_own_unit_are_not(every_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    line = told(*recorded(Fraction(1)), every_s, monkeypatch)
    assert line.of(SourceWarns) == []
    assert line.of(SourceEnded)[0].warnings == ()


def transport(ticks: int) -> tuple[bytes, list[int]]:
    """Four seconds of MPEG-TS whose pictures lie so many ticks apart, and where each frame of it ends."""
    target, ends = io.BytesIO(), list[int]()
    with av.open(target, "w", format="mpegts", options={"flush_packets": "1"}) as output:
        track = output.add_stream("libx264", rate=RATE)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        track.options = {"preset": "ultrafast", "tune": "zerolatency"}
        for number in range(FRAMES):
            for packet in track.encode(picture(number)):
                packet.pts, packet.dts, packet.time_base = number * ticks, number * ticks, Fraction(1, 90_000)
                output.mux(packet)
            ends.append(target.tell())
        output.mux(track.encode(None))
    return target.getvalue(), ends


@pytest.mark.parametrize(("ticks", "pace"), [(40, "90 times slower"), (40_000, "11 times faster")])
@pytest.mark.parametrize("every_s", [1 / RATE, 1e-4], ids=["in time", "all at once"])
def test_other_units_than_the_ticks_of_mpeg_are_told_once_while_they_come(
    ticks: int, pace: str, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rate that the video says; what arrives at once is as fast in its own unit."""
    line = told(*transport(ticks), every_s, monkeypatch)
    (warning,) = line.of(SourceWarns)
    assert warning.message.startswith(f"timestamps run {pace} than at the video's own rate of 25 frames per second")
    assert line.said.index(warning) < line.said.index(line.of(Frames)[-1])
    assert line.of(SourceEnded)[0].warnings == (warning.message,)
    assert told(*transport(3600), every_s, monkeypatch).of(SourceWarns) == []
