"""Pictures of pulled streams: the frame in which people were found with them upon it, made once, and only if wanted."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
from contextlib import aclosing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from cameras import pulled, says
from conftest import TESTS
from in_process import running_engine
from ws_client import numbered, read_number

from stmixer.media.annotated import drawn
from stmixer.media.draw import PALETTE, draw_actors
from stmixer.media.encode import decode_jpeg, encode_jpeg
from stmixer.media.limits import Limits
from stmixer.service.engine.stream import Found, Slot, Stream
from stmixer.service.errors import CapacityError
from stmixer.service.ipc.messages import Actor, DrawPicture
from stmixer.service.ipc.ring import Ring, RingShape, create_ring
from stmixer.service.schemas import Result
from stmixer.service.sessions import preview as previews
from stmixer.service.sessions.preview import Preview
from stmixer.service.sources import easel as easels
from stmixer.service.sources.easel import Easel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With twenty seconds of numbered pictures."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        track = output.add_stream("libx264", rate=30)
        track.width, track.height, track.pix_fmt = 320, 240, "yuv420p"
        for number in range(600):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    folder = tmp_path_factory.mktemp("film")
    (folder / "film.mp4").write_bytes(target.getvalue())
    return folder


def seen(picture: bytes) -> np.ndarray:
    return decode_jpeg(picture, Limits())


def test_the_page_has_the_colours_of_the_pictures() -> None:
    tile = (TESTS.parent / "service" / "web" / "tile.js").read_text()
    (listed,) = re.findall(r"const DRAWN = \[(.*)\];", tile)
    assert re.findall(r"#(\w{6})", listed) == [bytes(colour).hex() for colour in PALETTE]


def test_people_are_drawn_where_they_are_upon_the_part_of_a_slot_that_is_filled() -> None:
    shape = RingShape(100, 60, 3)
    actor = Actor((0, 0, 0, 0), (0.25, 0.5, 0.75, 0.9), 0.9, (), track_id=2)

    async def run() -> None:
        async with running_engine() as engine:
            easel, ring = Easel(engine.pool), create_ring(shape)
            pixels = np.full((60, 100, 3), 40, np.uint8)
            Ring(os.dup(ring.fd), shape, writable=True).write(1, 7, pixels)
            order = DrawPicture(100, 60, 3, 1, 7, (80, 60), True, (actor,))
            picture = await easel.draw(ring, order)
            there = replace(actor, box_px=(20.0, 30.0, 60.0, 54.0))
            assert picture == encode_jpeg(draw_actors(pixels[:, :80], drawn([there])))
            assert await easel.draw(ring, DrawPicture(100, 60, 3, 1, 6, None, True, ())) is None
            ring.close()
            assert await easel.draw(ring, order) is None
            await easel.close()
            assert not engine.pool._busy

    asyncio.run(run())


def test_a_picture_is_that_of_the_newest_result_and_is_made_once(folder: Path) -> None:
    async def run() -> None:
        async with running_engine() as engine, pulled(engine, "file:film.mp4", folder=folder, loop=True) as stream:
            with pytest.raises(CapacityError) as raised:
                await stream.preview.newest()
            assert raised.value.code == "no_picture"
            number, checked = 0, 0
            while checked < 3:
                said = await says(stream, "result", after=number)
                number = said.number
                assert len(engine.pool._busy) <= 2
                looks = await asyncio.gather(*(stream.preview.newest() for _ in range(5)))
                assert all(picture is looks[0] for picture in looks)
                found = stream.session.stream.found
                assert found is not None
                windows = engine.worker.seen[stream.id]
                shown = read_number(seen(looks[0]))
                middles = {window[len(window) // 2] for window in windows.values()}
                sight = stream.preview._shown
                assert sight is not None
                if json.loads(said.text)["seq"] >= 2 and sight.result is not None:  # or its frame is gone already
                    assert shown in middles
                    checked += 1

    asyncio.run(run())


def test_nothing_is_drawn_while_nobody_looks(folder: Path) -> None:
    async def run() -> None:
        async with running_engine() as engine, pulled(engine, "file:film.mp4", folder=folder, loop=True) as stream:
            number = 0
            for _ in range(3):
                number = (await says(stream, "result", after=number)).number
            easel = stream.preview._easel
            assert (len(engine.pool._busy), easel._child) == (1, None)
            pictures = stream.preview.pictures()
            first, second = await anext(pictures), await anext(pictures)
            assert read_number(seen(second)) != read_number(seen(first))
            assert len(engine.pool._busy) == 2
            await pictures.aclose()
            assert stream.preview._making is not None
            assert stream.preview._making.done()

    asyncio.run(run())


def test_another_process_draws_where_one_has_died(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(easels, "IDLE_S", 3600.0)  # however slow this machine is, nobody else ends it

    async def run() -> None:
        async with running_engine() as engine, pulled(engine, "file:film.mp4", folder=folder, loop=True) as stream:
            said = await says(stream, "result")
            await stream.preview.newest()
            drawing = stream.preview._easel._child
            assert drawing is not None
            os.kill(drawing.pid, signal.SIGKILL)
            lost: list[bytes | BaseException] = []
            while not any(isinstance(look, CapacityError) for look in lost):  # some are drawn already
                said = await says(stream, "result", after=said.number)
                lost += await asyncio.gather(stream.preview.newest(), return_exceptions=True)
            assert str(lost[-1]) == "a picture could not be drawn; try again"
            said = await says(stream, "result", after=said.number)
            assert await stream.preview.newest()
            assert stream.preview._easel._child is not None
            assert stream.preview._easel._child.pid != drawing.pid

    asyncio.run(run())


def test_every_look_of_a_preview_finds_another_picture_where_results_come_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, looks, stream = 100.0, 0, SimpleNamespace(ring=SimpleNamespace(shape=RingShape(8, 8, 100)))

    class Drawing:
        async def draw(self, ring: object, order: DrawPicture) -> bytes:
            nonlocal now
            now += 0.01
            return b"%d" % order.generation

    preview = Preview(cast(Stream, stream), cast(Easel, Drawing()), trained=True)

    def find(number: int) -> None:
        slot = Slot(number, number)
        stream.newest, stream.found = SimpleNamespace(frame=slot), Found(slot, cast(Result, SimpleNamespace(actors=())))
        preview.wake()

    async def sleep(seconds: float) -> None:
        nonlocal now, looks
        now, looks = now + seconds, looks + 1
        find(looks)

    async def run() -> None:
        find(0)
        async with aclosing(preview.pictures()) as pictures:
            assert [await anext(pictures) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]

    monkeypatch.setattr(previews, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(run())


def test_it_turns_to_another_stream_and_draws_no_more_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn, begun, goes_on = 100.0, list[tuple[object, bool]](), asyncio.Event(), asyncio.Event()

    class Drawing:
        async def draw(self, ring: object, order: DrawPicture) -> bytes:
            drawn.append((ring, order.trained))
            begun.set()
            await goes_on.wait()
            return b"%d" % order.generation

    def seen(number: int) -> Stream:
        ring, frame = SimpleNamespace(shape=RingShape(8, 8, 100)), SimpleNamespace(frame=Slot(number, number))
        return cast(Stream, SimpleNamespace(ring=ring, newest=frame, found=None))

    async def run() -> None:
        nonlocal now
        first, second = seen(1), seen(7)
        preview = Preview(first, cast(Easel, Drawing()), trained=False)
        goes_on.set()
        assert await preview.newest() == b"1"
        goes_on.clear()
        begun.clear()
        first.newest = cast(Any, SimpleNamespace(frame=Slot(2, 2)))
        now += 1
        looking = asyncio.create_task(preview.newest())
        await begun.wait()
        await preview.turn_to(None)
        with pytest.raises(CapacityError):  # what was being drawn
            await looking
        assert await preview.newest() == b"1", "the last picture stays"
        await preview.turn_to(second, trained=True)
        goes_on.set()
        assert await preview.newest() == b"7"
        assert drawn == [(first.ring, False), (first.ring, False), (second.ring, True)]

    monkeypatch.setattr(previews, "time", SimpleNamespace(monotonic=lambda: now))
    asyncio.run(run())


def test_pictures_end_with_their_stream(folder: Path) -> None:
    async def run() -> None:
        async with running_engine() as engine:
            async with pulled(engine, "file:film.mp4", folder=folder, loop=True) as stream:
                await says(stream, "result")
                pictures = stream.preview.pictures()
                await anext(pictures)
                ending = asyncio.create_task(stream.close())
                async with asyncio.timeout(20):
                    async for _ in pictures:
                        pass
                await ending
            with pytest.raises(CapacityError):
                await stream.preview.newest()

    asyncio.run(run())
