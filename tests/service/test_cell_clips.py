"""What a decoder gives of a clip in its cell is what it gives outside: of the whole corpus, every sample's pixels."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import OWN_CLIPS, shared_clips

from stmixer.media.limits import Limits
from stmixer.service.decoder.sampling import REWRITES_BITS
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import (
    Frames,
    FramesDropped,
    Opened,
    OpenUpload,
    RaiseLimit,
    RingFull,
    SampleWritten,
    SamplingOrder,
    SourceEnded,
    SourceFailed,
    SourceWarns,
    UseRing,
)
from stmixer.service.ipc.ring import Ring, RingShape, create_ring
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DECODER_MODULE, DecoderPool

SLOTS, MOST_SAMPLES = 16, 32
LIMITS = Limits(3840, 2160, 600.0, 3840 * 2160)
UNTIL_IT_HANGS_S = 300


@dataclass
class Told:
    """All that a decoder says of a clip, and what its samples look like, by number."""

    opened: Opened | None = None
    pts_us: list[int] = field(default_factory=list)
    not_sampled: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    warned: list[tuple[str, str]] = field(default_factory=list)
    samples: dict[int, tuple[int, int, str]] = field(default_factory=dict)
    end: SourceEnded | SourceFailed | None = None
    _ring: Ring | None = None
    _unseen: dict[int, SampleWritten] = field(default_factory=dict)

    def take(self, message: Any) -> list[object]:
        """What it says next; what it is told then."""
        match message:
            case Opened():
                self.opened = message
                return [UseRing(message.input_width, message.input_height, SLOTS, SLOTS)]
            case SampleWritten(number):
                self._unseen[number] = message
            case Frames():
                self.pts_us += message.pts_us
                self.not_sampled += message.not_sampled
            case FramesDropped(reason, count):
                self.dropped[reason] = self.dropped.get(reason, 0) + count
            case SourceWarns(code, text):
                self.warned.append((code, text))
            case RingFull(number):
                self.look(before=number - 1)  # the newest may be written once more
                return [RaiseLimit(number - 1 + SLOTS)]
            case SourceEnded() | SourceFailed():
                self.look()
                self.end = message
        return []

    def look(self, before: int | None = None) -> None:
        """At the samples up to there."""
        for number in [n for n in self._unseen if before is None or n < before]:
            sample = self._unseen.pop(number)
            assert self._ring is not None
            assert sample.generation >> REWRITES_BITS == number
            pixels = self._ring.read([number % SLOTS], [sample.generation])
            assert pixels is not None, "nobody writes there yet"
            self.samples[number] = sample.index, sample.pts_us, hashlib.sha256(pixels.tobytes()).hexdigest()


async def read(decoder: Child, clip: Path, threads: int) -> Told:
    """A clip to its end, or its first samples."""
    told, order = Told(), OpenUpload(SamplingOrder((1, 15), 128, True, LIMITS, threads=threads))
    with clip.open("rb") as file:
        await decoder.channel.send(order, fds=[file.fileno()])
    while told.end is None and len(told.samples) < MOST_SAMPLES:
        received = await decoder.channel.receive()
        assert received is not None, f"{clip.name}: it ended in the middle"
        for answer in told.take(received.message):
            if isinstance(answer, UseRing):
                memory = create_ring(RingShape(answer.width, answer.height, answer.capacity))
                told._ring = Ring(os.dup(memory.fd), memory.shape, writable=False)
                await decoder.channel.send(answer, fds=[memory.fd])
                memory.close()
            else:
                await decoder.channel.send(answer)
    return told


def walls_of(decoder: Child) -> tuple[int, int]:
    """Whether it may gain privileges no more, and its seccomp mode."""
    lines = Path(f"/proc/{decoder.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return int(status["NoNewPrivs"]), int(status["Seccomp"])


async def compare(clips: list[Path], threads: int) -> list[str]:
    """The clips of which inside and outside say different things; what is said of them must be something."""
    inside, outside = (DecoderPool(Settings(idle_decoders=1), m) for m in (DECODER_MODULE, "uncelled_decoder"))
    different = []

    async def told_in(pool: DecoderPool, clip: Path) -> Told:
        decoder = await pool.acquire()
        try:
            no_privileges, seccomp = walls_of(decoder)
            shut = pool is inside
            assert no_privileges == shut
            assert (seccomp == 2) == (shut and not any("seccomp" in wall for wall in pool.missing_walls))
            return await read(decoder, clip, threads)
        finally:
            await pool.release(decoder, clean=False)

    try:
        for clip in clips:
            one, other = await asyncio.wait_for(
                asyncio.gather(told_in(inside, clip), told_in(outside, clip)), UNTIL_IT_HANGS_S
            )
            assert one.samples or one.end is not None
            whole = one.end is not None
            same = (one.opened, one.samples, one.end) == (other.opened, other.samples, other.end)
            if whole:
                same = same and (one.pts_us, one.not_sampled, one.dropped, one.warned) == (
                    other.pts_us, other.not_sampled, other.dropped, other.warned,
                )  # fmt: skip
            if not same:
                different.append(clip.name)
    finally:
        await asyncio.gather(inside.stop(), outside.stop())
    return different


def test_our_own_clips() -> None:
    assert asyncio.run(compare(sorted(OWN_CLIPS.glob("*.mp4")), threads=2)) == []


@pytest.mark.slow
def test_the_whole_corpus() -> None:
    """By one thread: what FFmpeg makes of a damaged picture depends on how far another thread has come."""
    if not (clips := [*shared_clips("*"), *shared_clips("odd/*")]):
        pytest.skip("the shared clips are not here")
    assert asyncio.run(compare(clips, threads=1)) == []
