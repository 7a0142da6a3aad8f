"""Pulled streams by REST: begun, listed, followed by server-sent events, ended; files; and whose they are."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cameras import make_film, running_camera
from conftest import OWN_CLIPS
from drills import answer_of
from following import Followed, look, pull
from posting import at_rest, eventually, problem
from serving import Server, running_server

NEVER = "rtsp://127.0.0.1:1/cam"


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Server]:
    allowed = {"allow_networks": "127.0.0.1", "allow_files": OWN_CLIPS, "allow_devices": "/dev/null,/dev/stmixer"}
    with running_server(weights=tiny_weights, pull_silent_s=2, **allowed) as server:
        yield server


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
    ({"url": "http://0x7f000002/x"}, "address_refused"), ({"url": NEVER, "transport": "serial"}, "bad_option"),
    ({"url": NEVER, "loop": True}, "bad_option"), ({"url": NEVER, "rate": 3}, "bad_option"),
    ({"url": NEVER, "keyframe_hz": 0}, "bad_option"), ({"url": "file:nothing.mp4"}, "no_such_file"),
    ({"url": "file:../conftest.py"}, "no_such_file"), ({"url": "file:///etc/passwd"}, "no_such_file"),
    ({"url": "device:/dev/video0"}, "device_not_allowed"), ({"url": "device:/dev/nul"}, "device_not_allowed"),
    ({"url": "device:/dev/stmixer/../video0"}, "device_not_allowed"),
    ({"url": "device:video0"}, "bad_url"),
    ({"url": "device:/dev/stmixer", "loop": True}, "bad_option"), ({"url": "rtsps://10.0.0.1/x"}, "address_refused"),
    ({"url": "rtsps://127.0.0.1:1/x", "transport": "udp"}, "bad_option"),
    ({"url": "http://127.0.0.1:1/x", "transport": "udp"}, "bad_option"),
    ({"url": "file:walk.mp4", "transport": "udp"}, "bad_option"), ({"url": "file:."}, "no_such_file"),
    ({"url": "file:walk.mp4%00"}, "no_such_file"),
]  # fmt: skip


@pytest.mark.parametrize(("order", "code"), REFUSED)
def test_what_cannot_be_fetched_is_refused(service: Server, order: dict[str, object], code: str) -> None:
    problem(httpx.post(service.url + "/v1/streams", json=order), 422, code)


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [("/dev/stmixer", "unreachable", "/dev/stmixer cannot be opened (No such file or directory)"),
     ("/dev/null", "no_video", "/dev/null is no video device")],
)  # fmt: skip
def test_a_device_that_is_named_and_is_no_camera(service: Server, path: str, code: str, words: str) -> None:
    number = pull(service, f"device:{path}")["id"]
    said = eventually(lambda: look(service, number)["pulled"], lambda said: said["code"])
    assert (said["state"], said["code"], said["error"], said["url"]) == ("connecting", code, words, f"device:{path}")
    assert httpx.delete(f"{service.url}/v1/streams/{number}").status_code == 204


def state(server: Server, number: str) -> str:
    found: str = look(server, number)["pulled"]["state"]
    return found


def test_it_is_ended_within_two_seconds_in_every_state(service: Server, tmp_path: Path) -> None:
    """Two in which the service has cores to run on: what it waits for those on a busy machine is not counted."""
    film, before = make_film(tmp_path, "h264", 150), at_rest(service)
    with (
        ThreadPoolExecutor(1) as pool,
        running_camera(film) as camera,
        running_camera(film) as silent,
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
    ):
        silent.fall_silent()
        hangs = f"rtsp://127.0.0.1:{full.getsockname()[1]}/cam"  # whose answer to a connect never comes
        ways = [
            (hangs, "connecting", ()), (silent.url(), "connecting", ()), (camera.url(), "live", ()),
            (camera.url(), "live", ("reconnecting",)), (camera.url(), "live", ("stalled", "reconnecting")),
            ("file:walk.mp4", "live", ("ended",)), ("file:README.md", "failed", ()),
        ]  # fmt: skip
        for url, first, later in ways:
            number = pull(service, url)["id"]
            followed = Followed(service, number, **{"Last-Event-ID": "0"})
            eventually(lambda n=number: state(service, n), lambda seen, f=first: seen == f, 60)
            if "stalled" in later:
                camera.fall_silent()
            if later:
                eventually(lambda n=number: state(service, n), lambda seen, w=later: seen in w, 60)
            gone = pool.submit(httpx.delete, f"{service.url}/v1/streams/{number}", timeout=60)
            assert answer_of(gone, service, 2.0).status_code == 204, (url, first, later)
            assert followed.ended.wait(20), (url, first, later)
            assert set(later[:1]) <= {message["state"] for message in followed.of("status")}
            if "stalled" in later:
                camera.go_on()
    after = at_rest(service)
    assert (after.descriptors, after.files) == (before.descriptors, before.files)
    gauges = [line for line in service.metrics().splitlines() if line.startswith("stmixer_pulled_streams{")]
    assert len(gauges) == 6
    assert all(line.endswith(" 0.0") for line in gauges)


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
