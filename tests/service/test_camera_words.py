"""What is said of a camera over RTSP that is of no use: in a code, and in words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cameras import make_film, pulled, running_camera, says, told
from in_process import Running, running_engine

from stmixer.service.sources.interleaved import framed


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film"), "h264")


async def until_end(reader: asyncio.StreamReader) -> bytes:
    """A request without a body; nothing where there are no more."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


PICTURES, SOUND = b"m=video 0 RTP/AVP 26\r\na=control:track1\r\n", b"m=audio 0 RTP/AVP 8\r\na=control:track1\r\n"
UNHEARD_OF = b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H299/90000\r\na=control:track1\r\n"


@asynccontextmanager
async def answering(holds: bytes, **answers: str) -> AsyncIterator[str]:
    """A camera that answers everything with 200, but for these methods, and then sends packets of its own making;
    ``holds``: the media of its SDP. Where it is."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        says = {
            "OPTIONS": "Public: DESCRIBE, SETUP, PLAY", "DESCRIBE": "Content-Type: application/sdp",
            "SETUP": "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1",
        }  # fmt: skip
        while head := await until_end(reader):
            method = head.split(b" ")[0].decode()
            number = next(line for line in head.decode().split("\r\n") if line.startswith("CSeq"))
            body = b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\n" + holds if method == "DESCRIBE" else b""
            lines = [f"RTSP/1.0 {answers.get(method, '200 OK')}", number, f"Content-Length: {len(body)}"]
            lines += [says[method]] if method in says else []
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            if method == "PLAY" and method not in answers:
                for picture in range(1, 200):
                    head = b"\x80\xe0" + picture.to_bytes(2) + (3000 * picture).to_bytes(4) + bytes(4)
                    writer.write(framed(0, head + bytes(200)))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"rtsp://127.0.0.1:{server.sockets[0].getsockname()[1]}/cam"


@pytest.mark.parametrize(
    ("holds", "answers", "transport", "code", "words"),
    [
        (PICTURES, {"SETUP": "461 Unsupported Transport"}, "udp", "bad_answer", "does not send by this transport"),
        (PICTURES, {"DESCRIBE": "500 Oh"}, "tcp", "bad_answer", "is no use"),
        (SOUND, {"PLAY": "454 Session Not Found"}, "tcp", "bad_answer", "it may hold no video"),
        (UNHEARD_OF, {}, "tcp", "unsupported_codec", "there is no decoder for this video"),
    ],
    ids=["461", "500", "sound", "unheard of"],
)  # fmt: skip
def test_a_camera_of_no_use_is_told_why(
    holds: bytes, answers: dict[str, str], transport: str, code: str, words: str
) -> None:
    async def run() -> None:
        async with (
            running_engine() as engine,
            answering(holds, **answers) as url,
            pulled(engine, url, transport=transport) as stream,
        ):
            await says(stream, "status", state="connecting")
            assert told(stream).code == code
            assert words in str(told(stream).error)

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_camera_that_sends_us_elsewhere_is_not_followed(host: str) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.2", 0)) as elsewhere:
            there = f"302 Found\r\nLocation: rtsp://127.0.0.2:{elsewhere.getsockname()[1]}/cam"
            async with (
                running_engine() as engine,
                answering(PICTURES, DESCRIBE=there) as url,
                pulled(engine, url.replace("127.0.0.1", host)) as stream,
            ):
                await says(stream, "status", state="connecting")
                assert told(stream).code == "bad_answer"
                assert "sends us to another address, which is not followed" in str(told(stream).error)
            elsewhere.setblocking(False)
            with pytest.raises(BlockingIOError):
                elsewhere.accept()

    asyncio.run(run())


def test_what_is_wrong_is_said(film: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = nobody.getsockname()[1]
    asked = [
        (f"rtsp://127.0.0.1:{closed}/cam", "refused"),
        ("rtsp://no-such-name.invalid/cam", "name"),
        ("rtsp://localhost:1/cam", "refused"),
    ]

    async def code(engine: Running, url: str, silent_s: float = 20.0) -> str | None:
        async with pulled(engine, url, silent_s=silent_s) as stream:
            await says(stream, "status", state="connecting")
            return told(stream).code

    async def run() -> None:
        async with running_engine() as engine:
            with running_camera(film) as camera, running_camera(film, "sound") as sound:
                asked.append((camera.url(path="/else"), "no_such_path"))
                asked.append((sound.url(), "bad_answer"))
                found = [await code(engine, url) for url, _ in asked]
                camera.fall_silent()
                found.append(await code(engine, camera.url(), 1.0))
        assert found == [*(wanted for _, wanted in asked), "silent"]

    asyncio.run(run())
