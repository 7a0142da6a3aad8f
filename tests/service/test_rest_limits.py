"""Limits: what is too large, too long or too slow is refused with its reason, early, and leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from posting import (
    MP4,
    NDJSON,
    at_rest,
    connected,
    conserved,
    frees_everything,
    lines_of,
    made_video,
    post,
    problem,
    read_until,
    request_head,
)
from serving import Server, running_server

from stmixer.service.settings import Settings


@pytest.fixture(scope="module")
def strict_server(tiny_weights: Path) -> Iterator[Server]:
    """1 MiB, 320 x 240, 2 s, and bytes at least every second."""
    limits = {
        "max_upload_mb": 1,
        "max_width": 320,
        "max_height": 240,
        "max_duration_s": 2,
        "upload_idle_s": 1,
        "keep_alive_s": 1,
    }
    with running_server(weights=tiny_weights, idle_decoders=1, **limits) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left(strict_server: Server) -> Iterator[None]:
    with frees_everything(strict_server, idle_decoders=1):
        yield
    assert not [line for line in strict_server.log if "Traceback" in line]


def test_within_the_limits(strict_server: Server) -> None:
    answer = post(strict_server, made_video(320, 240, 60)).json()
    assert answer["frame"] == {"width": 320, "height": 240}
    assert answer["summary"]["ok"] == 2


@pytest.mark.parametrize("length", [1, 0], ids=["content-length", "chunked"])
def test_too_many_bytes(strict_server: Server, length: int) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(2**17)

    body = bytes(20 * 2**17) if length else chunks()
    response = httpx.post(strict_server.url + "/v1/detect", content=body, timeout=30)
    assert "1 MiB" in problem(response, 413, "too_large")


def test_too_many_bytes_in_multipart(strict_server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(20):
            yield bytes(2**17)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = httpx.post(strict_server.url + "/v1/detect", content=chunks(), headers=headers, timeout=30)
    assert "1 MiB" in problem(response, 413, "too_large")


def test_too_many_bytes_are_refused_by_their_announcement(strict_server: Server) -> None:
    with connected(strict_server) as connection:
        connection.sendall(request_head(strict_server, 2**30))
        assert b" 413 " in read_until(connection, b"too_large")


@pytest.mark.parametrize(("width", "height"), [(336, 240), (320, 256), (240, 336)])
def test_too_large_a_picture(strict_server: Server, width: int, height: int) -> None:
    detail = problem(post(strict_server, made_video(width, height, 5)), 413, "too_large")
    assert f"{width}" in detail
    assert "320" in detail


def test_too_long_a_video_that_says_so(strict_server: Server) -> None:
    """What a container claims is no reason to refuse: its frames count as they come, and what came before the limit
    holds."""
    answer = post(strict_server, made_video(160, 120, 75)).json()
    assert [k["pts_us"] for k in answer["keyframes"]] == [0, 1_000_000, 2_000_000]
    assert answer["summary"]["received"] == 61
    assert any("2 s" in warning for warning in answer["warnings"])


def test_too_long_a_video_that_does_not_say_so(strict_server: Server) -> None:
    """Raw H.264 has no duration: the limit is met while decoding, and what came before it holds."""
    import io

    import av

    target = io.BytesIO()
    with av.open(target, "w", format="h264") as output, av.open(io.BytesIO(made_video(160, 120, 120))) as source:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    response = post(strict_server, target.getvalue(), accept=NDJSON)
    assert response.status_code == 200
    *keyframes, tail = lines_of(response)
    conserved(tail["summary"])
    # its own headers say 30 a second: frames 0 to 60 are within 2 s
    assert 50 <= tail["summary"]["received"] <= 61
    assert [k["pts_us"] for k in keyframes] == [0, 1_000_000, 2_000_000]
    assert any("2 s" in warning for warning in tail["warnings"])


@pytest.mark.parametrize("sent", [0, 1000])
def test_an_upload_that_stalls(strict_server: Server, sent: int) -> None:
    with connected(strict_server) as connection:
        connection.sendall(request_head(strict_server, 5000) + bytes(sent))
        assert b" 408 " in read_until(connection, b"upload_stalled")


def test_an_idle_connection_is_kept_as_long_as_is_said(strict_server: Server) -> None:
    """A balancer that keeps its own for 60 s has to be the one that closes."""
    assert Settings().keep_alive_s > 60
    with connected(strict_server) as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            read_until(connection, b'"ok"}')
        assert connection.recv(1) == b""


def test_a_full_disk_is_explained(strict_server: Server) -> None:
    """Files of this process may grow to 64 KiB: what a full disk does to it, without filling one."""
    process = psutil.Process(strict_server.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    try:
        process.rlimit(psutil.RLIMIT_FSIZE, (2**16, before[1]))
        raw = post(strict_server, bytes(500_000))
        part = httpx.post(strict_server.url + "/v1/detect", files={"file": ("a.mp4", bytes(500_000))}, timeout=30)
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)
    for response in (raw, part):
        problem(response, 503, "storage")
        assert int(response.headers["retry-after"]) > 0
    at_rest(strict_server, idle_decoders=1)
    assert post(strict_server, made_video(160, 120, 8)).status_code == 200


@pytest.fixture(scope="module")
def full_server(tiny_weights: Path) -> Iterator[Server]:
    """Its decoders find a full disk at 20 kB."""
    with running_server(weights=tiny_weights, decoder_module="full_disk_decoder") as server:
        yield server


def test_a_disk_that_a_drawn_video_fills_is_explained(full_server: Server) -> None:
    """Its decoders write it, and are as well as before."""
    large, small = made_video(320, 240, 45), made_video(128, 96, 3)
    assert len(post(full_server, small, accept=MP4).content) < 20_000
    for accept, status in ((MP4, 503), (NDJSON, 200), (MP4, 503)):
        response = post(full_server, large, accept=accept)
        assert response.status_code == status
        if status == 503:
            assert "room" in problem(response, 503, "storage")
            assert int(response.headers["retry-after"]) > 0
    assert any("a drawn video cannot be stored" in line for line in full_server.log)
    assert not [line for line in full_server.log if "Traceback" in line or "decoder" in line]
