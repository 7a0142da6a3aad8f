"""What is found in a camera's pictures is what is found in the same file, posted: any codec, transport, password; by
the camera's address or its name; whether GStreamer or FFmpeg has made its packets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from cameras import ENCODINGS, Camera, make_film, published_over_http, publishing, running_cameras
from conftest import OWN_CLIPS
from following import Followed, look, pull
from posting import DECODER, NURSERY, eventually, post, same_actors
from rtsp_restream import restreaming
from serving import Server, running_server

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits

pytestmark = pytest.mark.slow

FRAMES, FPS = 180, 30
TRIES = 4
"""Six cameras at once may be more than a busy machine bears; one is not."""
WANTED = {"keyframe_hz": 1, "score_threshold": 0, "top_k": 3}
ACCESS = {"nobody asks": (), "basic": ("basic", "us er", "hunter2:@/"), "digest": ("digest", "us er", "hunter2:@/")}
CREDENTIALS = "us%20er:hunter2%3A%40%2F"
HOSTS = {"nobody asks": "127.0.0.1", "basic": "127.0.0.1", "digest": "localhost"}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six seconds of somebody who walks, in each codec."""
    with VideoReader(OWN_CLIPS / "walk.mp4", limits=Limits.unlimited()) as reader:
        pictures = [frame.resized(320, 240) for frame, _ in zip(reader, range(FRAMES), strict=False)]
    folder = tmp_path_factory.mktemp("films")
    return {codec: make_film(folder, codec, FRAMES, lambda n: pictures[n % len(pictures)]) for codec in ENCODINGS}


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, allow_networks="127.0.0.1") as server:
        yield server


@pytest.fixture(scope="module")
def cameras(films: dict[str, Path]) -> Iterator[dict[str, Camera]]:
    """One for each way to ask for a password, with all films."""
    with ExitStack() as running:
        mounts = {f"/{codec}": (codec, film) for codec, film in films.items()}
        yield {name: running.enter_context(running_cameras(mounts, *access)) for name, access in ACCESS.items()}


def keyframes_of(service: Server, film: Path) -> dict[int, dict[str, Any]]:
    """Of a film that is posted, by number."""
    posted = post(service, film, **WANTED)
    assert posted.status_code == 200, posted.text
    wanted: dict[int, Any] = {keyframe["seq"]: keyframe for keyframe in posted.json()["keyframes"]}
    first, later = (np.array([actor["box"] for actor in wanted[seq]["actors"]]) for seq in (0, 4))
    assert np.abs(first - later).max() > 1e-2  # or all pictures would do
    return wanted


def followed(service: Server, url: str, **order: object) -> Followed:
    number = pull(service, url, deadline_ms=60_000, **order, **WANTED)["id"]
    return Followed(service, number, **{"Last-Event-ID": "0"})


def same(found: dict[int, dict[str, Any]], wanted: dict[int, dict[str, Any]]) -> None:
    for seq, result in found.items():
        assert result["pts_us"] == wanted[seq]["pts_us"] == seq * 1_000_000
        assert result["frame"] == {"width": 320, "height": 240}
        assert result["received_at_us"] <= result["sent_at_us"]
        same_actors(result["actors"], wanted[seq]["actors"], 1e-3)


@pytest.mark.parametrize("codec", ENCODINGS)
def test_a_cameras_boxes_are_those_of_the_file(
    codec: str, films: dict[str, Path], cameras: dict[str, Camera], service: Server
) -> None:
    """What asks for a digest is asked by its name, which it has to hear in that, too."""
    wanted = keyframes_of(service, films[codec])

    def begun(name: str, transport: str) -> Followed:
        url = cameras[name].url(CREDENTIALS if ACCESS[name] else "", f"/{codec}")
        return followed(service, url.replace("127.0.0.1", HOSTS[name]), transport=transport)

    ways = [(name, transport) for name in ACCESS for transport in ("tcp", "udp")]
    tried = {way: begun(*way) for way in ways}
    for way, following in tried.items():
        for _ in range(TRIES):
            found = whole(service, following, ENCODINGS[codec].name)
            if found is not None:
                break
            following = begun(*way)  # by itself now
        assert found, way
        same(found, wanted)
    assert "hunter2" not in "\n".join(service.log)


def shown(service: Server) -> str:
    """What a service shows of its streams: to who may list them, read its metrics and log, and to whoever else is on
    its machine."""
    paths = ("/v1/streams", "/v1/events", "/v1/status", "/metrics")
    answers = [httpx.get(service.url + path, timeout=60).text for path in paths]
    ours, commands = psutil.Process(service.process.pid), list[str]()
    for process in (ours, *ours.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # decoders come and go
            commands.append(" ".join(process.cmdline()))
    assert any(DECODER in command or NURSERY in command for command in commands)
    return "\n".join([*answers, *commands, *service.log])


@contextmanager
def published(film: Path, over: str) -> Iterator[str]:
    """A film of FFmpeg's, by RTSP or as MPEG-TS over HTTP; where it is."""
    if over == "http":
        with published_over_http(film, "mpegts") as url:
            yield url
        return
    with restreaming() as server:
        url = f"rtsp://127.0.0.1:{server.port}/cam"
        with publishing(film, url, "rtsp", rtsp_transport="tcp"):
            yield url


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_the_boxes_of_what_ffmpeg_publishes_are_those_of_the_file(
    codec: str, films: dict[str, Path], service: Server
) -> None:
    wanted = keyframes_of(service, films[codec])
    for over in ("rtsp", "http"):
        for _ in range(TRIES):
            with published(films[codec], over) as url:
                found = whole(service, followed(service, url), ENCODINGS[codec].name)
            if found is not None:
                break
        assert found, over
        same(found, wanted)


def whole(service: Server, following: Followed, codec: str) -> dict[int, dict[str, Any]] | None:
    """Results of a film that is over, by number; None where a busy machine has lost some of it on the way."""
    states = eventually(lambda: [said["state"] for said in following.of("status")], lambda s: "reconnecting" in s, 90)
    assert look(service, following.stream)["pulled"]["codec"] == codec
    assert "hunter2" not in shown(service) + json.dumps(following.said)
    assert httpx.delete(f"{service.url}/v1/streams/{following.stream}").status_code == 204
    (end,) = eventually(lambda: following.of("summary"))
    found = {result["seq"]: result for result in following.of("result")}
    found = {seq: result for seq, result in found.items() if (seq + 1) * FPS < FRAMES}
    lost = end["summary"]["dropped"] or any("packets" in warning for warning in end["warnings"])
    if lost or len(found) < 3 or "stalled" in states:
        return None
    assert end["summary"]["received"] >= FRAMES, f"nothing is lost without a word: {following.of('status')}"
    return found
