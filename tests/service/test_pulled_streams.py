"""Pulled streams by REST: begun, listed, followed by server-sent events, ended; files; and whose they are."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from posting import eventually, problem
from serving import Server, running_server

NEVER = "rtsp://127.0.0.1:1/cam"


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, allow_networks="127.0.0.1", allow_files=OWN_CLIPS) as server:
        yield server


class Followed:
    """What a stream says by server-sent events, as it comes: (id, message)."""

    def __init__(self, server: Server, stream: str, **headers: str) -> None:
        self.said: list[tuple[int, dict[str, Any]]] = []
        self.ended, self.begun = threading.Event(), threading.Event()
        self._url, self._headers = f"{server.url}/v1/streams/{stream}/events", headers
        threading.Thread(target=self._read, daemon=True).start()
        assert self.begun.wait(20)

    def _read(self) -> None:
        number = 0
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", self._url, headers=self._headers, timeout=60) as answer,
        ):
            for line in answer.iter_lines():
                self.begun.set()
                name, _, value = line.partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "data":
                    self.said.append((number, json.loads(value)))
        self.ended.set()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Its messages of a type."""
        return [message for _, message in self.said if message["type"] == kind]


def pull(server: Server, url: str, **order: object) -> dict[str, Any]:
    answer = httpx.post(server.url + "/v1/streams", json={"url": url, **order})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/streams/{found['id']}"
    return found


def look(server: Server, stream: str) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/v1/streams/{stream}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_stream_from_its_order_to_its_end(service: Server) -> None:
    begun = pull(service, NEVER.replace("//", "//me:secret@") + "?token=secret", name="door", keyframe_hz=0.5)
    assert (begun["source"], begun["policy"], begun["keyframe_hz"]) == ("pull", "latest", 0.5)
    assert (begun["pulled"]["name"], begun["pulled"]["url"]) == ("door", NEVER + "?…")
    number = begun["id"]
    said = eventually(lambda: look(service, number)["pulled"], lambda said: said["code"])
    assert (said["state"], said["code"]) == ("connecting", "refused")
    assert said["error"] == "127.0.0.1:1 refuses the connection: nothing listens there"
    listed = httpx.get(service.url + "/v1/streams").json()["streams"]
    assert [stream["pulled"]["name"] for stream in listed if stream["id"] == number] == ["door"]
    assert 'stmixer_pulled_streams{state="connecting"} 1.0' in service.metrics()
    followed = Followed(service, number, **{"Last-Event-ID": "0"})
    assert httpx.delete(f"{service.url}/v1/streams/{number}").status_code == 204
    problem(httpx.get(f"{service.url}/v1/streams/{number}"), 404, "not_found")
    problem(httpx.delete(f"{service.url}/v1/streams/{number}"), 404, "not_found")
    assert followed.ended.wait(20)
    assert [message["type"] for _, message in followed.said].index("summary") == len(followed.said) - 1
    assert followed.of("status")[0] == {"type": "status", "state": "connecting", "error": said["error"]}
    assert 'stmixer_pulled_streams{state="connecting"} 0.0' in service.metrics()
    assert "secret" not in "\n".join(service.log) + json.dumps(followed.said) + json.dumps(listed)


def test_a_file_is_played_once_at_its_own_pace_and_followed_again_from_where_one_was(service: Server) -> None:
    somebody = {"id": "somebody", "person": True, "min_score": 0, "for_s": 0, "count": {"min": 1}}
    number = pull(service, "file:walk.mp4", keyframe_hz=1, score_threshold=0, rules=[somebody])["id"]
    first = Followed(service, number)
    said = eventually(lambda: look(service, number)["pulled"], lambda said: said["state"] == "ended", 60)
    assert (said["url"], said["codec"], said["frame"]) == ("file:walk.mp4", "h264", {"width": 640, "height": 360})
    assert first.ended.wait(20)
    assert [message["state"] for message in first.of("status")] == ["live", "ended"]
    results = first.of("result")
    assert results
    assert [result["seq"] for result in results] == sorted({result["seq"] for result in results})
    events = [message["event"] for message in first.of("event") if message["event"]["state"] != "update"]
    assert [(event["rule"], event["state"]) for event in events] == [("somebody", "start"), ("somebody", "end")]
    assert len({event["event_id"] for event in events}) == 1
    numbers = [number for number, _ in first.said]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    again = Followed(service, number, **{"Last-Event-ID": str(numbers[1])})
    assert again.ended.wait(20)
    assert again.said == first.said[2:]
    assert httpx.delete(f"{service.url}/v1/streams/{number}").status_code == 204


REFUSED = [
    ({}, "bad_option"), ({"url": 7}, "bad_option"), ({"url": "ftp://x/"}, "bad_url"), ({"url": "rtsp://"}, "bad_url"),
    ({"url": "rtsp://10.0.0.1/x"}, "address_refused"), ({"url": "http://[::1]/x"}, "address_refused"),
    ({"url": "http://0x7f000002/x"}, "address_refused"), ({"url": NEVER, "transport": "udp"}, "bad_option"),
    ({"url": NEVER, "loop": True}, "bad_option"), ({"url": NEVER, "rate": 3}, "bad_option"),
    ({"url": NEVER, "keyframe_hz": 0}, "bad_option"), ({"url": "file:nothing.mp4"}, "no_such_file"),
    ({"url": "file:../conftest.py"}, "no_such_file"), ({"url": "file:///etc/passwd"}, "no_such_file"),
    ({"url": "file:."}, "no_such_file"), ({"url": "file:walk.mp4%00"}, "no_such_file"),
]  # fmt: skip


@pytest.mark.parametrize(("order", "code"), REFUSED)
def test_what_cannot_be_fetched_is_refused(service: Server, order: dict[str, object], code: str) -> None:
    problem(httpx.post(service.url + "/v1/streams", json=order), 422, code)


def test_a_link_out_of_the_folder_leads_nowhere(tmp_path: Path) -> None:
    from stmixer.service.errors import InputError
    from stmixer.service.sources.played_file import open_below

    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    for name in ("out", "folder/secret", "../secret"):
        with pytest.raises(InputError):
            open_below(inside, name)
    with pytest.raises(InputError):
        open_below(None, "secret")
