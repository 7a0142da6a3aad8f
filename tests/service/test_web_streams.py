"""Streams over HTTP: MJPEG and MPEG-TS, passwords, redirects, and what is said of what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import pytest
from cameras import behind_tls, certificate, make_film, published_over_http, pulled, says, told
from in_process import running_engine
from live_video import video
from posting import conserved
from web_camera import Asked, head, moved, running_web_camera
from ws_client import jpeg

from stmixer.service.api.service import Service
from stmixer.service.errors import CapacityError, StartError
from stmixer.service.pulled_url import parse_url
from stmixer.service.schemas import FrameSize
from stmixer.service.settings import Settings
from stmixer.service.sources import web_stream
from stmixer.service.sources.addresses import AddressPolicy, parse_networks
from stmixer.service.sources.allowance import LoopShare
from stmixer.service.sources.camera import Way
from stmixer.service.sources.jpeg_parts import JpegParts, boundary_of
from stmixer.service.sources.names import Resolve
from stmixer.service.sources.trouble import Trouble
from stmixer.service.sources.trust import Trust
from stmixer.service.sources.web_stream import WebSource

PICTURES = 40


async def mjpeg(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Pictures, then nothing more, and the connection stays."""
    writer.write(head(Content_Type="multipart/x-mixed-replace; boundary=--frame"))
    for number in range(PICTURES):
        data = jpeg(number)
        writer.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)  # its frame rate
    await asyncio.Event().wait()


async def transport_stream(_: Asked, writer: asyncio.StreamWriter) -> None:
    """MPEG-TS, then the end."""
    writer.write(head(Content_Type="video/mp2t") + video("h264", 45)[1])


def with_password(kind: str) -> object:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        given = asked.headers.get("authorization", "")
        right = base64.b64encode(b"me:pass word").decode()
        if given == f"Basic {right}" if kind == "Basic" else given.startswith('Digest username="me"'):
            await transport_stream(asked, writer)
        else:
            wants = {"Basic": 'Basic realm="cam"', "Digest": 'Digest realm="cam", nonce="abc", qop="auth"'}[kind]
            writer.write(head("401 Unauthorized", WWW_Authenticate=wants))

    return answer


def test_pictures_over_http() -> None:
    async def run() -> None:
        async with running_engine() as engine, running_web_camera({"/mjpg": mjpeg}) as camera:
            async with pulled(engine, camera.url("/mjpg?user=me&pwd=secret"), silent_s=3.0) as stream:
                live = await says(stream, "status", state="live")
                await says(stream, "result")
                assert told(stream).frame is not None
                assert told(stream).url == camera.url("/mjpg") + "?…"
                stalled = await says(stream, "status", state="stalled", after=live.number)
                await says(stream, "status", state="live", after=stalled.number)
                assert (told(stream).code, told(stream).reconnects) == ("silent", len(camera.asked) - 1)
            assert camera.asked[0].target == "/mjpg?user=me&pwd=secret"
            assert camera.asked[0].headers["host"] == f"127.0.0.1:{camera.port}"
            summary = stream.session.summary().model_dump()
            assert PICTURES < summary["received"] <= len(camera.asked) * PICTURES
            conserved(summary)

    asyncio.run(run())


def test_pictures_that_ffmpeg_publishes(tmp_path: Path) -> None:
    """Each of them comes, as it was."""
    film = make_film(tmp_path, "mjpeg", PICTURES)

    async def run() -> None:
        async with running_engine() as engine:
            with published_over_http(film, "mpjpeg", "multipart/x-mixed-replace; boundary=ffmpeg") as url:
                async with pulled(engine, url, hz=5.0) as stream:
                    live = await says(stream, "status", state="live")
                    await says(stream, "status", state="reconnecting", after=live.number)
                    assert (told(stream).code, told(stream).frame) == ("ended", FrameSize(width=320, height=240))
                    seen = {number for window in engine.worker.seen[stream.id].values() for number in window}
            summary = stream.session.summary().model_dump()
            assert summary["received"] == PICTURES
            assert seen <= set(range(PICTURES))
            assert len(seen) > 1
            conserved(summary)

    asyncio.run(run())


def test_a_stream_that_is_cut_gives_its_decoder_back() -> None:
    async def run() -> None:
        async with running_engine() as engine, running_web_camera({"/mjpg": mjpeg}) as camera:

            def value(name: str, **labels: str) -> float | None:
                return engine.engine.metrics.registry.get_sample_value(name, labels)

            async with pulled(engine, camera.url("/mjpg")) as stream:
                await says(stream, "result")
                stream.session.cut(CapacityError("key_limit", "over", 429))
                await says(stream, "summary")
                assert (told(stream).state, told(stream).code) == ("failed", "key_limit")
                assert not engine.pool._busy
                assert value("stmixer_pulled_streams", state="failed") == 1
            assert value("stmixer_pulled_streams", state="failed") == 0
            assert value("stmixer_decoders_lost_total", reason="protocol") == 0

    asyncio.run(run())


def test_a_container_over_http_goes_on_with_the_next_one() -> None:
    async def run() -> None:
        async with running_engine() as engine, running_web_camera({"/ts": transport_stream}) as camera:
            async with pulled(engine, camera.url("/ts")) as stream:
                live = await says(stream, "status", state="live")
                again = await says(stream, "status", state="reconnecting", after=live.number)
                await says(stream, "status", state="live", after=again.number)
                assert (told(stream).codec, told(stream).code, told(stream).reconnects) == ("h264", "ended", 1)
            conserved(stream.session.summary().model_dump())

    asyncio.run(run())


def test_a_certificate_has_to_be_known_or_not_looked_at(tmp_path: Path) -> None:
    its = certificate(tmp_path)
    ways = [(Trust(its), "live"), (Trust(verify=False), "live"), (Trust(), "tls")]

    async def run() -> None:
        async with (
            running_engine() as engine,
            running_web_camera({"/ts": transport_stream}) as camera,
            behind_tls(camera.port, its) as port,
        ):
            for trust, wanted in ways:
                async with pulled(engine, f"https://127.0.0.1:{port}/ts", trust=trust) as stream:
                    said = json.loads((await says(stream, "status")).text)
                    assert wanted == ("live" if said["state"] == "live" else told(stream).code)
                    assert told(stream).url == f"https://127.0.0.1:{port}/ts"

    asyncio.run(run())


def test_what_an_http_client_makes_of_its_context_is_not_a_cameras() -> None:
    trust = Trust(verify=False)
    assert trust.context("https") is not trust.context("rtsps")
    assert all(trust.context(purpose) is Trust(verify=False).context(purpose) for purpose in ("https", "rtsps"))


@pytest.mark.parametrize("purpose", ["https", "rtsps"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_source_has_one_handshake(purpose: Literal["https", "rtsps"], verify: bool) -> None:
    """Each one more would take time of the loop, which nobody counts."""
    assert Trust(verify=verify).context(purpose).options & ssl.OP_NO_RENEGOTIATION


def test_a_file_of_certificates_has_to_be_one(tmp_path: Path) -> None:
    Trust(certificate(tmp_path)).check()
    for path, why in ((tmp_path / "none.pem", "No such file"), (Path(__file__), "no certificates in PEM")):
        with pytest.raises(StartError, match=why):
            asyncio.run(Service(Settings(pull_ca_file=path)).start())


@pytest.mark.parametrize("kind", ["Basic", "Digest"])
def test_passwords(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)

    async def run() -> None:
        answers = {"/ts": with_password(kind)}
        async with running_engine() as engine, running_web_camera(answers) as camera:  # type: ignore[arg-type]
            async with pulled(engine, camera.url("/ts", "me:pass%20word")) as stream:
                await says(stream, "status", state="live")
            assert "authorization" not in camera.asked[0].headers  # not before it is asked for
            async with pulled(engine, camera.url("/ts")) as stream:
                await says(stream, "status", state="connecting")
                assert told(stream).code == "unauthorized"
        assert "pass word" not in caplog.text
        assert "pass%20word" not in caplog.text

    asyncio.run(run())


def test_redirects_are_checked_as_addresses_are() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.2", 0)) as elsewhere:
            there = f"http://127.0.0.2:{elsewhere.getsockname()[1]}/ts"
            answers = {
                "/ts": transport_stream, "/near": moved("/ts"), "/far": moved(there), "/file": moved("file:///etc/passwd"),
                "/rtsp": moved("rtsp://127.0.0.1/"), "/round": moved("/round"), "/octal": moved("http://0177.0.0.2/"),
                "/decimal": moved(f"http://2130706434:{elsewhere.getsockname()[1]}/"),
            }  # fmt: skip
            policy = AddressPolicy(parse_networks("127.0.0.1"))

            async def outcome(path: str) -> str | None:
                async with pulled(engine, camera.url(path, "me:secret"), policy=policy) as stream:
                    said = json.loads((await says(stream, "status")).text)
                    return "live" if said["state"] == "live" else told(stream).code

            async with running_engine() as engine, running_web_camera(answers) as camera:
                assert await outcome("/near") == "live"
                assert await outcome("/far") == "address_refused"
                assert await outcome("/decimal") == "address_refused"
                for path in ("/octal", "/file", "/rtsp", "/round"):
                    assert await outcome(path) == "redirects"
            elsewhere.setblocking(False)
            with pytest.raises(BlockingIOError):
                elsewhere.accept()

    asyncio.run(run())


def test_what_is_wrong_is_said() -> None:
    async def page(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(Content_Type="text/html") + b"<!doctype html><html><body>a camera's page</body></html>")

    async def broken(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("500 Oh"))

    async def silent(_: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def huge(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(
            head(Content_Type="multipart/x-mixed-replace;boundary=x") + b"--x\r\nContent-Length: 99999999\r\n\r\n"
        )

    async def no_tls(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head("400 Plain"))
        writer.close()

    async def run() -> None:
        answers = {"/page": page, "/broken": broken, "/silent": silent, "/huge": huge}
        wanted = {"/nothing": "no_such_path", "/page": "unreadable", "/broken": "bad_answer", "/silent": "silent",
                  "/huge": "too_large"}  # fmt: skip
        async with running_engine() as engine, running_web_camera(answers) as camera:
            for path, code in wanted.items():
                async with pulled(engine, camera.url(path), silent_s=1.0 if code == "silent" else 60.0) as stream:
                    await says(stream, "status")
                    assert told(stream).code == code, told(stream)
            plain = await asyncio.start_server(no_tls, "127.0.0.1", 0)
            async with plain, pulled(engine, f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}/") as stream:
                await says(stream, "status")
                assert told(stream).code == "tls"
                assert "does not come to terms on TLS (WRONG_VERSION_NUMBER)" in str(told(stream).error)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("picture", "code"),
    [(b"\x89PNG\r\n\x1a\n" + bytes(100), "unreadable"), (jpeg(1)[:200], "silent"), (b"no picture at all", "silent")],
    ids=["png", "cut off", "text"],
)
def test_what_is_no_picture_makes_nothing_live(picture: bytes, code: str) -> None:
    """It is tried again later and later, as what sends nothing is."""

    async def parts(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(Content_Type="multipart/x-mixed-replace; boundary=x"))
        while True:
            writer.write(b"--x\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def run() -> None:
        async with (
            running_engine() as engine, running_web_camera({"/": parts}) as camera,
            pulled(engine, camera.url("/"), silent_s=1.0) as stream,
        ):  # fmt: skip
            first = await says(stream, "status")
            await says(stream, "status", after=first.number)
            assert (told(stream).state, told(stream).code, told(stream).reconnects) == ("connecting", code, 0)
            assert told(stream).attempts == 2
            states = [json.loads(said.text)["state"] for said in stream.backlog._kept if said.kind == "status"]
            assert set(states) == {"connecting"}

    asyncio.run(run())


def test_what_is_refused_is_not_read() -> None:
    """It may be without end. The second answer to a request with user and password is the last."""
    sent = 0

    async def refuses(_: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head("401 Unauthorized", WWW_Authenticate='Digest realm="r", nonce="n"'))
        for _ in range(500):
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1

    async def run() -> None:
        async with running_web_camera({"/": refuses}) as camera:
            with pytest.raises(Trouble) as trouble:
                await fetched(camera.url("/", "me:secret"))
            assert trouble.value.reason == "unauthorized"
            assert [("authorization" in asked.headers) for asked in camera.asked] == [False, True]

    asyncio.run(run())
    assert sent < 50


def test_an_answer_that_never_begins_is_given_up_however_often_something_of_it_comes() -> None:
    async def dribbles(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def run() -> None:
        async with running_web_camera({"/": dribbles}) as camera:
            with pytest.raises(Trouble) as trouble:
                await fetched(camera.url("/"), silent_s=0.3)
            assert trouble.value.reason == "silent"

    asyncio.run(run())


@pytest.mark.parametrize("way", ["algorithm=FOO", 'qop="auth-int"', "opaque"])
def test_a_password_that_is_wanted_in_an_unknown_way(way: str) -> None:
    async def wants(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("401 Unauthorized", WWW_Authenticate=f'Digest realm="r", nonce="n", {way}'))

    async def run() -> None:
        async with running_web_camera({"/": wants}) as camera:
            with pytest.raises(Trouble) as trouble:
                await fetched(camera.url("/", "me:secret"))
            assert trouble.value.reason == "unauthorized"

    asyncio.run(run())


def test_an_address_that_does_not_answer_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, send = [], httpx.AsyncClient.send

    async def sent(client: httpx.AsyncClient, request: httpx.Request, **how: Any) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "127.0.0.3":
            raise httpx.ConnectTimeout("", request=request)
        return await send(client, request, **how)

    async def both(_: str, __: int) -> list[str]:
        return ["127.0.0.3", "127.0.0.1"]

    monkeypatch.setattr(httpx.AsyncClient, "send", sent)

    async def run() -> None:
        async with running_web_camera({}) as camera:
            with pytest.raises(Trouble) as trouble:
                await fetched(f"http://cam.example:{camera.port}/", both)
            assert trouble.value.reason == "no_such_path"

    asyncio.run(run())
    assert asked == ["127.0.0.3", "127.0.0.1"]


async def fetched(url: str, resolve: Resolve | None = None, silent_s: float = 10.0) -> None:
    """One attempt, of which nothing is taken."""
    policy = AddressPolicy(parse_networks("127.0.0.0/8"), resolve)
    context = SimpleNamespace(settings=Settings())
    await WebSource(context, parse_url(url), Way(policy), silent_s).fetch(lambda: None)  # type: ignore[arg-type]


# -- the parts of an answer


BODIES = {
    "with lengths": b"--b\r\nContent-Length: 5\r\n\r\nab--b\r\n--b\r\ncontent-length: 2\r\n\r\ncd\r\n--b\r\n",
    "without": b"\r\n--b\r\nContent-Type: image/jpeg\r\n\r\nab--\r\n--b\r\n\r\ncd\r\n--b--\r\n",
    "with bare line feeds": b"--b\nX: y\n\nab--\n--b\n\ncd\n--b\n",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_parts_in_whatever_pieces(name: str, step: int) -> None:
    parts, body = JpegParts(b"b", 100), BODIES[name]
    found = [part for at in range(0, len(body), step) for part in parts.feed(body[at : at + step])]
    assert found == [b"ab--b" if name == "with lengths" else b"ab--", b"cd"]


def test_what_is_no_stream_of_parts() -> None:
    with pytest.raises(Trouble, match="no part begins"):
        list(JpegParts(b"b", 100).feed(b"x" * 10_000))
    with pytest.raises(Trouble, match="more than 100 bytes"):
        list(JpegParts(b"b", 100).feed(b"--b\r\n\r\n" + b"x" * 10_000))


class Searched(bytearray):
    """Bytes that count how many of them were looked through."""

    looked = 0

    def find(self, what: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        """As ever."""
        stop = len(self) if end is None else min(end, len(self))
        at = super().find(what, start, stop)
        Searched.looked += (stop if at < 0 else at + len(what)) - start
        return at


@pytest.mark.parametrize("body", [b"--b\n\nx" * 10_000, b"--b\r\n\r\nx" * 10_000, b"--b\n\n" + b"x" * 90_000])
def test_bytes_are_looked_through_a_few_times_at_most(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = JpegParts(b"b", 100_000)
    monkeypatch.setattr(parts, "_held", Searched())
    monkeypatch.setattr(Searched, "looked", 0)
    for at in range(0, len(body), 20_000):
        list(parts.feed(body[at : at + 20_000]))
    assert 0 < Searched.looked <= 2 * len(body)


@pytest.mark.parametrize("picture", [b"x", b""])
def test_tiny_parts_leave_the_loop_to_others(picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part takes a millisecond by the clock of this test; empty ones are no pictures."""
    now, taken, pictures, found = 0.0, 0, 0, list[int]()

    class Answer:
        headers = {"content-type": "multipart/x-mixed-replace; boundary=b"}  # noqa: RUF012 - one of it

        async def aiter_raw(self) -> AsyncIterator[bytes]:
            yield (b"--b\n\n" + picture) * 41

    class Parts(JpegParts):
        def _next(self) -> bytes | None:
            nonlocal now, taken
            if (part := super()._next()) is not None:
                now += 0.001
                taken += 1
            return part

    class Taker:
        async def take(self, part: bytes) -> None:
            nonlocal pictures
            assert part == b"x"
            pictures += 1

    @asynccontextmanager
    async def answered() -> AsyncIterator[Answer]:
        yield Answer()

    async def begun(_: object) -> Taker:
        return Taker()

    async def others() -> None:
        while True:
            found.append(taken)
            await asyncio.sleep(0)

    async def run() -> None:
        source = WebSource(SimpleNamespace(settings=Settings()), parse_url("http://cam/"), Way(AddressPolicy(())), 1.0)  # type: ignore[arg-type]
        monkeypatch.setattr(source, "_answer", answered)
        monkeypatch.setattr(source, "_begun", begun)
        monkeypatch.setattr(web_stream, "LoopShare", lambda: LoopShare(lambda: now))
        monkeypatch.setattr(web_stream, "JpegParts", Parts)
        other = asyncio.create_task(others())
        with pytest.raises(Trouble):
            await source.fetch(lambda: None)
        other.cancel()

    asyncio.run(run())
    assert (taken, pictures) == (40, 40 if picture else 0)
    assert max(later - sooner for sooner, later in itertools.pairwise([0, *found, taken])) <= 6


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [("multipart/x-mixed-replace; boundary=frame", b"frame"), ('Multipart/X-Mixed-Replace;boundary="--a b"', b"a b"),
     ("multipart/x-mixed-replace; boundary*=utf-8''x", b"x"),
     ("multipart/x-mixed-replace", None), ("video/mp2t", None), ("", None), ("image/jpeg; boundary=x", None)],
)  # fmt: skip
def test_a_boundary(kind: str, boundary: bytes | None) -> None:
    assert boundary_of(kind) == boundary
