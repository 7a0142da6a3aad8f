"""Keyframes to be drawn: as many as a long video has, through a nameless file, never a message."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import cast

import av
import pytest
from conftest import OWN_CLIPS

from stmixer.media.limits import Limits
from stmixer.service.decoder import process
from stmixer.service.ipc.channel import Channel, Received
from stmixer.service.ipc.drawing import MAX_LINE, keyframe_line, read_keyframes
from stmixer.service.ipc.messages import (
    MAX_BYTES,
    Action,
    Actor,
    DrawnFrame,
    DrawnKeyframe,
    DrawnTo,
    MessageError,
    Render,
    Rendered,
    encode,
)
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DecoderPool
from stmixer.service.sources.rendering import render

ACTIONS = tuple(Action(n, f"an action with a long name {n}", 0.5) for n in range(5))


def keyframe(number: int, actors: int) -> DrawnKeyframe:
    found = Actor((1.0, 2.0, 30.5, 40.25), (0.1, 0.2, 0.3, 0.4), 0.9, ACTIONS, None)
    return DrawnKeyframe(number * 33_333, DrawnFrame(320, 240), (found,) * actors)


def test_what_is_written_is_read() -> None:
    wanted = [keyframe(number, number) for number in range(20)]
    with tempfile.TemporaryFile() as file:
        for one in wanted:
            file.write(keyframe_line(one))
        assert read_keyframes(file) == wanted


@pytest.mark.parametrize(
    "line", [b"{}\n", b"no json\n", b'{"pts_us": -1}\n', b"[" * 100 + b"\n", b"x" * (MAX_LINE + 9)]
)
def test_what_is_no_keyframe_is_said(line: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(keyframe_line(keyframe(0, 1)))
        file.write(line)
        with pytest.raises(MessageError, match="keyframe 1 "):
            read_keyframes(file)


def test_the_order_to_draw_is_small() -> None:
    order = Render(False, Limits(100, 100, 1.0), 1.0)
    assert {field.name for field in fields(order)} == {"trained", "limits", "cpu_s"}
    assert len(encode(order)) < 1000


def test_a_decoder_tells_each_second_how_far_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it after every frame, where each takes that long."""
    now, told = 0.0, []

    def draw(*_: object, progress: Callable[[float, float | None], None], **__: object) -> None:
        nonlocal now
        for frame, seconds in enumerate([0.25, 0.25, 0.5, 0.25, 2, 2]):
            now += seconds
            progress(frame, None)

    monkeypatch.setattr(process, "write_annotated", draw)
    with tempfile.TemporaryFile() as file:
        order = Received(Render(True, Limits(), 1.0), fds=[os.dup(file.fileno()) for _ in range(3)])
        process.render(cast(Channel, SimpleNamespace(send=told.append)), order, lambda: now)
    assert told == [*(DrawnTo(1_000_000 * frame, None) for frame in (2, 4, 5)), Rendered()]


@pytest.mark.slow
def test_more_keyframes_than_a_message_may_hold_are_drawn() -> None:
    """Of a service's own pool and decoder."""
    settings = Settings(idle_decoders=0)

    async def draw(count: int) -> int:
        pool = DecoderPool(settings)
        with (
            tempfile.TemporaryFile() as target, tempfile.TemporaryFile() as drawing,
            (OWN_CLIPS / "fall.mp4").open("rb") as source,
        ):  # fmt: skip
            for number in range(count):
                drawing.write(keyframe_line(keyframe(number, 20)))
            drawing.flush()
            assert drawing.tell() > MAX_BYTES
            try:
                await render(
                    pool, settings, Metrics(), trained=True, source_fd=source.fileno(), target_fd=target.fileno(),
                    drawing_fd=drawing.fileno(),
                )  # fmt: skip
            finally:
                await pool.stop()
            target.seek(0)
            with av.open(target) as drawn:
                return sum(1 for _ in drawn.decode(video=0))

    with av.open(str(OWN_CLIPS / "fall.mp4")) as video:
        frames = sum(1 for _ in video.decode(video=0))
    assert asyncio.run(draw(9000)) == frames
