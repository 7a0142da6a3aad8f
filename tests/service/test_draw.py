"""``POST /v1/draw``: results that were given, drawn into the video without another look at it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from contextlib import nullcontext
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, BinaryIO

import av
import httpx
import numpy as np
import pytest
from conftest import OWN_CLIPS
from posting import NDJSON, eventually, made_video, metric, post, problem
from pydantic import ValidationError
from serving import Server
from starlette.requests import Request
from starlette.responses import Response

from stmixer.service.access import Caller
from stmixer.service.api import draw as draw_route
from stmixer.service.api.draw import MAX_LINE, MAX_PEOPLE, MAX_RESULTS_BYTES, MAX_WORDS, Given, copy_results
from stmixer.service.api.drawings import AT_A_TIME, Drawings
from stmixer.service.api.service import Service
from stmixer.service.errors import CapacityError, InputError, StmixerError
from stmixer.service.ipc.drawing import read_keyframes
from stmixer.service.key_file import Key
from stmixer.service.settings import Settings

ACTION = {"id": 1, "name": "walk", "score": 0.9}
SOMEBODY = {
    "track_id": 1, "box_px": (40, 30, 120, 200), "box": (0, 0, 1, 1), "person_score": 0.9, "actions": [ACTION] * 5,
}  # fmt: skip


def line(pts_us: int, box: tuple[float, ...] = (40, 30, 120, 200), **besides: object) -> dict[str, object]:
    """A result as /v1/detect gives it, of one person in 320 × 240."""
    actor = SOMEBODY | {"box_px": box}
    timings = dict.fromkeys(("lookahead", "decode", "queue", "inference", "postprocess"), 0.0)
    result = {
        "seq": 0, "pts_us": pts_us, "received_at_us": 1, "sent_at_us": 1, "warming": False, "timings_ms": timings,
        "dropped_since_last": 0, "frame": {"width": 320, "height": 240}, "actors": [actor],
    }  # fmt: skip
    return result | besides


def named(name: str) -> dict[str, object]:
    return line(0, actors=[SOMEBODY | {"actions": [ACTION | {"name": name}]}])


def lines(*results: object) -> bytes:
    return b"".join(json.dumps(result).encode() + b"\n" for result in results)


def draw(server: Server, video: bytes, results: bytes, request_id: str = "") -> httpx.Response:
    files = {"results": results, "file": ("clip.mp4", video)}
    headers = {"X-Request-Id": request_id} if request_id else {}
    return httpx.post(server.url + "/v1/draw", files=files, headers=headers, timeout=120)


def pictures(mp4: bytes, tmp_path: Path) -> list[np.ndarray]:
    (tmp_path / "drawn.mp4").write_bytes(mp4)
    with av.open(str(tmp_path / "drawn.mp4")) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def test_what_was_given_is_drawn_and_nothing_inferred(server: Server, tmp_path: Path) -> None:
    video = made_video(320, 240, 60)
    inferences = metric(server, "inferences_total")
    plain = pictures(draw(server, video, lines(line(0, actors=[]))).content, tmp_path)
    one, other = line(0), line(1_000_000, (200, 30, 280, 200))
    answer = draw(server, video, lines(one, other, {"model": "m", "trained": True, "summary": {}, "warnings": []}))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    assert int(answer.headers["content-length"]) == len(answer.content)
    boxed = pictures(answer.content, tmp_path)
    assert len(boxed) == len(plain) == 60

    def changed(at: int) -> np.ndarray:
        """Columns of the person's left side in which a frame differs much from the same one without boxes."""
        difference = np.abs(boxed[at][120:180].astype(int) - plain[at][120:180]).mean(axis=(0, 2))
        return np.flatnonzero(difference > 40)

    # the box's left side, on its way from x = 40 to 200
    assert abs(changed(0).min() - 40) <= 4
    assert abs(changed(15).min() - 120) <= 4
    assert abs(changed(30).min() - 200) <= 4
    assert metric(server, "inferences_total") == inferences


@pytest.mark.slow
def test_it_is_what_detect_draws(server: Server) -> None:
    clip = OWN_CLIPS / "fall.mp4"
    results = post(server, clip, accept=NDJSON, score_threshold=0).content
    inferred = post(server, clip, accept="video/mp4", score_threshold=0).content
    assert draw(server, clip.read_bytes(), results).content == inferred


def test_it_says_how_far_it_has_come(server: Server) -> None:
    """While a video of 20 s is drawn; afterwards nobody knows of it."""
    request_id, answers = uuid.uuid4().hex, []
    video = made_video(640, 480, 600)
    thread = Thread(target=lambda: answers.append(draw(server, video, lines(line(0)), request_id)))
    thread.start()

    def progress() -> dict[str, float]:
        answer = httpx.get(f"{server.url}/v1/drawings/{request_id}")
        return answer.json() if answer.status_code == 200 else {}

    seen = eventually(progress, lambda found: bool(found.get("done_s")))
    assert 0 < seen["done_s"] < 20
    assert seen["duration_s"] == pytest.approx(20, abs=0.1)
    thread.join()
    assert answers[0].status_code == 200
    problem(httpx.get(f"{server.url}/v1/drawings/{request_id}"), 404, "not_found")


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (b"", "no result to draw"),
        (b"milk, bread\n", "line 1"),
        (lines(line(0), line(0)), "line 2 .* does not come after 0"),
        (lines(line(5), line(4)), "line 2 .* does not come after 5"),
        (lines({"summary": {}}, line(0)), "not the last line"),
        (lines(line(0, (float("nan"), 0, 1, 1))), "line 1"),
        (lines(line(0, (1e9, 0, 2e9, 1))), "no box"),
        (lines(line(0, frame={"width": 0, "height": 240})), "no size"),
        (lines(line(0, actors=[SOMEBODY] * (MAX_PEOPLE + 1))), f"at most {MAX_PEOPLE} items"),
        (lines(line(0, actors=[SOMEBODY | {"box": (0, 0, float("nan"), 1)}])), "no box"),
        (lines(line(0, actors=[SOMEBODY | {"box": (0, 0, float("inf"), 1)}])), "no box"),
        *((lines(named(f"wa{sign}lk")), "control characters") for sign in "\n\0\x7f\x85"),
        (lines(line(0, actors=[SOMEBODY | {"track_id": 2**53}])), "track_id"),
        (lines(line(0, actors=[SOMEBODY | {"track_id": -1}])), "track_id"),
        (lines(line(0, extra=1)), "extra"),
        (lines(line(0, **{"x" * 10_000: 1})), "xxx"),
        (lines(line(0, **{f"x{number}": 1 for number in range(1000)})), "1000 errors"),
        (b" " * (MAX_LINE + 1), "bytes"),
    ],
)
def test_what_is_no_result_is_said(results: bytes, words: str) -> None:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as drawing:
        given.write(results)
        given.flush()
        with pytest.raises(InputError, match=words) as caught:
            copy_results(given, drawing)
    assert caught.value.code == "bad_results"
    assert caught.value.status == 422
    assert len(str(caught.value)) < MAX_WORDS + 100


@pytest.mark.parametrize("actors", [[1] * 300, [SOMEBODY | {"actions": [1] * 1000}]])
def test_of_a_list_without_end_one_error_is_made(actors: list[object]) -> None:
    with pytest.raises(ValidationError) as caught:
        Given.model_validate(line(0, actors=actors))
    assert caught.value.error_count() == 1


def test_a_picture_names_three_actions() -> None:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as drawing:
        given.write(lines(line(7)))
        given.flush()
        copy_results(given, drawing)
        (keyframe,) = read_keyframes(drawing)
    assert keyframe.pts_us == 7
    assert [len(actor.actions) for actor in keyframe.actors] == [3]


def test_what_a_label_may_be_reaches_the_picture() -> None:
    wanted = ("sitzt müde auf einem Stuhl", "走る", "zero\u200dwidth", "line\u2028end", "")
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as drawing:
        given.write(lines(*(named(name) | {"pts_us": at} for at, name in enumerate(wanted))))
        given.flush()
        copy_results(given, drawing)
        found = read_keyframes(drawing)
    assert tuple(keyframe.actors[0].actions[0].name for keyframe in found) == wanted


def test_forms_that_lack_something_are_refused(server: Server) -> None:
    url, video = server.url + "/v1/draw", ("clip.mp4", b"x" * 2000)
    problem(httpx.post(url, content=b"x" * 2000), 400, "bad_multipart")
    assert "'results'" in problem(httpx.post(url, files={"file": video}), 400, "bad_multipart")
    assert "'file'" in problem(httpx.post(url, files={"results": lines(line(0))}), 400, "bad_multipart")
    twice = [("results", b"a"), ("results", b"b"), ("file", video)]
    assert "twice" in problem(httpx.post(url, files=twice), 400, "bad_multipart")
    large = {"results": b" " * (MAX_RESULTS_BYTES + 1), "file": video}
    problem(httpx.post(url, files=large, timeout=60), 413, "too_large")
    problem(draw(server, b"no video at all" * 99, lines(line(0))), 400, "unreadable")
    problem(draw(server, made_video(64, 48, 3), b"{}\n"), 422, "bad_results")


def request_of(video: bytes, results: bytes, service: Service, caller: Caller) -> Request:
    """As it comes to the route, from a client that stays."""
    made = httpx.Request("POST", "http://x/v1/draw", files={"results": results, "file": ("clip.mp4", video)})
    messages, headers = [{"type": "http.request", "body": made.read()}], made.headers.multi_items()

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    scope = {
        "type": "http", "method": "POST", "path": "/v1/draw", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "app": SimpleNamespace(state=SimpleNamespace(service=service)), "state": {"caller": caller},
    }  # fmt: skip
    return Request(scope, receive)


async def body_of(answer: Response) -> bytes:
    """Of an answer, sent as the server does."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    await answer({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    return b"".join(sent)


def test_while_the_copy_is_sent_nothing_else_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what came with the request nor its upload's place; the key's place is."""
    caller, held = Caller(None), []

    async def rendered(_: Service, __: Caller, ___: str, file: BinaryIO, drawing: BinaryIO, target: BinaryIO) -> None:
        held.extend([file, drawing, target])
        assert not service.uploads.empty.is_set()
        target.write(b"drawn")

    async def draw_and_send() -> None:
        answer = await draw_route.draw(request_of(b"a video", lines(line(0)), service, caller))
        assert [file.closed for file in held] == [True, True, False]
        assert service.uploads.empty.is_set()
        assert caller.streams == 1
        assert await body_of(answer) == b"drawn"
        assert held[2].closed
        assert caller.streams == 0

    monkeypatch.setattr(draw_route, "_rendered", rendered)
    service = Service(Settings())
    asyncio.run(draw_and_send())


@pytest.mark.parametrize("more", [0, 1])
def test_a_video_has_its_own_limit(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """As in /v1/detect: the room for results is not the video's."""
    came = []

    async def rendered(_: Service, __: Caller, ___: str, file: BinaryIO, *____: BinaryIO) -> None:
        came.append(file.seek(0, 2))

    async def draw_and_send() -> None:
        await body_of(await draw_route.draw(request))

    monkeypatch.setattr(draw_route, "_rendered", rendered)
    service = Service(Settings(max_upload_mb=1))
    request = request_of(bytes(2**20 + more), lines(line(0)), service, Caller(None))
    with pytest.raises(InputError, match="over 1 MiB") if more else nullcontext():
        asyncio.run(draw_and_send())
    assert came == ([] if more else [2**20])


def test_who_is_leaving_draws_nothing_more() -> None:
    service, caller = Service(Settings()), Caller(None)
    service.begin_drain()
    with pytest.raises(CapacityError, match="shutting down") as caught:
        asyncio.run(draw_route.draw(request_of(b"a video", lines(line(0)), service, caller)))
    assert caught.value.code == "draining"
    assert caller.streams == 0


async def _occupied(drawings: Drawings, caller: Caller) -> None:
    async with drawings.one_more("a", caller, "127.0.0.1") as one, drawings.one_more("b", caller, "127.0.0.1"):
        assert AT_A_TIME == 2
        one.come(1.5, 3.0)
        assert drawings.find("a", caller) is one
        with pytest.raises(StmixerError, match="being drawn") as caught:
            async with drawings.one_more("c", caller, "192.0.2.1"):
                pytest.fail("there is no third")
        assert (caught.value.code, caught.value.status) == ("capacity", 503)
    async with drawings.one_more("c", caller, "192.0.2.1"):
        pass


def test_so_many_are_drawn_at_a_time() -> None:
    asyncio.run(_occupied(Drawings(wait_s=0.01), Caller(None)))


def test_one_key_leaves_room_for_another() -> None:
    mine, theirs = (Caller(Key(name=name, sha256=name * 64, scopes=("detect",))) for name in "ab")

    async def draw_both() -> None:
        drawings = Drawings(wait_s=0.01)
        async with drawings.one_more("a", mine):
            with pytest.raises(CapacityError, match="1 of this key"):
                async with drawings.one_more("b", mine):
                    pytest.fail("there is no second of one key")
            async with drawings.one_more("c", theirs):
                pass
        async with drawings.one_more("d", mine):
            pass

    asyncio.run(draw_both())


@pytest.mark.parametrize("same", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_one_address_leaves_room_for_another_where_nobody_has_a_key(same: str) -> None:
    anyone = Caller(None)

    async def draw_both() -> None:
        drawings = Drawings(wait_s=0.01)
        async with drawings.one_more("a", anyone, "192.0.2.1"):
            with pytest.raises(CapacityError, match="1 of this address"):
                async with drawings.one_more("b", anyone, same):
                    pytest.fail("there is no second of one address")
            async with drawings.one_more("c", anyone, "192.0.2.2"):
                pass
        async with drawings.one_more("d", anyone, same):
            pass

    asyncio.run(draw_both())


def test_a_drawings_place_is_that_of_who_asked() -> None:
    """By the address that the request came from."""
    anyone, seen = Caller(None), []
    service = Service(Settings(upload_wait_s=0.01))
    request = request_of(b"a video", lines(line(0)), service, anyone)
    request.scope["client"] = ("192.0.2.1", 4711)

    async def draw_while(address: str) -> None:
        async with service.drawings.one_more("a", anyone, address):
            with pytest.raises(CapacityError) as refused:
                await draw_route.draw(request)
            seen.append(str(refused.value))

    asyncio.run(draw_while("192.0.2.1"))
    assert "1 of this address" in seen[0]


def test_a_key_sees_its_own_drawings_only() -> None:
    mine, theirs = (Caller(Key(name=name, sha256=name * 64, scopes=("detect",))) for name in "ab")

    async def look() -> None:
        drawings = Drawings(wait_s=1)
        async with drawings.one_more("x", mine) as one:
            assert drawings.find("x", mine) is one
            with pytest.raises(InputError) as caught:
                drawings.find("x", theirs)
            assert caught.value.status == 404

    asyncio.run(look())
