"""Clips of a stream's own packets, from a decoder process behind all its walls: when they begin and end, and what
becomes of one whose decoder or stream ends before it is whole."""

from __future__ import annotations

import asyncio
import errno
import itertools
import mmap
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cameras import ENCODINGS, Camera, make_film, pulled, running_cameras, says
from in_process import Running, hand_over, running_engine
from live_video import piece
from ws_client import jpeg, noise, prefixed, read_number

from stmixer.media.decode import Limits, VideoReader
from stmixer.service.decoder.cutting import Cutting
from stmixer.service.ipc.messages import MAX_CLIP, CutPackets, KeepPackets, NothingCut
from stmixer.service.schemas import DetectOptions
from stmixer.service.sessions.session import Session
from stmixer.service.sources import clip_desk, decoder_link
from stmixer.service.sources.clip_desk import LEAST_COUNTED, MOST_WAITING, ClipDesk, ClipLost, CutBytes, CutClip
from stmixer.service.sources.container import ContainerSource
from stmixer.service.sources.pictures import PictureSource

SECOND = 1_000_000
UNTIL_IT_HANGS_S = 60


def run(work: Callable[[Running], Coroutine[Any, Any, Any]], max_streams: int | None = None) -> Any:
    async def whole() -> Any:
        async with running_engine(max_streams=max_streams) as running, asyncio.timeout(UNTIL_IT_HANGS_S):
            return await work(running)

    return asyncio.run(whole())


def with_desk(session: Session, seconds: float = 60.0) -> ClipDesk:
    """Of a session that has not begun yet."""
    stream = session.stream
    session.context.clips = ClipDesk(lambda: stream.newest_pts_us, seconds)
    return session.context.clips


@asynccontextmanager
async def container(running: Running) -> AsyncIterator[tuple[ContainerSource, ClipDesk, Session]]:
    async with running.session("latest", DetectOptions(keyframe_hz=0.001)) as session:
        source, desk = ContainerSource(session.context), with_desk(session)
        await session.open(source)
        yield source, desk, session


async def play_on(source: ContainerSource, first: int = 0, codec: str = "libx264") -> None:
    """A camera that does not stop: a decoder looks at what it is asked with each frame."""
    for start in itertools.count(first, 30):
        await source.take(piece(start, 30, codec))
        await asyncio.sleep(0.05)


async def cut(desk: ClipDesk, from_us: int, to_us: int) -> CutClip:
    """Asked for, and waited for."""
    wanted = desk.want(from_us, to_us)
    try:
        return await wanted.cut
    except BaseException:
        desk.let_go(wanted)
        raise


def taken(clip: CutClip) -> bytes:
    """Its bytes, once; its memory is freed."""
    assert os.fstat(clip.fd).st_size == clip.size
    data = os.pread(clip.fd, clip.size + 1, 0)
    clip.close()
    return data


def pictures(data: bytes, tmp_path: Path) -> list[tuple[int, int]]:
    """When each is shown, and which one it is (``live_video.picture``)."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with VideoReader(path, limits=Limits()) as reader:
        return [(frame.pts_us, round(float(frame.rgb().mean())) - 40) for frame in reader]


async def becomes(look: Callable[[], object]) -> None:
    """Until it is so."""
    while not look():  # noqa: ASYNC110 - the stream tells nobody
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc")])
def test_a_clip_comes_while_its_stream_goes_on(codec: str, name: str, tmp_path: Path) -> None:
    data = piece(0, 190, codec)

    async def work(running: Running) -> CutClip:
        async with container(running) as (source, desk, session):
            wanted = asyncio.create_task(cut(desk, round(3.3 * SECOND), round(5.5 * SECOND)))
            await source.take(data[: len(data) // 2])
            await becomes(lambda: session.stream.newest_pts_us > SECOND)
            assert not wanted.done(), "its end has not come"
            await source.take(data[len(data) // 2 :])
            playing = asyncio.create_task(play_on(source, 190, codec))
            clip = await wanted
            playing.cancel()
            assert not session.stream.ended
            assert running.pool.missing_walls == ()
            return clip

    clip = run(work)
    assert (clip.from_us, clip.codec, clip.plays) == (3 * SECOND, name, True)
    assert round(5.44 * SECOND) <= clip.to_us <= round(5.5 * SECOND)
    seen = pictures(taken(clip), tmp_path)
    assert [at for at, _ in seen] == [n * 40_000 for n in range(len(seen))]
    assert [number for _, number in seen] == pytest.approx([75 + n for n in range(len(seen))], abs=3)
    assert clip.from_us + seen[-1][0] == clip.to_us


def test_a_stream_that_ends_before_gives_what_there_is(tmp_path: Path) -> None:
    async def work(running: Running) -> CutClip:
        async with container(running) as (source, desk, session):
            wanted = asyncio.create_task(cut(desk, round(3.3 * SECOND), 60 * SECOND))
            await source.take(piece(0, 130))
            await source.ended()
            await becomes(lambda: session.stream.ended)
            assert not wanted.done()
        return await wanted

    clip = run(work)
    assert (clip.from_us, clip.to_us) == (3 * SECOND, 129 * 40_000)
    assert len(pictures(taken(clip), tmp_path)) == 55


def test_one_that_is_cut_off_in_the_middle_gives_what_there_is() -> None:
    """Its decoder has not ended by itself: it is asked before it is let go."""

    async def work(running: Running) -> CutClip:
        async with container(running) as (source, desk, session):
            wanted = asyncio.create_task(cut(desk, SECOND, 60 * SECOND))
            await source.take(piece(0, 130))
            await becomes(lambda: session.stream.newest_pts_us > 4 * SECOND)
        return await wanted

    clip = run(work)
    assert clip.from_us == SECOND
    assert 4 * SECOND < clip.to_us <= 129 * 40_000
    clip.close()


def test_pictures_are_muxed_as_they_came() -> None:
    """Each at its own time, in what somebody else is to make a film of."""
    times = [n * 100_000 + (n % 3) * 7_000 for n in range(40)]

    async def work(running: Running) -> CutClip:
        async with running.session("latest", DetectOptions(keyframe_hz=1)) as session:
            source, desk = PictureSource(session.context, stamped=True), with_desk(session)
            await session.open(source)
            wanted = asyncio.create_task(cut(desk, times[10] + 1, times[30]))
            for number, at in enumerate(times):
                await hand_over(source, prefixed(at, jpeg(number)))
            return await wanted

    clip = run(work)
    assert (clip.from_us, clip.to_us, clip.codec, clip.plays) == (times[10], times[30], "mjpeg", False)
    path = f"/proc/self/fd/{clip.fd}"
    with VideoReader(path, limits=Limits()) as reader:
        seen = [(clip.from_us + frame.pts_us, read_number(frame.rgb())) for frame in reader]
    clip.close()
    assert seen == [(times[n], n) for n in range(10, 31)]


def test_one_that_is_larger_than_it_may_be_is_said_and_the_stream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_desk, "MAX_CLIP", 100_000)

    async def work(running: Running) -> None:
        async with running.session("latest", DetectOptions(keyframe_hz=1)) as session:
            source, desk = PictureSource(session.context, stamped=True), with_desk(session)
            desk.kept = lambda: KeepPackets(60.0, MAX_CLIP)  # type: ignore[method-assign]
            await session.open(source)
            for number in range(5):
                await hand_over(source, prefixed(number * SECOND, noise(320, 240, number)))
            with pytest.raises(ClipLost, match="too_large"):
                await cut(desk, 0, 4 * SECOND)
            clip = await cut(desk, 4 * SECOND, 4 * SECOND)
            assert 50_000 < clip.size < 100_000
            clip.close()

    run(work)


def test_a_decoder_that_dies_takes_its_packets_with_it() -> None:
    async def work(running: Running) -> None:
        async with container(running) as (source, desk, session):
            wanted = asyncio.create_task(cut(desk, 0, 60 * SECOND))
            await source.take(piece(0, 60))
            await becomes(lambda: session.stream.newest_pts_us > SECOND)
            assert source._link is not None
            source._link._decoder.end_now()
            with pytest.raises(ClipLost, match="decoder"):
                await wanted

    run(work)


def test_one_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_link, "LAST_CLIPS_S", 0.1)

    async def work(running: Running) -> None:
        async with container(running) as (source, desk, session):
            wanted = asyncio.create_task(cut(desk, 0, 60 * SECOND))
            await source.take(piece(0, 60))
            await becomes(lambda: session.stream.newest_pts_us > SECOND)
            assert source._link is not None
            os.kill(source._link.pid, signal.SIGSTOP)
        with pytest.raises(ClipLost, match="decoder"):
            await wanted

    run(work)


def test_nothing_is_kept_unless_it_is_wanted_and_that_may_change() -> None:
    async def work(running: Running) -> None:
        async with running.session("latest", DetectOptions(keyframe_hz=1)) as session:
            source, desk = PictureSource(session.context, stamped=True), with_desk(session, 0.0)
            await session.open(source)
            for number in range(5):
                await hand_over(source, prefixed(number * SECOND, jpeg(number)))
            with pytest.raises(ClipLost, match="off"):
                await cut(desk, 0, SECOND)
            desk.keep(60.0)
            for number in range(5, 10):
                await hand_over(source, prefixed(number * SECOND, jpeg(number)))
            clip = await cut(desk, 6 * SECOND, 8 * SECOND)
            assert (clip.from_us, clip.to_us) == (6 * SECOND, 8 * SECOND)
            clip.close()

    run(work)


def test_clips_are_bounded_and_whoever_no_longer_waits_holds_nothing() -> None:
    async def work(running: Running) -> None:
        async with container(running) as (source, desk, session):
            waiting = [asyncio.create_task(cut(desk, 0, 60 * SECOND)) for _ in range(MOST_WAITING)]
            await asyncio.sleep(0)
            with pytest.raises(ClipLost, match="busy"):
                await cut(desk, 0, SECOND)
            for one in waiting[1:]:
                one.cancel()
            await source.take(piece(0, 60))
            await becomes(lambda: session.stream.newest_pts_us > SECOND)
            await asyncio.gather(*waiting[1:], return_exceptions=True)
            assert len(desk.waiting) == 1
        (await waiting[0]).close()
        desk.close()
        with pytest.raises(ClipLost, match="ended"):
            await cut(desk, 0, SECOND)

    run(work)
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if "stmixer-clip" in os.path.realpath(fd)]


@dataclass(frozen=True)
class Seen:
    """A clip of a camera's, and the numbers of its pictures."""

    clip: CutClip
    numbers: list[int]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Seen, Seen]]:
    """Of each codec, all at once: a clip, and one that has begun when the camera hangs up."""
    folder = tmp_path_factory.mktemp("films")
    mounts = {f"/{codec}": (codec, make_film(folder, codec, 150)) for codec in ENCODINGS}

    async def cuts(running: Running, camera: Camera, codec: str) -> tuple[CutClip, CutClip]:
        async with pulled(running, camera.url(path=f"/{codec}")) as stream:
            desk = with_desk(stream.session)
            whole = asyncio.create_task(cut(desk, round(1.5 * SECOND), 3 * SECOND))
            cut_off = asyncio.create_task(cut(desk, round(2.5 * SECOND), 60 * SECOND))
            await says(stream, "status", state="reconnecting")
            return await whole, await cut_off

    async def work(running: Running) -> list[tuple[CutClip, CutClip]]:
        with running_cameras(mounts) as camera:
            return await asyncio.gather(*(cuts(running, camera, codec) for codec in ENCODINGS))

    def seen(clip: CutClip) -> Seen:
        with VideoReader(f"/proc/self/fd/{clip.fd}", limits=Limits()) as reader:
            numbers = [read_number(frame.rgb()) for frame in reader]
        clip.close()
        return Seen(clip, numbers)

    found = zip(ENCODINGS, run(work, len(ENCODINGS)), strict=True)
    return {codec: (seen(whole), seen(cut_off)) for codec, (whole, cut_off) in found}


@pytest.mark.parametrize("codec", ENCODINGS)
def test_a_camera_over_rtsp(filmed: dict[str, tuple[Seen, Seen]], codec: str) -> None:
    """With B-frames where there are such; and as it hangs up, what there is of what had begun."""
    whole, cut_off = (seen.clip for seen in filmed[codec])
    interval_us = 34_000 if codec == "mjpeg" else SECOND + 34_000
    assert round(1.5 * SECOND) - interval_us <= whole.from_us <= round(1.5 * SECOND)
    assert 3 * SECOND - 34_000 <= whole.to_us <= 3 * SECOND + 100_000
    assert round(2.5 * SECOND) - interval_us <= cut_off.from_us <= round(2.5 * SECOND)
    assert cut_off.to_us == pytest.approx(149 / 30 * SECOND, abs=100_000)
    for seen in filmed[codec]:
        assert seen.numbers, "the clip shows something"
        assert seen.numbers == list(range(seen.numbers[0], seen.numbers[0] + len(seen.numbers))), "every one, in order"
    assert whole.plays is (codec != "mjpeg")


def test_what_is_cut_counts_until_it_is_let_go_and_what_there_is_no_room_for_waits() -> None:
    """Nobody stores it meanwhile: as of cameras whose clips wait for their turn to be encoded."""

    async def work(running: Running) -> None:
        async with container(running) as (source, desk, _session):
            desk.among.most = MAX_CLIP + 18 * LEAST_COUNTED
            wanted = [desk.want(0, SECOND) for _ in range(20)]
            playing = asyncio.create_task(play_on(source))
            sizes = {(await one.cut).size for one in wanted[:19]}
            assert len(sizes) == 1
            assert max(sizes) < LEAST_COUNTED, "it counts for its descriptor"
            assert (desk.waiting, desk.among.held) == (wanted[19:], 19 * LEAST_COUNTED)
            assert desk.is_due(wanted[19])
            for one in wanted[:19]:
                desk.let_go(one)
            assert {(await wanted[19].cut).size} == sizes
            desk.let_go(wanted[19])
            assert desk.among.held == 0
            playing.cancel()

    run(work)
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if "stmixer-clip" in os.path.realpath(fd)]


def test_streams_wait_for_each_other_and_what_finds_no_room_at_the_end_is_said() -> None:
    async def work(running: Running) -> None:
        among = CutBytes(most=MAX_CLIP)
        async with container(running) as (source, desk, _), container(running) as (other_source, other, _):
            desk.among = other.among = among
            first = desk.want(0, SECOND)
            talking = asyncio.create_task(play_on(source))
            await first.cut
            talking.cancel()
            second, third = other.want(0, SECOND), other.want(0, 60 * SECOND)
            playing = asyncio.create_task(play_on(other_source))
            await becomes(lambda: other.is_due(second))
            desk.let_go(first)
            assert (await second.cut).from_us == 0
            assert not third.cut.done()
            playing.cancel()
        with pytest.raises(ClipLost, match="busy"):  # the second is there still
            await third.cut
        other.let_go(second)
        assert among.held == 0

    run(work)


def test_one_that_there_is_no_descriptor_for_is_lost_and_the_next_one_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    made, refused = os.memfd_create, [True]

    def memfd_create(name: str, flags: int) -> int:
        if name == "stmixer-clip" and refused and refused.pop():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return made(name, flags)

    monkeypatch.setattr(os, "memfd_create", memfd_create)

    async def work(running: Running) -> None:
        async with container(running) as (source, desk, session):
            playing = asyncio.create_task(play_on(source))
            await becomes(lambda: session.stream.newest_pts_us > SECOND)
            with pytest.raises(ClipLost, match="no_memory"):
                await cut(desk, 0, SECOND)
            clip = await cut(desk, 0, SECOND)
            assert clip.from_us == 0
            clip.close()
            playing.cancel()

    run(work)


def test_a_decoder_without_address_space_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", no_room)
    fd = os.memfd_create("stmixer-clip")
    assert Cutting(None)._cut(CutPackets(0, SECOND, MAX_CLIP), fd) == NothingCut("no_memory")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_what_a_moment_by_our_clock_was_for_the_stream() -> None:
    desk = ClipDesk(lambda: 0)
    assert desk.moment_of(5) is None
    for number in range(10):
        desk.note(1_000_000_000 + number * 500_000 + (number % 2) * 30_000, number * 500_000)
    assert desk.moment_of(1_000_000_000 + 7 * 500_000 + 30_000) == 7 * 500_000
    assert desk.moment_of(1_000_000_000 + 9 * 500_000 + 30_000 + SECOND) == 9 * 500_000 + SECOND
    assert MAX_CLIP == 64 * 2**20
