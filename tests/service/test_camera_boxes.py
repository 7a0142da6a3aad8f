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
from following import Followed, look, pull
from posting import eventually, post, same_actors
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

    def followed(name: str, transport: str) -> Followed:
        url = cameras[name].url(CREDENTIALS if ACCESS[name] else "", f"/{codec}")
        number = pull(service, url, transport=transport, deadline_ms=60_000, **WANTED)["id"]
        return Followed(service, number, **{"Last-Event-ID": "0"})

    tried = {way: followed(*way) for way in ways}
    for way, following in tried.items():
        for _ in range(TRIES):
            found = whole(service, following, ENCODINGS[codec].name)
            if found is not None:
                break
            following = followed(*way)  # by itself now
        assert found, way
        for seq, result in found.items():
            assert result["pts_us"] == wanted[seq]["pts_us"] == seq * 1_000_000
            assert result["frame"] == {"width": 320, "height": 240}
            assert result["received_at_us"] <= result["sent_at_us"]
            same_actors(result["actors"], wanted[seq]["actors"], 1e-3)
    assert "hunter2" not in "\n".join(service.log)


def whole(service: Server, following: Followed, codec: str) -> dict[int, dict[str, Any]] | None:
    """Results of a film that is over, by number; None where a busy machine has lost some of it on the way."""
    eventually(lambda: [said["state"] for said in following.of("status")], lambda states: "reconnecting" in states, 90)
    assert look(service, following.stream)["pulled"]["codec"] == codec
    assert httpx.delete(f"{service.url}/v1/streams/{following.stream}").status_code == 204
    (end,) = eventually(lambda: following.of("summary"))
    found = {result["seq"]: result for result in following.of("result")}
    found = {seq: result for seq, result in found.items() if (seq + 1) * FPS < FRAMES}
    lost = end["summary"]["dropped"] or any("packets" in warning for warning in end["warnings"])
    if lost or len(found) < 3:
        return None
    assert end["summary"]["received"] >= FRAMES, "nothing is lost without a word"
    return found
