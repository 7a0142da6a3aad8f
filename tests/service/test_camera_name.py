"""By which name a camera is asked: that of its URL, with a password's digest that fits, whatever FFmpeg connects to."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import pytest
from cameras import behind_tls, certificate, make_film, pulled, running_camera, says
from in_process import running_engine
from rtsp_wire import RtspWire

from stmixer.service.pulled_url import parse_url
from stmixer.service.sources.addresses import AddressPolicy, parse_networks
from stmixer.service.sources.camera_name import CameraName
from stmixer.service.sources.interleaved import Message
from stmixer.service.sources.trust import Trust

# -- a request


@pytest.mark.parametrize(
    ("given", "address", "ffmpegs", "wanted"),
    [
        ("rtsp://cam.example/a", "10.0.0.1", b"rtsp://10.0.0.1:554/a", b"rtsp://cam.example:554/a"),
        ("rtsp://me:pw@cam.example:8554/a?b=1", "10.0.0.1", b"rtsp://10.0.0.1:8554/a?b=1",
         b"rtsp://cam.example:8554/a?b=1"),
        ("rtsp://cam.example/a", "10.0.0.1", b"rtsp://10.0.0.1:554/a/track1", b"rtsp://cam.example:554/a/track1"),
        ("rtsp://cam.example/a", "2001:db8::1", b"rtsp://[2001:db8::1]:554/a", b"rtsp://cam.example:554/a"),
        ("rtsps://cam.example/a", "10.0.0.1", b"rtsp://10.0.0.1:322/a", b"rtsps://cam.example:322/a"),
        ("rtsps://[2001:db8::1]/a", "2001:db8::1", b"rtsp://[2001:db8::1]:322/a", b"rtsps://[2001:db8::1]:322/a"),
        # what a camera has said of itself stays, and what only begins alike
        ("rtsp://cam.example/a", "10.0.0.1", b"rtsp://inside.lan:554/a", b"rtsp://inside.lan:554/a"),
        ("rtsp://cam.example/a", "10.0.0.1", b"rtsp://10.0.0.1:5540/a", b"rtsp://10.0.0.1:5540/a"),
        ("rtsp://cam.example/a", "10.0.0.1", b"*", b"*"),
    ],
)  # fmt: skip
def test_a_camera_is_asked_by_the_name_of_its_url(given: str, address: str, ffmpegs: bytes, wanted: bytes) -> None:
    name = CameraName(parse_url(given), address)
    request = b"DESCRIBE %b RTSP/1.0\r\nCSeq: 2\r\n\r\n"
    assert name.put(Message(request % ffmpegs)).data == request % wanted


@pytest.mark.parametrize("said", [b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n", b"GET\r\n\r\n", b"  \r\n\r\n"])
def test_what_is_no_request_stays_as_it_is(said: bytes) -> None:
    assert CameraName(parse_url("rtsp://cam.example/"), "10.0.0.1").put(Message(said)).data == said


def md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()


# of RFC 2617, 3.5, but for the URL
REALM, NONCE, CNONCE = "Login to 5F, the hall", "dcd98b7102dd2f0e8b11d0f600bfb0c093", "0a4f113b"
SECRET, PLACE = md5("Mufasa", REALM, "Circle Of Life"), md5("PLAY", "rtsp://cam.example:554/a,b=1")
COUNTED = f', qop="auth", cnonce="{CNONCE}", nc=00000001'
DIGESTS = {
    "": md5(SECRET, NONCE, PLACE),
    ', algorithm="MD5", opaque="x"': md5(SECRET, NONCE, PLACE),
    COUNTED: md5(SECRET, NONCE, "00000001", CNONCE, "auth", PLACE),
    ', algorithm="MD5-sess"' + COUNTED: md5(
        md5(SECRET, NONCE, CNONCE), NONCE, "00000001", CNONCE, "auth", PLACE
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", DIGESTS, ids=["alone", "MD5", "counted", "MD5-sess"])
def test_a_passwords_digest_is_made_of_that_name(how: str) -> None:
    name = CameraName(parse_url("rtsp://Mufasa:Circle%20Of%20Life@cam.example/a,b=1"), "10.0.0.1")

    def request(host: str, digest: str) -> bytes:
        url = f"rtsp://{host}:554/a,b=1"
        said = f'username="Mufasa", realm="{REALM}", nonce="{NONCE}", uri="{url}", response="{digest}"{how}'
        return f"PLAY {url} RTSP/1.0\r\nRange: npt=0-\r\nAuthorization: Digest {said}\r\nCSeq: 2\r\n\r\n".encode()

    assert name.put(Message(request("10.0.0.1", "0" * 32))).data == request("cam.example", DIGESTS[how])


def test_the_digest_of_the_rfc() -> None:
    name = CameraName(parse_url("rtsp://Mufasa:Circle%20Of%20Life@cam.example/"), "10.0.0.1")
    line = b'realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", qop=auth, nc=00000001, '
    line += b'cnonce="0a4f113b"'
    assert name._digest(b"GET", b"/dir/index.html", line) == b"6629fae49393a05397450978507c4ef1"


def test_a_password_that_is_sent_as_it_is_stays_so() -> None:
    name = CameraName(parse_url("rtsp://me:pw@cam.example/"), "10.0.0.1")
    request = b"PLAY rtsp://%b:554/ RTSP/1.0\r\nAuthorization: Basic bWU6cHc=\r\nCSeq: 2\r\n\r\n"
    assert name.put(Message(request % b"10.0.0.1")).data == request % b"cam.example"


# -- a camera


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film"), "h264")


@pytest.mark.parametrize(("way", "transport"), [("tcp", "tcp"), ("udp", "udp"), ("tls", "tcp")])
def test_a_camera_with_a_name_is_asked_by_it_at_the_address_that_was_checked(
    film: Path, tmp_path: Path, way: str, transport: str
) -> None:
    """In every request, in the digest of its password, and where TLS begins; the name leads elsewhere the moment after.

    A server that knows nothing of the TLS in front of it says in DESCRIBE's answer that it is ``rtsp:``.
    """
    its, user = certificate(tmp_path, "cam.example"), "us%20er:hunter2%3A%40%2F"
    names, named = [["127.0.0.1"], ["127.0.0.2"]], list[str | None]()

    async def looked_up(host: str, port: int) -> list[str]:
        assert host == "cam.example"
        return names.pop(0)

    async def run() -> None:
        policy = AddressPolicy(parse_networks("127.0.0.0/8"), looked_up)
        async with running_engine() as engine:
            with running_camera(film, "h264", "digest", "us er", "hunter2:@/") as camera, RtspWire(camera.port) as wire:
                async with behind_tls(wire.near, its, named) as secure:
                    scheme, port = ("rtsps", secure) if way == "tls" else ("rtsp", wire.near)
                    url = f"{scheme}://{user}@cam.example:{port}/cam"
                    async with pulled(engine, url, policy=policy, trust=Trust(its), transport=transport) as stream:
                        await says(stream, "result")
                        heard = [head.split(b"\r\n\r\n")[0].decode() for head in wire.asked]
        assert {head.split(" ")[0] for head in heard} >= {"OPTIONS", "DESCRIBE", "SETUP", "PLAY"}
        for head in heard:
            method, target, _ = head.split(" ", 2)
            assert re.fullmatch(rf"rtsps?://cam\.example:{port}/cam(/.*)?", target)
            assert method not in ("OPTIONS", "DESCRIBE") or target == f"{scheme}://cam.example:{port}/cam"
            assert "127.0.0.1" not in head
            if "Authorization" in head:
                assert re.findall(r' uri="(.*?)"', head) == [target]
        assert sum("Authorization: Digest" in head for head in heard) >= 3
        assert named == (["cam.example"] if way == "tls" else [])
        assert names == [["127.0.0.2"]]

    asyncio.run(run())
