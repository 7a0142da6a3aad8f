"""By which name a camera is asked: that of its URL, with a password's digest that fits, whatever FFmpeg connects to."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import pytest
from cameras import behind_tls, certificate, make_film, pulled, running_camera, says
from in_process import running_engine
from rtsp_wire import RtspWire

from stmixer.media.rtsp import RtspCamera, open_camera
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
    before = b'Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
    after = b', opaque="5ccc069c403ebaf9f0171e9517f40e41", qop="auth", cnonce="0a4f113b", nc=00000001'
    assert name._digest(b"GET", b"/dir/index.html", before, after) == b"6629fae49393a05397450978507c4ef1"


LINE = b'PLAY %b RTSP/1.0\r\nCSeq: 2\r\nAuthorization: %b, uri="%b", response="0"%b\r\n\r\n'
HERE, ASKED = b"rtsp://10.0.0.1:554/a", b'Digest username="me", realm="r", nonce="n"'


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (ASKED, b"a" * 5000), (ASKED, b"a" * 65000), (ASKED.replace(b"r", b"r" * 5000), b""),
        (b'Digest username="you", realm="r", nonce="n"', b""), (b'Digest username="me", nonce="n"', b""),
    ],
    ids=["long", "as long as may be", "a long realm", "another user", "no realm"],
)  # fmt: skip
def test_a_digest_that_is_none_of_ffmpegs_stays_as_it_is(asked: bytes, more: bytes) -> None:
    """A decoder that was taken over may say what it will; more than FFmpeg's longest request is not looked through."""
    said = LINE % (HERE, asked, HERE, more)
    assert CameraName(parse_url("rtsp://me:pw@cam.example/a"), "10.0.0.1").put(Message(said)).data == said


@pytest.mark.parametrize(("given", "address"), [("rtsp://me:pw@10.0.0.1/a", "10.0.0.1"), ("rtsp://[::1]/a", "::1")])
def test_nothing_changes_for_a_camera_without_a_name(given: str, address: str) -> None:
    name = CameraName(parse_url(given), address)
    here = name._origin(address, "rtsp") + b"/a"
    message = Message(LINE % (here, ASKED, here, b""))
    assert name.put(message) is message


QUESTIONS = [
    ('realm="a \\"quoted\\" one, \\\\ and", nonce="n\\"1"', "u", "p"),
    ('realm="IP Camera(A1)", nonce="abc=="', "ad%3Amin", "p%40:w"),
    ('realm="x, nonce=y", nonce="n1", qop="auth", algorithm=MD5', "%C3%BC", "%E2%82%AC"),
    ('realm="x", nonce="n1", qop="auth,auth-int", algorithm="MD5-sess", opaque="o, qop="', "u%22,%20realm=%22z", "p"),
    ('realm="", nonce="n1", stale=FALSE', "u%5Cx", "p+q%25"),
]


@pytest.mark.parametrize(
    ("question", "user", "password"), QUESTIONS, ids=["quotes", "a colon", "counted", "MD5-sess", "no realm"]
)
def test_a_digest_is_made_as_ffmpeg_makes_it(question: str, user: str, password: str) -> None:
    """Of the same line and URL: whatever a camera may ask, and whoever the user may be."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        url = parse_url(f"rtsp://{user}:{password}@127.0.0.1:{server.getsockname()[1]}/cam")
        asked = thread.submit(answer_to, server, f"Digest {question}")
        with pytest.raises(av.error.HTTPNotFoundError):
            open_camera(RtspCamera(url.at("127.0.0.1", with_credentials=True, scheme="rtsp"), 20.0), "h264", {})
        method, target, rest = asked.result(20).split(" ", 2)
    found = re.search(r'Authorization: (.*)uri="(.*?)", response="(.*?)"(.*)\r\n', rest)
    assert found is not None
    before, uri, response, after = found.groups()
    assert uri == target
    made = CameraName(url, "10.0.0.1")._digest(method.encode(), uri.encode(), before.encode(), after.encode())
    assert made == response.encode()


def answer_to(server: socket.socket, question: str) -> str:
    """The request with which a client answers a camera that asks for a password, and has nothing."""
    client, _ = server.accept()
    with client, client.makefile("rb") as reads:
        while True:
            head = "".join(iter(lambda: reads.readline().decode(), "\r\n"))
            method, has_answer = head.partition(" ")[0], "Authorization" in head
            says = "200 OK" if method == "OPTIONS" else "404 None" if has_answer else "401 Who"
            number = re.findall(r"CSeq: \d+", head)[0]
            client.sendall(f"RTSP/1.0 {says}\r\n{number}\r\nWWW-Authenticate: {question}\r\n\r\n".encode())
            if has_answer:
                return head


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
