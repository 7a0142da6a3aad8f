"""Cameras over RTSP, of a real server: what they show, and that they come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cameras import (
    ENCODINGS,
    Camera,
    behind_tls,
    certificate,
    make_film,
    pulled,
    running_camera,
    running_cameras,
    says,
    told,
)
from in_process import Running, running_engine
from posting import conserved, eventually
from rtsp_wire import RtspWire
from wire import Wire

from stmixer.service.errors import CapacityError
from stmixer.service.schemas import DetectOptions, Pulled
from stmixer.service.sessions.session import Session
from stmixer.service.sources import missing_packets, patience
from stmixer.service.sources.addresses import AddressPolicy
from stmixer.service.sources.camera import CameraSource, taken_of_waiting
from stmixer.service.sources.trust import Trust
from stmixer.service.sources.upload import UploadSource

HZ, FRAMES, LONG = 1.0, 300, 900
SECRET = "hunter2:@/"
IN_A_URL = "us%20er:hunter2%3A%40%2F"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film"), "h264")


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is over in a second."""
    return make_film(tmp_path_factory.mktemp("brief"), "h264", 30)


async def windows_of_the_file(run: Running, film: Path) -> dict[int, list[int]]:
    """What the model sees of each keyframe where the file is posted: the numbers of its window."""
    options = DetectOptions(keyframe_hz=HZ)
    session = Session(run.engine, run.pool, run.settings, run.anyone, source="upload", policy="all", options=options)
    with film.open("rb") as file:
        async with session:
            await session.open(UploadSource(session.context, file.fileno()))
            async for _ in session.results():
                pass
    return run.worker.seen[session.stream.id]


WAYS = [*((codec, "tcp") for codec in ENCODINGS), ("h264", "udp")]


@dataclass(frozen=True)
class Sight:
    """What the model sees of a file that is posted, and of a camera that shows it: windows by keyframe."""

    posted: dict[int, list[int]]
    seen: dict[int, list[int]]
    said: Pulled


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ten seconds in each codec."""
    folder = tmp_path_factory.mktemp("films")
    return {codec: make_film(folder, codec, FRAMES) for codec in ENCODINGS}


@pytest.fixture(scope="module")
def sights(films: dict[str, Path]) -> dict[tuple[str, str], Sight]:
    """Of each codec and transport: ten seconds, which all that lose nothing take at once, and the others alone."""

    async def sight(engine: Running, camera: Camera, posted: dict[int, list[int]], codec: str, transport: str) -> Sight:
        async with pulled(engine, camera.url(path=f"/{codec}"), hz=HZ, transport=transport) as stream:
            await says(stream, "status", state="live")
            await says(stream, "status", state="reconnecting")
            return Sight(posted, dict(engine.worker.seen[stream.id]), told(stream))

    async def run() -> dict[tuple[str, str], Sight]:
        found = {}
        async with running_engine(max_streams=len(WAYS)) as engine:
            posted = {codec: await windows_of_the_file(engine, film) for codec, film in films.items()}
            with running_cameras({f"/{codec}": (codec, film) for codec, film in films.items()}) as camera:
                for over in ("tcp", "udp"):
                    ways = [way for way in WAYS if way[1] == over]
                    looking = [sight(engine, camera, posted[codec], codec, over) for codec, _ in ways]
                    found |= dict(zip(ways, await asyncio.gather(*looking), strict=True))
        return found

    return asyncio.run(run())


@pytest.mark.parametrize(("codec", "transport"), WAYS)
def test_the_model_sees_of_a_camera_what_it_sees_of_the_same_file(
    sights: dict[tuple[str, str], Sight], codec: str, transport: str
) -> None:
    sight = sights[codec, transport]
    posted, seen, said = sight.posted, sight.seen, sight.said
    whole = [seq for seq, window in posted.items() if window[-1] < FRAMES - 1]
    assert len(whole) >= 4
    assert {seq: seen[seq] for seq in whole if seq in seen} == {seq: posted[seq] for seq in whole if seq in seen}
    assert len(set(whole) & set(seen)) >= 3  # a busy machine may skip some
    assert (said.codec, said.frame and (said.frame.width, said.frame.height)) == (ENCODINGS[codec].name, (320, 240))
    assert (said.code, said.error) == ("ended", "the source ended the stream")


def test_results_have_the_cameras_own_time_once_it_has_told_it(tmp_path: Path) -> None:
    """GStreamer's server sends its first report after some seconds."""
    film = make_film(tmp_path, "h264", 900)

    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film) as camera:
                async with pulled(engine, camera.url()) as stream:
                    results: list[dict[str, int]] = []
                    number = 0
                    while sum("capture_at_us" in result for result in results) < 4:
                        said = await says(stream, "result", after=number)
                        number = said.number
                        results.append(json.loads(said.text))
                    newest = json.loads([said for said in stream.backlog._kept if said.kind == "result"][-1].text)
                    age_ms = round((newest["sent_at_us"] - newest["capture_at_us"]) / 1000, 1)
                    assert told(stream).capture_age_ms == age_ms
        assert "capture_at_us" not in results[0]
        timed = [result for result in results if "capture_at_us" in result]
        assert results[-len(timed) :] == timed
        origins = [result["capture_at_us"] - result["pts_us"] for result in timed]
        assert max(origins) - min(origins) < 1_000_000  # its reports vary where it is busy
        assert abs(timed[0]["received_at_us"] - timed[0]["capture_at_us"]) < 60_000_000  # the same epoch

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["basic", "digest"])
def test_a_password(film: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)

    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film, "h264", kind, "us er", SECRET) as camera:
                async with pulled(engine, camera.url(IN_A_URL)) as right:
                    await says(right, "status", state="live")
                    assert told(right).url == camera.url()
                    kept = " ".join(said.text for said in right.backlog._kept)
                for credentials, words in (
                    ("", "asks for a user and a password"),
                    ("me:no", "does not take this user"),
                ):
                    async with pulled(engine, camera.url(credentials)) as wrong:
                        await says(wrong, "status", state="connecting")
                        assert (told(wrong).code, told(wrong).reconnects) == ("unauthorized", 0)
                        assert words in str(told(wrong).error)
        for text in (caplog.text, kept):
            assert "hunter2" not in text
            assert "us er" not in text

    asyncio.run(run())


@pytest.mark.slow
def test_of_cameras_with_sound_the_model_sees_what_it_sees_of_the_same_files(tmp_path: Path) -> None:
    """They go on without an end: GStreamer's server waits for that of the sound, which nobody asks for.

    A busy machine may skip most keyframes: there are enough of them for three."""
    films = {codec: make_film(tmp_path, codec, LONG) for codec in ENCODINGS}

    async def compared(engine: Running, camera: Camera, codec: str) -> None:
        posted, number = await windows_of_the_file(engine, films[codec]), 0
        async with pulled(engine, camera.url(path=f"/{codec}"), hz=HZ) as stream:
            for _ in range(3):
                number = (await says(stream, "result", after=number)).number
            seen = {seq: window for seq, window in engine.worker.seen[stream.id].items() if window[-1] < LONG - 1}
            assert told(stream).codec == ENCODINGS[codec].name
        assert seen
        assert seen == {seq: posted[seq] for seq in seen}

    async def run() -> None:
        async with running_engine(max_streams=2 * len(films)) as engine:
            with running_cameras({f"/{codec}": (f"{codec}+sound", film) for codec, film in films.items()}) as camera:
                await asyncio.gather(*(compared(engine, camera, codec) for codec in films))

    asyncio.run(run())


def test_a_camera_with_sound_is_asked_for_its_pictures_alone(film: Path) -> None:
    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film, "h264+sound") as camera:
                for transport in ("tcp", "udp"):
                    async with pulled(engine, camera.url(), transport=transport) as stream:
                        await says(stream, "result")
                        assert told(stream).codec == "h264"

    asyncio.run(run())


def test_a_camera_behind_tls(film: Path, tmp_path: Path) -> None:
    """Its certificate has to be known, or not looked at; and it has to speak TLS at all."""
    its = certificate(tmp_path)
    ways = [
        (Trust(its), "live", None), (Trust(its, verify=False), "live", None), (Trust(verify=False), "live", None),
        (Trust(), "connecting", "tls"),
    ]  # fmt: skip

    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film, "h264", "digest", "us er", SECRET) as camera:
                async with behind_tls(camera.port, its) as port:
                    url = f"rtsps://{IN_A_URL}@127.0.0.1:{port}/cam"
                    for trust, state, code in ways:
                        async with pulled(engine, url, trust=trust) as stream:
                            said = await says(stream, "status")
                            assert (json.loads(said.text)["state"], told(stream).code) == (state, code)
                            assert told(stream).url == f"rtsps://127.0.0.1:{port}/cam"
                            if state == "live":
                                await says(stream, "result")
                    assert "cannot be trusted (self" in str(json.loads(said.text)["error"])
                plain = camera.url(IN_A_URL).replace("rtsp://", "rtsps://")
                async with pulled(engine, plain, trust=Trust(verify=False)) as stream:
                    await says(stream, "status")
                    assert told(stream).code == "tls"
                    assert "trusted" not in str(told(stream).error)

    asyncio.run(run())


def test_a_camera_that_falls_silent_or_is_cut_off_comes_back(film: Path) -> None:
    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film) as camera, Wire(camera.port) as wire:
                url = camera.url().replace(str(camera.port), wire.url.rpartition(":")[2])
                async with pulled(engine, url, silent_s=3.0) as stream:
                    live = await says(stream, "status", state="live")
                    camera.fall_silent()
                    stalled = await says(stream, "status", state="stalled", after=live.number)
                    assert told(stream).state in ("stalled", "reconnecting")
                    camera.go_on()
                    back = await says(stream, "status", state="live", after=stalled.number)
                    result = await says(stream, "result", after=back.number)
                    assert json.loads(result.text)["warming"]
                    assert wire.cut()
                    lost = await says(stream, "status", state="reconnecting", after=back.number)
                    await says(stream, "status", state="live", after=lost.number)
                    assert told(stream).reconnects >= 2  # a busy machine may lose it more often
                    counted = attempts_ended(engine)
                    assert set(counted) >= {"silent", told(stream).code}
                    assert sum(counted.values()) == told(stream).attempts - 1
                summary = stream.session.summary()
                assert summary.received > 0
                conserved(summary.model_dump())

    asyncio.run(run())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_whose_stream_is_cut_is_hung_up_on(film: Path, transport: str) -> None:
    """While the stream keeps its place: the camera has its session again, and no port stays open."""

    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film) as camera:
                open_before = sockets_open()
                async with pulled(engine, camera.url(), transport=transport) as stream:
                    await says(stream, "result")
                    stream.session.cut(CapacityError("key_limit", "over", 429))
                    await says(stream, "summary")
                    assert (told(stream).state, told(stream).code) == ("failed", "key_limit")
                    await asyncio.to_thread(eventually, sockets_open, lambda count: count <= open_before, 10)

    asyncio.run(run())


def sockets_open() -> int:
    """Of the internet's, that this process has."""
    kinds = ("tcp", "tcp6", "udp", "udp6")
    known = {line.split()[9] for kind in kinds for line in Path("/proc/net", kind).read_text().splitlines()[1:]}
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(link.startswith("socket:[") and link[8:-1] in known for link in links)


def attempts_ended(engine: Running) -> dict[str, float]:
    """How many, by why they did."""
    (metric,) = (m for m in engine.engine.metrics.registry.collect() if m.name == "stmixer_stream_reconnects")
    return {s.labels["reason"]: s.value for s in metric.samples if s.name.endswith("_total") and s.value}


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_on_a_bad_line(tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of its packets is lost, which is said of datagrams, they are on their way for long, its clock is set
    anew: it stays live. Only a line that is half open takes another attempt."""
    monkeypatch.setattr(missing_packets, "QUIET_S", 0.5)
    film = make_film(tmp_path, "h264", 3600)  # two minutes: it does not end before the test does

    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film) as camera, RtspWire(camera.port) as wire:
                url = camera.url().replace(str(camera.port), str(wire.near))
                wire.loss = 0.2
                async with pulled(engine, url, silent_s=3.0, transport=transport) as stream:
                    live = await says(stream, "status", state="live")
                    damaged = await says(stream, "result", after=live.number)
                    if transport == "udp":
                        await says(stream, "warning", code="packets_lost")  # once, maybe before a picture
                    wire.loss, wire.delay_s = 0.0, 0.5
                    late = await says(stream, "result", after=damaged.number)
                    wire.delay_s, wire.shift = 0.0, 2**31 - 1
                    again = await says(stream, "result", after=late.number)
                    wire.leave_half_open()
                    stalled = await says(stream, "status", state="stalled", after=again.number)
                    await says(stream, "status", state="live", after=stalled.number)
                assert not [
                    said
                    for said in stream.backlog._kept
                    if said.kind == "status" and live.number < said.number < stalled.number
                ]
                conserved(stream.session.summary().model_dump())

    asyncio.run(run())


def test_a_decoder_that_is_stopped_is_no_silent_camera(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up as any other, and counted; the next one goes on."""
    monkeypatch.setattr(patience, "STUCK_S", 2.0)
    monkeypatch.setattr(patience, "LOOK_S", 0.1)

    def stuck(engine: Running) -> float:
        found = engine.engine.metrics.registry.get_sample_value("stmixer_decoders_lost_total", {"reason": "stuck"})
        return found or 0.0

    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film) as camera:
                async with pulled(engine, camera.url(), silent_s=1.0) as stream:
                    live = await says(stream, "status", state="live")
                    before, fetcher = stuck(engine), stream._source._fetcher
                    assert isinstance(fetcher, CameraSource)
                    assert fetcher._link is not None
                    os.kill(fetcher._link.pid, signal.SIGSTOP)
                    lost = await says(stream, "status", state="reconnecting", after=live.number)
                    assert stuck(engine) == before + 1
                    assert "held the decoder up" in str(told(stream).error)
                    await says(stream, "status", state="live", after=lost.number)

    asyncio.run(run())


def test_what_a_connections_reader_has_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as far:
        near, _ = listening.accept()
        with near:
            assert taken_of_waiting(near) is None
            far.sendall(b"x" * 1000)
            assert near.recv(1, socket.MSG_PEEK)
            assert taken_of_waiting(near) == 0
            near.recv(300)
            assert taken_of_waiting(near) == 300
            near.recv(1000)
            assert taken_of_waiting(near) is None
    ours, theirs = socket.socketpair()  # of no TCP
    with ours, theirs:
        theirs.send(b"x")
        assert taken_of_waiting(ours) is None


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("state", ["connecting", "accepted", "live", "stalled", "reconnecting"])
def test_it_is_ended_in_every_state_and_leaves_nothing(film: Path, brief: Path, state: str, transport: str) -> None:
    async def run() -> None:
        with running_camera(brief if state == "reconnecting" else film) as camera:
            async with running_engine() as engine:
                await engine.pool.start()
                before = descriptors()
                if state == "accepted":
                    camera.fall_silent()
                url = "rtsp://127.0.0.1:1/cam" if state == "connecting" else camera.url()
                patience = 3.0 if state == "stalled" else 60.0
                async with pulled(engine, url, silent_s=patience, transport=transport) as stream:
                    match state:
                        case "connecting":
                            await says(stream, "status", state="connecting")
                        case "live" | "stalled":
                            live = await says(stream, "status", state="live")
                            if state == "stalled":
                                camera.fall_silent()
                                await says(stream, "status", state="stalled", after=live.number)
                        case "reconnecting":
                            await says(stream, "status", state="reconnecting")
                        case _:
                            await becomes(lambda: engine.pool._busy)
                    async with asyncio.timeout(30):
                        await stream.close()
                assert not engine.pool._busy
                assert not engine.engine.streams
                idle = engine.settings.idle_decoders
                await becomes(lambda: not engine.pool._ending and len(engine.pool._idle) == idle)
                assert descriptors() == before

    asyncio.run(run())


async def becomes(look: Callable[[], object]) -> None:
    """Until it is so."""
    while not look():  # noqa: ASYNC110 - the pool tells nobody
        await asyncio.sleep(0.005)


def descriptors() -> list[str]:
    """What of ours is open, by kind; but for rings, of which the worker's stand-in keeps copies."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
        except OSError:
            continue  # it was the listing's own
    return sorted(kind for kind in found if "memfd" not in kind)


def test_an_error_of_ours_ends_an_attempt_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def odd(_: str, __: int) -> list[str]:
        raise RuntimeError("odd")

    async def run() -> None:
        async with (
            running_engine() as engine,
            pulled(engine, "rtsp://odd.example/cam", policy=AddressPolicy((), odd)) as stream,
        ):
            await says(stream, "status", state="connecting")
            assert (told(stream).state, told(stream).code) == ("connecting", "internal")

    asyncio.run(run())
    assert "RuntimeError: odd" in caplog.text
