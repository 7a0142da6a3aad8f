"""Cameras for tests, and what a service says of the streams that it pulls."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import TESTS
from in_process import Running
from ws_client import numbered

from stmixer.service.pulled_url import parse_url
from stmixer.service.schemas import DetectOptions, Pulled
from stmixer.service.sessions.backlog import Said
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.sessions.session import Session
from stmixer.service.sources.addresses import AddressPolicy, parse_networks
from stmixer.service.sources.camera import Way
from stmixer.service.sources.easel import Easel
from stmixer.service.sources.pulled import PullTerms
from stmixer.service.sources.trust import Trust

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
_ASKS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def need_rtsp_server() -> None:
    """GStreamer's. Missing, it is a failure in CI and a skip by name elsewhere."""
    there = Path(SYSTEM_PYTHON).exists()
    if not there or subprocess.run([SYSTEM_PYTHON, "-c", _ASKS], capture_output=True, check=False).returncode:
        message = f"GStreamer's RTSP server is missing: apt-get install {PACKAGES}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@dataclass
class Camera:
    """One that runs."""

    port: int
    process: subprocess.Popen[str]

    def url(self, credentials: str = "", path: str = "/cam") -> str:
        """Its address."""
        return f"rtsp://{credentials and credentials + '@'}127.0.0.1:{self.port}{path}"

    def fall_silent(self) -> None:
        """Say nothing more, and close nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After ``fall_silent``."""
        self.process.send_signal(signal.SIGCONT)


@dataclass(frozen=True)
class Encoding:
    """How a film is made: the encoder, its pixels and options; and FFmpeg's name of the codec."""

    encoder: str
    pixels: str
    options: dict[str, str]
    name: str


ENCODINGS = {
    "h264": Encoding("libx264", "yuv420p", {"bf": "2", "g": "30"}, "h264"),
    "h265": Encoding(
        "libx265", "yuv420p", {"x265-params": "bframes=2:keyint=30:open-gop=0:pools=1:log-level=none"}, "hevc"
    ),
    "mjpeg": Encoding("mjpeg", "yuvj420p", {"huffman": "default"}, "mjpeg"),
}


def make_film(folder: Path, codec: str, frames: int = 150, picture: Callable[[int], np.ndarray] = numbered) -> Path:
    """Some seconds of pictures of 320 x 240, numbered ones by default, with B-frames where there are such, a keyframe a
    second."""
    encoding, target = ENCODINGS[codec], io.BytesIO()
    with av.open(target, "w", format="mov") as output:
        track = output.add_stream(encoding.encoder, rate=30)
        track.width, track.height, track.pix_fmt, track.options = 320, 240, encoding.pixels, encoding.options
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    path = folder / f"{codec}.mov"
    path.write_bytes(target.getvalue())
    return path


def running_camera(clip: Path, codec: str = "h264", *access: str) -> AbstractContextManager[Camera]:
    """A camera that shows a clip to whoever connects; ``access``: basic or digest, user, password."""
    return running_cameras({"/cam": (codec, clip)}, *access)


@contextmanager
def running_cameras(mounts: Mapping[str, tuple[str, Path]], *access: str) -> Iterator[Camera]:
    """One with several paths: of each what it shows, a codec of ``camera_server`` and a file."""
    need_rtsp_server()
    paths = json.dumps({path: (codec, str(clip)) for path, (codec, clip) in mounts.items()})
    command = [SYSTEM_PYTHON, str(TESTS / "camera_server.py"), paths, *access]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield Camera(int(process.stdout.readline()), process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def publishing(film: Path, url: str, kind: str, **options: str) -> Iterator[None]:
    """FFmpeg, in a process of its own, publishes a film once, at its pace; ``kind``, ``options``: its muxer's."""
    command = [sys.executable, str(TESTS / "ffmpeg_publisher.py"), str(film), url, kind, json.dumps(options)]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def published_over_http(film: Path, kind: str, content_type: str = "video/mp2t") -> Iterator[str]:
    """The same to the first who asks for it; where. The muxer ``fifo`` is how FFmpeg is told by PyAV to listen."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/cam"
    listens = f"listen=1:content_type={content_type}"
    with publishing(film, url, "fifo", fifo_format=kind, format_opts=listens, queue_size="4"):
        yield url


def certificate(folder: Path, host: str = "127.0.0.1") -> Path:
    """One of a host's own making, PEM, with its key beside it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}",
         "-addext", f"subjectAltName={'IP' if host[0].isdigit() else 'DNS'}:{host}",
         "-keyout", folder / "its.key", "-out", folder / "its.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "its.pem"


@asynccontextmanager
async def behind_tls(port: int, its: Path, named: list[str | None] | None = None) -> AsyncIterator[int]:
    """A port of this machine that speaks TLS with ``certificate`` and passes on what it hears to another one; ``named``
    gets the host that each client asks for (SNI)."""
    tls, tasks = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), set[asyncio.Task[None] | None]()
    tls.load_cert_chain(its, its.with_suffix(".key"))
    if named is not None:
        tls.sni_callback = lambda _, name, __: named.append(name)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        behind = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))
        finally:
            behind[1].close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


@asynccontextmanager
async def pulled(run: Running, url: str, *, silent_s: float = 10.0, **terms: Any) -> AsyncIterator[PulledStream]:
    """A stream that an engine without a server fetches; loopback is allowed. ``hz``, parts of its ``Way`` and the rest
    of its terms."""
    options = DetectOptions(keyframe_hz=terms.pop("hz", 2.0))
    policy = terms.pop("policy", AddressPolicy(parse_networks("127.0.0.0/8")))
    way = Way(policy, terms.pop("trust", Trust()), terms.pop("transport", "tcp"))
    session = Session(run.engine, run.pool, run.settings, run.anyone, source="pull", policy="latest", options=options)
    easel = Easel(run.pool)
    stream = PulledStream(session, PullTerms(parse_url(url), way, silent_s=silent_s, **terms), "a name", easel)
    await stream.open()
    try:
        yield stream
    finally:
        await stream.close()
        await easel.close()


async def says(stream: PulledStream, kind: str, timeout_s: float = 60.0, after: int = 0, **fields: Any) -> Said:
    """The first message of a kind, after that number, that has these fields."""
    async with asyncio.timeout(timeout_s):
        async for said in stream.backlog.follow(after):
            if isinstance(said, Said) and said.kind == kind and fields.items() <= json.loads(said.text).items():
                return said
    raise AssertionError(f"it ended without {kind} {fields}")


def told(stream: PulledStream) -> Pulled:
    """What is said of it."""
    found = stream.running().pulled
    assert found is not None
    return found
