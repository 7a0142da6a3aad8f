"""Nothing outlives its request: odd files, clients that vanish, files that name other files."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import OWN_CLIPS, SHARED_CLIPS, shared_clips
from posting import (
    MP4,
    NDJSON,
    WORKER,
    at_rest,
    connected,
    conserved,
    eventually,
    frees_everything,
    made_video,
    metric,
    post,
    problem,
    read_until,
    request_head,
    samples,
)
from serving import Server

WALK = OWN_CLIPS / "walk.mp4"
ODD = shared_clips("odd/*")
SLOW = ("long_4k_av1.mp4",)
CAUSES = {
    "unreadable": 400, "no_frames": 400, "no_video": 415, "encrypted": 415, "unsupported_codec": 415,
    "too_large": 413, "too_long": 413, "aspect_unsupported": 422, "external_resource": 400,
}  # fmt: skip


# -- odd files


def answer_to(server: Server, clip: Path, **options: object) -> str:
    """A clip's outcome in a word; fails unless it is detections or one cause."""
    response = post(server, clip, timeout=280, score_threshold=0, top_k=1, **options)
    if response.status_code == 200:
        answer = response.json()
        conserved(answer["summary"])
        assert answer["keyframes"], clip.name
        assert all(k["actors"] for k in answer["keyframes"]), clip.name
        return "200" if not answer["warnings"] else "200 with warnings"
    code = response.json()["code"]
    problem(response, CAUSES[code], code)
    return str(code)


def rss(server: Server) -> tuple[float, float]:
    """MiB of the API process and of the worker."""
    worker = server.children_of(WORKER)[0]
    return psutil.Process(server.process.pid).memory_info().rss / 2**20, worker.memory_info().rss / 2**20


@pytest.mark.skipif(not ODD, reason="the odd shared clips are not here")
@pytest.mark.slow
def test_odd_files_are_answered_and_leave_nothing(server: Server) -> None:
    clips, said = [clip for clip in ODD if clip.name not in SLOW], len(server.log)
    for size in ((426, 240), (240, 426), (256, 256)):  # torch keeps buffers for every padded shape it has met
        post(server, made_video(*size, 10)).raise_for_status()
    with frees_everything(server):
        memory = rss(server)
        with ThreadPoolExecutor(3) as pool:
            answers = dict(zip((c.name for c in clips), pool.map(lambda c: answer_to(server, c), clips), strict=True))
    assert sum(answer.startswith("200") for answer in answers.values()) > len(clips) / 2, answers
    assert len(set(answers.values())) >= 4, answers
    grown = [after - before for before, after in zip(memory, rss(server), strict=True)]
    # Uploads, rings and pictures live in files and other processes. What may stay: the allocator's arenas, of answers
    # that are built up in the API process, and of batches of up to 8 clips in the worker, whose tensors take 100 MiB.
    assert grown[0] < 32, memory
    assert grown[1] < 192, memory
    assert not [line for line in server.log[said:] if "Traceback" in line]


@pytest.mark.drill
@pytest.mark.skipif(not ODD, reason="the odd shared clips are not here")
def test_odd_files_again_and_again_take_no_more_memory(server: Server) -> None:
    clips = [clip for clip in ODD if clip.name not in SLOW]
    seen: list[tuple[float, float]] = []
    for _ in range(4):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda c: answer_to(server, c), clips))
        at_rest(server)
        seen.append(rss(server))
    print("API and worker, MiB, after each round:", seen)
    # a leak of one picture per file would be 50 x 0.5 MiB a round
    assert seen[3][0] - seen[1][0] < 8, seen
    assert seen[3][1] - seen[1][1] < 64, seen


@pytest.mark.slow
@pytest.mark.timeout(960)  # minutes of AV1 in 4K
@pytest.mark.parametrize("name", SLOW)
def test_long_odd_files(server: Server, name: str) -> None:
    clip = SHARED_CLIPS / "odd" / name
    if not clip.exists():
        pytest.skip(f"{name} is not here")
    with frees_everything(server):  # it is long by its frames, all of which are decoded; not by what is inferred
        answer_to(server, clip, keyframe_hz=0.2)


# -- clients that vanish


def cancelled(server: Server) -> float:
    return metric(server, "keyframes_total", source="upload", outcome="cancelled")


@pytest.mark.parametrize("kind", ["raw", "multipart", "chunked"])
def test_a_client_that_vanishes_while_it_uploads(server: Server, kind: str) -> None:
    body, said = WALK.read_bytes(), len(server.log)
    begun = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' if kind == "multipart" else b""
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"} if kind == "multipart" else {}
    half = begun + body[: len(body) // 2]
    if kind == "chunked":
        half = b"%x\r\n" % len(half) + half + b"\r\n"
    with frees_everything(server), connected(server) as connection:
        connection.sendall(request_head(server, None if kind == "chunked" else len(body), **headers) + half)
        # let in, and its bytes on the way to the disk
        eventually(lambda: metric(server, "uploads_waiting"), lambda n: n == 1)
    assert not [line for line in server.log[said:] if "Traceback" in line]


def test_a_client_that_does_not_read_its_lines_holds_a_bounded_part(server: Server) -> None:
    """Results wait in bounded number for a client that reads nothing; when it leaves, they are gone."""
    body = WALK.read_bytes()
    before, runs = cancelled(server), metric(server, "inferences_total", worker="0")
    with frees_everything(server), connected(server) as connection:
        path = "/v1/detect?score_threshold=0&keyframe_hz=30"
        connection.sendall(request_head(server, len(body), path, Accept=NDJSON) + body)
        counts: list[float] = []

        def stands_still() -> bool:
            counts.append(metric(server, "inferences_total", worker="0") - runs)
            return len(counts) > 30 and counts[-1] == counts[-30] > 0

        eventually(stands_still, timeout_s=60)
        # 205 keyframes: 32 may wait in the service, the rest of those done fill the sockets' buffers (100 kB a line)
        assert counts[-1] < 150
    assert cancelled(server) > before


def test_a_client_that_vanishes_while_its_video_is_drawn(server: Server) -> None:
    said = len(server.log)  # others kill what is this service's
    clip = made_video(1280, 720, 240)  # noise: seconds of work for the encoder
    done = metric(server, "keyframes_total", source="upload", outcome="ok")

    def left() -> float:
        return metric(server, "request_seconds_count", route="/v1/detect", code="499")

    before = left()
    with frees_everything(server), connected(server) as connection:
        connection.sendall(request_head(server, len(clip), Accept=MP4) + clip)
        eventually(
            lambda: metric(server, "keyframes_total", source="upload", outcome="ok") - done, lambda n: n == 8, 60
        )
    eventually(left, lambda n: n == before + 1)
    assert not [line for line in server.log[said:] if "Traceback" in line]


def test_a_client_that_vanishes_while_its_video_is_sent(server: Server) -> None:
    clip = made_video(640, 360, 60)
    with frees_everything(server), connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request_head(server, len(clip), Accept=MP4) + clip)
        head = read_until(connection, b"\r\n\r\n")
        assert b"content-type: video/mp4" in head


# -- files that name other files


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server's address and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(WALK.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_port}"
        yield url, asked
        assert httpx.get(url + "/seen").status_code == 200  # it would have answered, and noted it
        assert asked == ["/seen"]
        httpd.shutdown()
        thread.join()


def references(target: str) -> dict[str, str]:
    return {
        "a.m3u8": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:7\n#EXTINF:7.0,\n{target}\n#EXT-X-ENDLIST\n",
        "a.m3u": f"#EXTM3U\n{target}\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "a.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><BaseURL>'
        f"{target}</BaseURL></Period></MPD>",
        "a.asx": f'<ASX version="3.0"><Entry><Ref href="{target}"/></Entry></ASX>',
        "a.txt": target,
    }


@pytest.mark.parametrize("name", list(references("")))
def test_a_body_that_names_other_media_fetches_nothing(server: Server, other: tuple[str, list[str]], name: str) -> None:
    url, _ = other
    for target in (url + "/clip.mp4", str(WALK), WALK.as_uri(), f"concat:{WALK}|{WALK}"):
        body = references(target)[name].encode()
        for response in (
            post(server, body),
            httpx.post(server.url + "/v1/detect", files={"file": (name, body)}, timeout=60),
        ):
            code = response.json()["code"]
            assert code in ("unreadable", "external_resource")
            detail = problem(response, 400, code)
            if name != "a.txt" or target.startswith("http"):
                assert "other" in detail or code == "external_resource", detail


def test_a_video_named_as_a_playlist_is_read_as_what_it_is(server: Server, other: tuple[str, list[str]]) -> None:
    url, _ = other
    video = made_video(128, 96, 10)
    for name in ("x.m3u8", url + "/x.m3u8", "concat:a|b", "%03d.jpg"):
        files = {"file": (name, video, "application/vnd.apple.mpegurl")}
        assert httpx.post(server.url + "/v1/detect", files=files, timeout=60).status_code == 200
    headers = {"Content-Disposition": f'attachment; filename="{url}/x.m3u8"', "Content-Type": "audio/mpegurl"}
    response = httpx.post(server.url + "/v1/detect", content=video, headers=headers, timeout=60)
    assert response.status_code == 200


def with_reference(data: bytes, entry: bytes) -> bytes:
    """An MP4 whose index comes last, with another data reference; its boxes grown to fit."""
    old = b"\x00\x00\x00\x0curl \x00\x00\x00\x01"
    at = data.index(old)
    changed = bytearray(data[:at] + entry + data[at + len(old) :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        box = data.rindex(name, 0, at) - 4
        struct.pack_into(">I", changed, box, struct.unpack_from(">I", data, box)[0] + len(entry) - len(old))
    return bytes(changed)


def test_an_mp4_whose_media_lie_elsewhere_fetches_nothing(
    server: Server, other: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, _ = other
    video = made_video(128, 96, 10)
    body = bytes(4) + url.encode() + b"/clip.mp4\0"
    by_address = with_reference(video, struct.pack(">I", len(body) + 8) + b"url " + body)
    # FFmpeg knows no addresses in MP4 and reads the file itself
    assert post(server, by_address).status_code in (200, 400)
    elsewhere = tmp_path / "elsewhere.mp4"
    elsewhere.write_bytes(video)
    path = str(elsewhere).encode()
    body = bytes(14) + b"\x01v" + bytes(38) + b"\x01f" + bytes(78) + struct.pack(">HH", 1, 1) + bytes(16)
    body += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)
    by_alias = with_reference(video, struct.pack(">I", len(body) + 8) + b"alis" + body)
    problem(post(server, by_alias), 400, "external_resource")


def test_what_the_client_names_never_appears_in_metrics(server: Server) -> None:
    for path in ("/v1/a%0ab", "/v1/streams/17", "/web/none.js", "/" + "x" * 300):
        assert httpx.get(server.url + path).status_code == 404
    httpx.request("BREW", server.url + "/v1/detect")
    labels = {(key, value) for (_, pairs) in samples(server) for key, value in pairs}
    routes = {value for key, value in labels if key == "route"}
    documented = set(json.loads(httpx.get(server.url + "/openapi.json").text)["paths"])
    assert routes <= documented | {
        "/",
        "/docs",
        "/web",
        "/openapi.json",
        "other",
        "/v2/health/live",
        "/v2/health/ready",
    }
