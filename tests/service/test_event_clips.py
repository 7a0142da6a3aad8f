"""Clips of events from streams of each kind to files that play: when they begin and end, and what is told of those
that there are none of. Decoders are real ones, behind their walls."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import pytest
from in_process import Running, hand_over, running_engine
from live_video import piece
from ws_client import jpeg, prefixed, read_number

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.jpeg import jpeg_size
from stmixer.service.event_schemas import ClipWish, Event, Rule
from stmixer.service.events.clips import DAY_S, ClipStore
from stmixer.service.schemas import DetectOptions, Result
from stmixer.service.sessions.event_clips import LONGEST_S, TOLD_AFTER_S, EventClips, kept_s
from stmixer.service.sessions.preview import Preview, _Sight
from stmixer.service.sessions.session import Session
from stmixer.service.sources.container import ContainerSource
from stmixer.service.sources.easel import Easel
from stmixer.service.sources.pictures import PictureSource

SECOND = 1_000_000
UNTIL_IT_HANGS_S = 60
WISH = ClipWish(pre_s=1.5, post_s=1.0)
RULE = Rule(id="there", person=True, clip=WISH)


@dataclass
class Watched:
    """A stream whose results are taken, and the clips of its events."""

    clips: EventClips
    store: ClipStore
    session: Session
    results: list[Result] = field(default_factory=list)

    def event(self, event_id: str, began: int, ended: int | None = None) -> Event:
        """From one result to another, by their numbers."""
        ended_us = None if ended is None else self.results[ended].received_at_us
        return Event(
            event_id=event_id, rule=RULE.id, stream="1", state="start" if ended is None else "end", track_id=1,
            started_at_us=self.results[began].received_at_us, ended_at_us=ended_us, score_max=0.9, box=(0, 0, 1, 1),
            zone=None,
        )  # fmt: skip

    def keep(self, event: Event) -> None:
        self.clips.keep(event, self.session.stream.id, WISH.pre_s, WISH.post_s)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.clips.metrics.registry.get_sample_value(f"stmixer_{name}", labels)


def run(work: Callable[[Running], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        async with running_engine() as running, asyncio.timeout(UNTIL_IT_HANGS_S):
            return await work(running)

    return asyncio.run(whole())


@asynccontextmanager
async def watched(running: Running, folder: Path) -> AsyncIterator[Watched]:
    """With a rule that wants clips; the stream has no source yet."""
    sessions: dict[int, Session] = {}
    store, easel = ClipStore(folder, 2**30, DAY_S), Easel(running.pool)
    clips = EventClips(store, running.pool, easel, running.settings, running.engine.metrics, sessions.get)
    await clips.start()
    async with running.session("all", DetectOptions(keyframe_hz=1, lookahead_ms=0)) as session:
        sessions[session.stream.id] = session
        clips.watch(session, [RULE])
        it = Watched(clips, store, session)

        async def take() -> None:
            async for result in session.results():
                it.results.append(result)

        taking = asyncio.create_task(take())
        yield it
        taking.cancel()
    await clips.close()
    await easel.close()


async def becomes(look: Callable[[], object]) -> None:
    """Until it is so."""
    while not look():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


async def films_on(source: ContainerSource, number: int, look: Callable[[], object], codec: str = "libx264") -> int:
    """Until it is so; the number of the next picture. A decoder of a container hears what is wanted of it with each
    picture that comes."""
    while not look():
        await source.take(piece(number, 25, codec))
        number += 25
        await asyncio.sleep(0.05)
    return number


def frames(path: Path) -> list[tuple[int, Any]]:
    with VideoReader(path, limits=Limits()) as reader:
        return [(frame.pts_us, frame.rgb()) for frame in reader]


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc")])
def test_a_clip_goes_from_before_the_start_to_after_the_end(codec: str, name: str, tmp_path: Path) -> None:
    """The event: from 3 to 5 s. Wanted are 1.5 s before and 1 s after; there is a keyframe at 1 s."""

    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source = ContainerSource(it.session.context)
            await it.session.open(source)
            await source.take(piece(0, 140, codec))
            await becomes(lambda: len(it.results) > 5)
            assert [result.pts_us for result in it.results[:6]] == [n * SECOND for n in range(6)]
            it.keep(it.event("one", 3))
            it.keep(it.event("one", 3, 5))
            await films_on(source, 140, lambda: it.metric("event_clips_total", extent="whole"), codec)
            assert it.metric("event_clip_bytes") == it.store.bytes

    run(work)
    assert {path.name for path in tmp_path.iterdir()} == {"one.mp4", "one.jpg"}
    with av.open(tmp_path / "one.mp4") as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == name
    seen = frames(tmp_path / "one.mp4")
    light = [round(float(picture.mean())) - 40 for _, picture in seen]
    assert light[0] == pytest.approx(25, abs=2), "the keyframe before 1.5 s"
    assert light[-1] == pytest.approx(150, abs=2), "6 s"
    # keyframes are received when they are read, not at their times: a fast sender's moments are a little off
    assert seen[-1][0] == pytest.approx(5 * SECOND, abs=200_000)
    thumbnail = (tmp_path / "one.jpg").read_bytes()
    assert jpeg_size(thumbnail)[1] > 0


def test_pictures_become_a_film_that_browsers_play(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source = PictureSource(it.session.context, stamped=True)
            await it.session.open(source)
            for number in range(45):
                await hand_over(source, prefixed(number * 100_000, jpeg(number)))
            await becomes(lambda: len(it.results) > 3)
            it.keep(it.event("one", 2))
            it.keep(it.event("one", 2, 3))
            for number in range(45, 60):
                await hand_over(source, prefixed(number * 100_000, jpeg(number)))
            await becomes(lambda: it.metric("event_clips_total", extent="whole"))

    run(work)
    with av.open(tmp_path / "one.mp4") as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == "h264"
    seen = [(at, read_number(picture)) for at, picture in frames(tmp_path / "one.mp4")]
    first = seen[0][1]
    assert first == pytest.approx(5, abs=2), "1.5 s before 2 s"
    assert seen[-1][1] == pytest.approx(40, abs=2), "1 s after 3 s"
    assert seen == [((number - first) * 100_000, number) for number in range(first, seen[-1][1] + 1)]


def test_a_rule_that_is_taken_away_leaves_the_clip_that_it_wanted(tmp_path: Path) -> None:
    """And nothing is kept any more after that."""

    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source, desk = ContainerSource(it.session.context), it.session.context.clips
            await it.session.open(source)
            await source.take(piece(0, 90))
            await becomes(lambda: len(it.results) > 2)
            it.keep(it.event("one", 1))
            it.clips.watch(it.session, [])
            it.keep(it.event("one", 1, 2))
            await films_on(source, 90, lambda: it.metric("event_clips_total", extent="whole"))
            assert desk is not None
            await becomes(lambda: desk.seconds == 0)

    run(work)
    assert (tmp_path / "one.mp4").exists()


def test_of_a_stream_that_ends_first_there_is_a_part(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source = ContainerSource(it.session.context)
            await it.session.open(source)
            await source.take(piece(0, 90))
            await becomes(lambda: len(it.results) > 2)
            it.keep(it.event("one", 2))
            await source.ended()
            await becomes(lambda: it.session.stream.ended)
        assert it.metric("event_clips_total", extent="part") == 1

    run(work)
    assert len(frames(tmp_path / "one.mp4")) == 90


def test_a_decoder_that_dies_leaves_no_clip_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source = PictureSource(it.session.context, stamped=True)
            await it.session.open(source)
            for number in range(30):
                await hand_over(source, prefixed(number * 100_000, jpeg(number)))
            await becomes(lambda: len(it.results) > 1)
            it.keep(it.event("one", 1))
            assert source._link is not None
            source._link._decoder.end_now()
            await becomes(lambda: it.metric("event_clips_lost_total", reason="decoder"))
            before = len(it.results)
            for number in range(30, 90):
                await hand_over(source, prefixed(number * 100_000, jpeg(number)))
            await becomes(lambda: len(it.results) > before)

    run(work)
    assert not (tmp_path / "one.mp4").exists()
    assert "no clip of event one: decoder" in caplog.text


def test_a_disk_that_takes_nothing_is_said_once_and_counted_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its folder is gone."""

    async def work(running: Running) -> None:
        async with watched(running, tmp_path / "clips") as it:
            source = ContainerSource(it.session.context)
            await it.session.open(source)
            await source.take(piece(0, 130))
            await becomes(lambda: len(it.results) > 4)
            await asyncio.to_thread(shutil.rmtree, tmp_path / "clips")
            for name in ("one", "two"):
                it.keep(it.event(name, 1))
                it.keep(it.event(name, 1, 2))
            filmed = await films_on(source, 130, lambda: it.metric("event_clips_lost_total", reason="disk") == 2)
            await asyncio.to_thread((tmp_path / "clips").mkdir)
            it.keep(it.event("three", 1))
            it.keep(it.event("three", 1, 2))
            await films_on(source, filmed, lambda: it.metric("event_clips_total", extent="whole") == 1)

    run(work)
    assert caplog.text.count("cannot be stored") == 1
    assert (tmp_path / "clips" / "three.mp4").exists()


def test_a_thumbnail_that_fails_leaves_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(self: Preview) -> bytes:
        raise RuntimeError("no such picture")

    monkeypatch.setattr(Preview, "newest", fails)

    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source = ContainerSource(it.session.context)
            await it.session.open(source)
            await source.take(piece(0, 120))
            await becomes(lambda: len(it.results) > 3)
            it.keep(it.event("one", 1))
            it.keep(it.event("one", 1, 2))
            await films_on(source, 120, lambda: it.metric("event_clips_total", extent="whole"))
            desk = it.session.context.clips
            assert desk is not None
            assert (desk.wanted, desk.among.held) == (set(), 0)

    run(work)
    assert {path.name for path in tmp_path.iterdir()} == {"one.mp4"}
    assert "no such picture" in caplog.text


def test_a_picture_of_a_stream_that_has_ended_meanwhile_is_none() -> None:
    preview = Preview(Mock(ring=None), Mock(), trained=True)
    assert asyncio.run(preview._drawn(_Sight(Mock(size=None), None))) is None


def test_a_shutdown_waits_no_longer_than_it_may_and_says_which_clips_there_are_none_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source = ContainerSource(it.session.context)
            await it.session.open(source)
            await source.take(piece(0, 90))
            await becomes(lambda: len(it.results) > 2)
            it.keep(it.event("one", 1))
            await becomes((tmp_path / "one.jpg").exists)
            await it.clips.close(0)
            assert it.metric("event_clips_lost_total", reason="shutdown") == 1

    run(work)
    assert "no clip of event one: shutdown" in caplog.text


def test_an_event_of_a_stream_that_is_gone_or_keeps_nothing_has_none(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        async with watched(running, tmp_path) as it:
            source = ContainerSource(it.session.context)
            await it.session.open(source)
            await source.take(piece(0, 60))
            await becomes(lambda: it.results)
            it.clips.keep(it.event("one", 0), 10**6, 1, 1)
            assert it.metric("event_clips_lost_total", reason="ended") == 1
            it.session.context.clips = None
            it.keep(it.event("two", 0))
            assert it.metric("event_clips_lost_total", reason="off") == 1

    run(work)


def test_as_much_is_kept_as_rules_want() -> None:
    assert kept_s([]) == 0
    assert kept_s([Rule(id="a", person=True)]) == 0
    short = Rule(id="b", person=True, clip=ClipWish(pre_s=3, post_s=4), for_s=1, clear_s=1)
    assert kept_s([short]) == 3 + LONGEST_S + 4 + TOLD_AFTER_S
    long = Rule(id="c", person=True, clip=ClipWish(pre_s=3, post_s=4), for_s=100)
    assert kept_s([short, long]) == 3 + 100 + TOLD_AFTER_S
    assert kept_s([Rule(id="d", person=True, clip=ClipWish(), for_s=10_000)]) == 600
