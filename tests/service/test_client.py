"""The Python client against a real service: clips, cameras, errors; sync and async alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import OWN_CLIPS
from posting import conserved, made_video
from serving import Server
from ws_client import jpeg

from stmixer.media.annotated import UNTRAINED_BANNER, drawn
from stmixer.media.draw import draw_actors
from stmixer.service.client import AsyncClient, Client, ServiceError
from stmixer.service.schemas import Result, Summary

WALK = OWN_CLIPS / "walk.mp4"
FRAME_US = 33_333


def test_a_clip(server: Server, tmp_path: Path) -> None:
    with Client(server.url) as client:
        assert client.ready()
        assert client.models()[0]["name"] == "tiny"
        answer = client.detect(WALK, keyframe_hz=1, score_threshold=1)
        *keyframes, summary = client.detect_lines(WALK.read_bytes(), keyframe_hz=1, score_threshold=1)
        client.render(made_video(128, 96, 8), tmp_path / "drawn.mp4")
    assert answer.model == "tiny"
    assert [k.seq for k in answer.keyframes] == [k.seq for k in keyframes if isinstance(k, Result)]
    assert summary == answer.summary
    conserved(answer.summary.model_dump())
    assert b"ftyp" in (tmp_path / "drawn.mp4").read_bytes()[:16]


def untrained(result: Result) -> bool:
    """Whether its picture says that the model is."""
    picture = np.zeros((result.frame.height, result.frame.width, 3), np.uint8)
    said = draw_actors(picture, drawn(result.actors), banner=UNTRAINED_BANNER)
    return bool((np.asarray(result.plot(picture)) == said).all())


def test_pictures_of_an_untrained_model_say_so(server: Server) -> None:
    with Client(server.url) as client, client.stream(policy="all") as stream:
        found = client.detect(WALK.read_bytes(), keyframe_hz=1).keyframes
        stream.send(jpeg())
        stream.stop()
        found += stream
    assert len(found) > 1
    assert all(untrained(result) for result in found)


def test_a_camera(server: Server) -> None:
    with (
        Client(server.url) as client,
        client.stream(policy="all", timestamps="prefix", keyframe_hz=2, score_threshold=1) as stream,
    ):
        assert stream.ready.keyframe_hz == 2
        assert len(stream.ready.labels) > 1
        for n in range(61):
            stream.send(jpeg(n % 50), n * FRAME_US)
        stream.stop()
        results = list(stream)
    assert [r.seq for r in results] == list(range(len(results)))
    assert stream.summary is not None
    assert stream.summary.ok == len(results) == 4
    conserved(stream.summary.model_dump())


def test_asyncio(server: Server) -> None:
    async def use() -> tuple[list[Result], Summary | None, list[Result | Summary]]:
        async with AsyncClient(server.url) as client:
            assert await client.ready()
            assert (await client.models())[0]["name"] == "tiny"
            whole = await client.detect(WALK, score_threshold=1)
            lines = [line async for line in client.detect_lines(WALK, score_threshold=1)]
            assert lines[-1] == whole.summary
            options = {"policy": "all", "timestamps": "prefix", "score_threshold": 1}
            async with client.stream(**options) as stream:  # type: ignore[arg-type]
                for n in range(40):
                    await stream.send(jpeg(n), n * FRAME_US)
                await stream.flush()
                await stream.stop()
                return [result async for result in stream], stream.summary, lines

    results, summary, lines = asyncio.run(use())
    assert summary is not None
    assert len(results) == summary.ok == 2
    assert all(untrained(result) for result in results)
    assert isinstance(lines[0], Result)


def test_errors_have_code_and_status(server: Server) -> None:
    with Client(server.url) as client:
        with pytest.raises(ServiceError) as refused:
            client.detect(b"not a video")
        assert (refused.value.status, refused.value.code) == (400, "unreadable")
        with pytest.raises(ServiceError) as refused:
            list(client.detect_lines(WALK, keyframe_hz=-1))
        assert (refused.value.status, refused.value.code) == (422, "bad_option")
        with pytest.raises(ServiceError) as refused, client.stream(keyframe_hz=-1):
            pass
        assert (refused.value.status, refused.value.code) == (4400, "bad_message")
        with client.stream() as stream:
            for _ in range(3):
                stream.send(bytes(2**22))
            with pytest.raises(ServiceError) as refused:
                list(stream)
        assert (refused.value.status, refused.value.code) == (1009, "too_large")


def test_what_a_later_service_adds_is_ignored() -> None:
    """New fields are additions (CONTRIBUTING.md): a client that does not know them reads the rest."""
    result = {
        "seq": 0, "pts_us": 0, "received_at_us": 1, "sent_at_us": 2, "warming": False, "new": 1,
        "dropped_since_last": 0,
        "timings_ms": {"lookahead": 0, "decode": 0, "queue": 0, "inference": 0, "postprocess": 0, "new": 1},
        "frame": {"width": 2, "height": 2, "new": 1},
        "actors": [{
            "box_px": [0, 0, 1, 1], "box": [0, 0, 1, 1], "person_score": 1, "track_id": None, "new": 1,
            "actions": [{"id": 1, "name": "walk", "score": 1, "new": 1}],
        }],
    }  # fmt: skip
    answer = {"model": "m", "trained": True, "frame": result["frame"], "keyframes": [result], "summary": {"new": 1}}

    def serve(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={**answer, "warnings": [], "new": 1})

    with Client("http://service") as client:
        client._http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(serve))
        found = client.detect(b"clip")
    assert found.keyframes[0].actors[0].actions[0].name == "walk"


def answered(status: int, retry_after: str, body: bytes) -> ServiceError:
    """What the client makes of an answer to a clip."""

    def serve(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=body, headers={"Retry-After": retry_after})

    with Client("http://service") as client:
        client._http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(serve))
        with pytest.raises(ServiceError) as refused:
            client.detect(b"clip")
    return refused.value


OURS = json.dumps({
    "type": "about:blank", "title": "x", "status": 503, "code": "capacity", "detail": "full", "request_id": "0"
}).encode()  # fmt: skip


@pytest.mark.parametrize("body", [OURS, b"<html>busy</html>"], ids=["ours", "a gateway's"])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 2.5e11),
        ("soon", None),
        ("", None),
    ],
)
def test_when_to_come_again(body: bytes, retry_after: str, seconds: float | None) -> None:
    """Seconds or a date, of the service or of a gateway before it."""
    error = answered(503, retry_after, body)
    assert (error.status, error.code) == (503, "capacity" if body == OURS else "http_error")
    assert error.retry_after_s == (seconds if seconds is None else pytest.approx(seconds, rel=0.02))


SIGN_IN, JSON = {"Location": "https://sign.in/"}, {"Content-Type": "application/json"}
IN_OUR_PLACE = {
    "sent elsewhere": (302, SIGN_IN, b"", "Found; it sends us to https://sign.in/"),
    "sent to HTTPS": (308, SIGN_IN, b"<html>", "Permanent Redirect; it sends us to https://sign.in/"),
    "a page": (200, {"Content-Type": "text/html"}, b"<html>sign in</html>", "none of the service's"),
    "somebody else's JSON": (200, JSON, b'{"message": "hello"}', "none of the service's"),
    "a list": (200, JSON, b"[]", "none of the service's"),
}  # fmt: skip


@pytest.mark.parametrize("kind", IN_OUR_PLACE)
def test_what_a_proxy_answers_in_our_place_is_no_answer(kind: str, tmp_path: Path) -> None:
    status, headers, body, says = IN_OUR_PLACE[kind]

    def serve(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=body, headers=headers)

    def check(refused: ServiceError) -> None:
        assert (refused.status, refused.code, refused.retry_after_s) == (status, "http_error", None)
        assert says in str(refused)

    async def asynchronously() -> None:
        async with AsyncClient("http://service") as client:
            client._http = httpx.AsyncClient(base_url="http://service", transport=httpx.MockTransport(serve))
            for call in (client.detect(b"clip"), anext(client.detect_lines(b"clip")), client.models()):
                with pytest.raises(ServiceError) as refused:
                    await call
                check(refused.value)

    with Client("http://service") as client:
        client._http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(serve))
        for call in (
            lambda: client.detect(b"clip"), lambda: next(client.detect_lines(b"clip")), client.models,
            lambda: client.render(b"clip", tmp_path / "drawn.mp4"),
        ):  # fmt: skip
            with pytest.raises(ServiceError) as refused:
                call()
            check(refused.value)
    assert not (tmp_path / "drawn.mp4").exists()
    asyncio.run(asynchronously())


HANDSHAKES = {
    "ours": (b"HTTP/1.1 503 Full\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s" % (len(OURS), OURS),
             (503, "capacity", 7.0)),
    "a gateway's": (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nbusy", (502, "http_error", None)),
    "a sign-in": (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhtml", (200, "http_error", None)),
    "sent elsewhere": (b"HTTP/1.1 302 Found\r\nLocation: https://sign.in/\r\nContent-Length: 0\r\n\r\n",
                       (302, "http_error", None)),
    "sent to HTTPS": (b"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://service/v1/streams/ws\r\n\r\n",
                      (308, "http_error", None)),
    "sent to no address": (b"HTTP/1.1 302 Found\r\nLocation: http://[/\r\n\r\n", (302, "http_error", None)),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", (1006, "closed", 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", HANDSHAKES)
def test_a_stream_that_is_not_let_in_says_so(kind: str) -> None:
    answer, error = HANDSHAKES[kind]

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    def filmed(url: str) -> ServiceError:
        with Client(url) as client, pytest.raises(ServiceError) as refused, client.stream():
            pass
        return refused.value

    async def both() -> list[ServiceError]:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with AsyncClient(url) as client:
                with pytest.raises(ServiceError) as refused:
                    async with client.stream():
                        pass
            return [refused.value, await asyncio.to_thread(filmed, url)]

    for refused in asyncio.run(both()):
        assert (refused.status, refused.code, refused.retry_after_s) == error


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer of lines without end, which says whether it was closed."""

    closed = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield SUMMARY_LINE

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield SUMMARY_LINE

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


SUMMARY_LINE = json.dumps({"summary": {}, "warnings": ["odd"]}).encode() + b"\n"


def test_lines_that_are_broken_off_free_their_connection() -> None:
    answer = Broken()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=answer))
    with Client("http://service") as client:
        client._http = httpx.Client(base_url="http://service", transport=transport)
        with contextlib.closing(client.detect_lines(b"clip")) as lines:
            assert next(lines) == Summary()
            assert answer.closed == 0
        assert answer.closed == 1
        assert list(lines) == []
        assert lines.warnings == ["odd"]

    async def asynchronously() -> None:
        async with AsyncClient("http://service") as client:
            client._http = httpx.AsyncClient(base_url="http://service", transport=transport)
            async with contextlib.aclosing(client.detect_lines(b"clip")) as lines:
                assert await anext(lines) == Summary()
                assert answer.closed == 1
            assert answer.closed == 2
            assert [line async for line in lines] == []

    asyncio.run(asynchronously())


def test_options_that_are_none_are_not_given(server: Server) -> None:
    with Client(server.url) as client:
        plain = client.detect(WALK, score_threshold=1)
        odd = client.detect(WALK, score_threshold=1, top_k=None, lookahead_ms=None, keyframe_hz=None)
    assert [k.pts_us for k in odd.keyframes] == [k.pts_us for k in plain.keyframes]
    with Client(server.url) as client, client.stream(lookahead_ms=None, keyframe_hz=None, resume_token=None) as stream:
        assert stream.ready.keyframe_hz == 1
        stream.stop()
        assert list(stream) == []


def test_an_address_in_capitals(server: Server) -> None:
    with Client(server.url.replace("http", "HTTP")) as client, client.stream() as stream:
        assert stream.ready.session_id


def test_it_needs_neither_torch_nor_fastapi() -> None:
    code = "import sys, stmixer.service.client; sys.exit(bool({'torch', 'fastapi', 'av', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
