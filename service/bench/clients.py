"""The bench's clients: cameras that film until they are told to stop, uploaders that post clip after clip."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from stmixer.service.bench.film import Film
from stmixer.service.bench.tally import Sent, Tally
from stmixer.service.client import AsyncClient, AsyncLiveStream, ServiceError, StreamOptions

Codec = Literal["jpeg", "webm", "mpegts"]
Policy = Literal["latest", "all"]
RETRY_S = 0.5
STALL_S = 3.0
JUMP_US = 5_000_000
GARBAGE = b"\xff\xd8\xff" + bytes(64)

CAMERA_FAULTS = ("stall", "corrupt", "jump", "half_open", "slow_reader")
"""A sender that stops for a while, a broken picture, a leap of timestamps, a socket that is left open and never spoken
to again while its client comes back on another, a reader that does not read for a while."""


@dataclass(frozen=True)
class Camera:
    """What a camera does. ``jitter_ms``: each picture is sent up to this much late; ``fault_every_s``: 0 for none."""

    film: Film
    codec: Codec = "jpeg"
    policy: Policy = "latest"
    keyframe_hz: float = 2.0
    lookahead_ms: float | None = None
    jitter_ms: float = 0.0
    faults: Sequence[str] = ()
    fault_every_s: float = 0.0


class Filming:
    """One camera at work: connects, films, comes back when its socket is lost."""

    def __init__(self, client: AsyncClient, camera: Camera, tally: Tally, seed: int) -> None:
        self._client, self._camera, self._tally = client, camera, tally
        self._chance = random.Random(seed)
        self._token: str | None = None
        self._half_open = asyncio.Event()
        self._abandoned = AsyncExitStack()
        self._origin = time.monotonic()
        self._shift_us = 0
        self._reads = asyncio.Event()
        self._reads.set()
        self._sent = Sent()
        self._next_fault = self._fault_time()

    async def until(self, end: float) -> None:
        """Film until that moment (monotonic seconds), whatever happens."""
        async with self._abandoned:
            while time.monotonic() < end:
                await self._once(end)

    async def _once(self, end: float) -> None:
        """One socket, to its end."""
        try:
            await self._stream(end)
        except ServiceError as error:
            self._tally.ends[error.code] += 1
            if error.retry_after_s is None:
                self._token = None
            await asyncio.sleep(RETRY_S)
        except (OSError, TimeoutError) as error:
            self._tally.ends[type(error).__name__] += 1
            await asyncio.sleep(RETRY_S)

    async def _stream(self, end: float) -> None:
        camera = self._camera
        options: StreamOptions = {
            "codec": camera.codec, "policy": camera.policy, "keyframe_hz": camera.keyframe_hz, "score_threshold": 0.5,
        }  # fmt: skip
        if camera.codec == "jpeg":
            options["timestamps"] = "prefix"
        if camera.lookahead_ms is not None:
            options["lookahead_ms"] = camera.lookahead_ms
        if self._token is not None:
            options["resume_token"] = self._token
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(self._client.stream(**options))
            if stream.ready.resume_token != self._token:  # a new stream has a time of its own
                self._sent, self._origin, self._shift_us = Sent(), time.monotonic(), 0
            self._token = stream.ready.resume_token if stream.ready.resume_ttl_s else None
            tasks = [asyncio.create_task(work) for work in (self._receive(stream), self._send(stream, end))]
            half_open = asyncio.create_task(self._half_open.wait())
            try:
                await asyncio.wait((tasks[0], half_open), return_when=asyncio.FIRST_COMPLETED)
                if half_open.done():
                    self._half_open.clear()
                    self._tally.ends["left half open"] += 1
                    await self._abandoned.enter_async_context(stack.pop_all())
                    return
                await tasks[0]
            finally:
                for task in (*tasks, half_open):
                    task.cancel()
                await asyncio.gather(*tasks, half_open, return_exceptions=True)
                self._tally.warnings.update(stream.warnings)
        if stream.summary is not None:
            self._tally.summary(stream.summary)
            self._tally.ends["finished"] += 1
            self._token = None

    async def _receive(self, stream: AsyncLiveStream) -> None:
        lookahead_us = round(stream.ready.lookahead_ms * 1000)
        async for result in stream:
            self._tally.results.append(self._sent.seen(result, lookahead_us, time.monotonic()))
            await self._reads.wait()

    async def _send(self, stream: AsyncLiveStream, end: float) -> None:
        """Pictures in real time; ``stop`` at the end, or where a container's round is over."""
        camera, film = self._camera, self._camera.film
        data, ends = film.containers[camera.codec] if camera.codec != "jpeg" else (b"", [])
        started = time.monotonic()
        number = 0
        while time.monotonic() < end and not (ends and number == len(ends)):
            taken = started + number / film.fps
            await asyncio.sleep(max(0.0, taken + self._chance.uniform(0, camera.jitter_ms / 1000) - time.monotonic()))
            if ends:
                self._sent.frame(round(number * 1e6 / film.fps), taken, time.monotonic())
                await stream.send(data[ends[number - 1] if number else 0 : ends[number]])
            else:
                pts_us = round((taken - self._origin) * 1e6) + self._shift_us
                self._sent.frame(pts_us, taken, time.monotonic())
                await stream.send(film.jpegs[number % len(film.jpegs)], max(0, pts_us))
            number += 1
            if camera.fault_every_s and time.monotonic() > self._next_fault:
                await self._fault(stream)
        await stream.stop()

    # -- what goes wrong

    def _fault_time(self) -> float:
        return time.monotonic() + self._chance.uniform(0.5, 1.5) * self._camera.fault_every_s

    async def _fault(self, stream: AsyncLiveStream) -> None:
        kind = self._chance.choice(self._camera.faults)
        if self._camera.codec != "jpeg" and kind in ("jump", "half_open", "corrupt"):
            kind = "stall"
        self._tally.faults[kind] += 1
        self._next_fault = self._fault_time()
        match kind:
            case "stall":
                await asyncio.sleep(STALL_S)
            case "corrupt":
                await stream.send(GARBAGE, round((time.monotonic() - self._origin) * 1e6) + self._shift_us)
            case "jump":
                self._shift_us += JUMP_US
            case "half_open":
                self._half_open.set()
            case "slow_reader":
                self._reads.clear()
                asyncio.get_running_loop().call_later(STALL_S, self._reads.set)


async def upload_until(client: AsyncClient, clip: Path, keyframe_hz: float, end: float, tally: Tally) -> None:
    """Post a clip over and over until that moment; every answer has to be whole."""
    while time.monotonic() < end:
        started = time.monotonic()
        try:
            answer = await client.detect(clip, keyframe_hz=keyframe_hz)
        except ServiceError as error:
            tally.refused[error.code] += 1
            await asyncio.sleep(error.retry_after_s or RETRY_S)
            continue
        except httpx.HTTPError as error:
            tally.refused[type(error).__name__] += 1
            await asyncio.sleep(RETRY_S)
            continue
        tally.clips.append(time.monotonic() - started)
        tally.warnings.update(answer.warnings)
        tally.summary(answer.summary)
