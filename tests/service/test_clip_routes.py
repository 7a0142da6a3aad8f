"""Clips of events over HTTP, of a service that runs: ranges, whose they are, and names that lead nowhere else."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import httpx
import pytest
from conftest import OWN_CLIPS
from serving import Server, running_server
from ws_client import metric, poll

from stmixer.media.jpeg import jpeg_size
from stmixer.service.key_file import Key, KeyFile, digest, write_keys

pytestmark = pytest.mark.slow

RULE = {
    "id": "there", "person": True, "min_score": 0, "for_s": 0, "clear_s": 0.5, "clip": {"pre_s": 1, "post_s": 1},
}  # fmt: skip


@dataclass
class Kept:
    """A service that has kept the clip of an event of the key ``mine``."""

    server: Server
    event: str
    folder: Path

    def get(self, path: str, key: str | None = "mine", **headers: str) -> httpx.Response:
        authorization = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.get(f"{self.server.url}/v1/events/{path}", headers=authorization | headers)


@pytest.fixture(scope="module")
def kept(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder, keys = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("keys") / "keys.json"
    scopes = {"mine": ("stream",), "theirs": ("stream",), "boss": ("stream", "admin"), "poster": ("detect",)}
    write_keys(keys, KeyFile(keys=tuple(Key(name=n, sha256=digest(n), scopes=s) for n, s in scopes.items())))
    terms = {"allow_files": OWN_CLIPS, "event_clips": folder, "events_file": keys.with_name("events.db")}
    with running_server(weights=tiny_weights, keys=keys, **terms) as server:
        server.admin_key = "boss"
        order = {"url": "file:walk.mp4", "name": "hall", "score_threshold": 0, "keyframe_hz": 2, "rules": [RULE]}
        mine = {"Authorization": "Bearer mine"}
        httpx.post(server.url + "/v1/streams", json=order, headers=mine).raise_for_status()

        def files() -> set[str]:
            return {path.suffix for path in folder.iterdir() if not path.name.startswith(".")}

        assert poll(lambda: files() == {".mp4", ".jpg"}, 120)
        events = httpx.get(server.url + "/v1/events", headers=mine).raise_for_status().json()["events"]
        there = next(e["event_id"] for e in events if (folder / f"{e['event_id']}.mp4").exists())
        yield Kept(server, there, folder)


def test_a_clip_and_a_picture_of_an_event(kept: Kept) -> None:
    clip = kept.get(f"{kept.event}/clip.mp4").raise_for_status()
    assert clip.headers["content-type"] == "video/mp4"
    assert clip.headers["cache-control"] == "no-store"
    with av.open(io.BytesIO(clip.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 10
    picture = kept.get(f"{kept.event}/thumbnail.jpg").raise_for_status()
    assert picture.headers["content-type"] == "image/jpeg"
    assert min(jpeg_size(picture.content)) > 0
    assert metric(kept.server, "event_clip_bytes") >= len(clip.content)
    assert sum(metric(kept.server, "event_clips_total", extent=extent) for extent in ("whole", "part")) >= 1


def test_ranges_of_it(kept: Kept) -> None:
    whole = kept.get(f"{kept.event}/clip.mp4").content
    head = httpx.head(
        f"{kept.server.url}/v1/events/{kept.event}/clip.mp4", headers={"Authorization": "Bearer mine"}
    )  # fmt: skip
    assert (head.status_code, head.headers["accept-ranges"]) == (200, "bytes")
    assert int(head.headers["content-length"]) == len(whole)
    part = kept.get(f"{kept.event}/clip.mp4", Range="bytes=100-299")
    assert (part.status_code, part.headers["content-range"]) == (206, f"bytes 100-299/{len(whole)}")
    assert part.content == whole[100:300]
    assert kept.get(f"{kept.event}/clip.mp4", Range="bytes=-50").content == whole[-50:]
    assert kept.get(f"{kept.event}/clip.mp4", Range=f"bytes={len(whole)}-").status_code == 416


@pytest.mark.parametrize(
    ("key", "status"), [("mine", 200), ("boss", 200), ("theirs", 404), ("poster", 403), (None, 401), ("nobody", 401)]
)
@pytest.mark.parametrize("file", ["clip.mp4", "thumbnail.jpg"])
def test_whose_it_is(kept: Kept, key: str | None, status: int, file: str) -> None:
    assert kept.get(f"{kept.event}/{file}", key).status_code == status


def test_an_element_asks_with_a_token(kept: Kept) -> None:
    for key, status in (("mine", 200), ("theirs", 404)):
        answer = httpx.post(kept.server.url + "/v1/tokens", headers={"Authorization": f"Bearer {key}"})
        token = answer.raise_for_status().json()["token"]
        for file in ("clip.mp4", "thumbnail.jpg"):
            assert kept.get(f"{kept.event}/{file}?token={token}", None).status_code == status
        listed = httpx.get(f"{kept.server.url}/v1/events?token={token}")
        assert listed.status_code == 401, "nothing else opens with it"


@pytest.mark.parametrize(
    "name", ["0" * 32, "a" * 65, "..", "%2e%2e", "..%2fkeys", "-", "x.mp4", "a%00b", "%2fetc%2fpasswd"]
)
def test_no_other_name_leads_anywhere(kept: Kept, name: str) -> None:
    assert kept.get(f"{name}/clip.mp4").status_code in (404, 422)


def test_a_file_of_no_event_is_not_served(kept: Kept) -> None:
    (kept.folder / "planted.mp4").write_bytes(b"x" * 10)
    assert kept.get("planted/clip.mp4").status_code == 404
    assert kept.get("planted/clip.mp4", "boss").status_code == 404
