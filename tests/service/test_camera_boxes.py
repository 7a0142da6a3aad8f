"""What is found in a camera's pictures is what is found in the same file, posted: any codec, transport, password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cameras import ENCODINGS, Camera, make_film, running_cameras
from conftest import OWN_CLIPS
from following import Followed, pull
from posting import eventually, post, same_actors
from serving import Server, running_server

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits

pytestmark = pytest.mark.slow

FRAMES, FPS = 180, 30
WANTED = {"keyframe_hz": 1, "score_threshold": 0, "top_k": 3}
ACCESS = {"nobody asks": (), "basic": ("basic", "us er", "hunter2:@/"), "digest": ("digest", "us er", "hunter2:@/")}
CREDENTIALS = "us%20er:hunter2%3A%40%2F"


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


@pytest.mark.parametrize("codec", ENCODINGS)
def test_a_cameras_boxes_are_those_of_the_file(
    codec: str, films: dict[str, Path], cameras: dict[str, Camera], service: Server
) -> None:
    posted = post(service, films[codec], **WANTED)
    assert posted.status_code == 200, posted.text
    wanted: dict[int, Any] = {keyframe["seq"]: keyframe for keyframe in posted.json()["keyframes"]}
    first, later = (np.array([actor["box"] for actor in wanted[seq]["actors"]]) for seq in (0, 4))
    assert np.abs(first - later).max() > 1e-2  # or all pictures would do
    ways = [(name, transport) for name in ACCESS for transport in ("tcp", "udp")]
    followed: dict[tuple[str, str], Followed] = {}
    for name, transport in ways:
        url = cameras[name].url(CREDENTIALS if ACCESS[name] else "", f"/{codec}")
        number = pull(service, url, transport=transport, deadline_ms=60_000, **WANTED)["id"]
        followed[name, transport] = Followed(service, number, **{"Last-Event-ID": "0"})
    for way, following in followed.items():
        eventually(lambda f=following: [s["state"] for s in f.of("status")], lambda s: "reconnecting" in s, 90)
        found = {result["seq"]: result for result in following.of("result")}
        whole = [seq for seq in found if (seq + 1) * FPS < FRAMES]
        assert len(whole) >= 3, (way, sorted(found))  # a busy machine may skip some
        for seq in whole:
            assert found[seq]["pts_us"] == wanted[seq]["pts_us"] == seq * 1_000_000
            assert found[seq]["frame"] == {"width": 320, "height": 240}
            assert found[seq]["received_at_us"] <= found[seq]["sent_at_us"]
            same_actors(found[seq]["actors"], wanted[seq]["actors"], 1e-3)
    for stream in httpx.get(service.url + "/v1/streams").json()["streams"]:
        assert stream["pulled"]["codec"] == ENCODINGS[codec].name
        assert httpx.delete(f"{service.url}/v1/streams/{stream['id']}").status_code == 204
    assert "hunter2" not in "\n".join(service.log)
