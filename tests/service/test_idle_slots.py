"""Slots are held only by those who use them: sockets without media, uploads that drip, keys that fill the disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import OWN_CLIPS
from posting import connected, read_until, request_head
from serving import Server, running_server
from websockets.exceptions import ConnectionClosed
from ws_client import Client, jpeg, plain_socket

from stmixer.service.access import Caller
from stmixer.service.api.media_clock import MediaClock
from stmixer.service.api.uploads import LEAST_BYTES_PER_S, STEP_BYTES, Pace, WaitingUploads
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.key_file import Key, KeyFile, digest, new_secret, write_keys
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import Summary

NULL_PACKET = b"\x47\x1f\xff\x10" + bytes(184)
"""Of MPEG-TS: says nothing."""


@pytest.fixture(scope="module")
def impatient(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, idle_timeout_s=1, upload_idle_s=1) as server:
        yield server


def counts(received: int = 0, pending: int = 0, **dropped: int) -> Summary:
    return Summary(received=received, dropped=dropped, pending=pending)


# -- cameras


def test_only_media_that_can_be_used_counts() -> None:
    now = 0.0
    media = MediaClock(10, container=False, clock=lambda: now)
    for seconds in (3, 6, 9):
        now = float(seconds)
        media.came(0)
        assert media.overdue(counts()) is None
    now = 10.5
    media.came(0)
    assert media.overdue(counts()) == "no media came for 10 s"
    media.begin()
    media.came(100)
    assert media.overdue(counts(1)) is None
    for seconds in range(9):  # bad pictures, one of them always on its way
        now += 1
        media.came(100)
        assert media.overdue(counts(seconds + 2, corrupt=seconds + 1)) is None
    now += 2
    media.came(100)
    assert media.overdue(counts(12, corrupt=11)) == "no picture that can be used came for 10 s"
    assert media.overdue(counts(14, corrupt=11)) is None  # a good one among them
    now += 11
    media.came(100)
    assert media.overdue(counts(20, corrupt=11, out_of_order=6)) == "no picture that can be used came for 10 s"
    assert media.overdue(counts(30, corrupt=11, out_of_order=6)) is None


def test_a_decoder_that_is_slow_is_not_its_senders_fault() -> None:
    now = 0.0
    media = MediaClock(10, container=False, clock=lambda: now)
    for seconds in range(60):
        now = float(seconds)
        media.came(100)
        assert media.overdue(counts(2 + seconds, mailbox=seconds)) is None


@pytest.mark.parametrize(("pending", "why"), [(0, "no picture came out of the media for 30 s"), (3, None)])
def test_a_container_that_holds_nothing(pending: int, why: str | None) -> None:
    now = 0.0
    media = MediaClock(10, container=True, clock=lambda: now)
    for seconds in range(30):
        now = float(seconds)
        media.came(1000)
        assert media.overdue(counts(pending=pending)) is None
    now = 31.0
    media.came(1000)
    assert media.overdue(counts(pending=pending)) == why
    assert media.overdue(counts(1)) is None


FEEDS = {
    "empty messages": ({}, lambda n: b""),
    "empty pictures with a time": ({"timestamps": "prefix"}, lambda n: (n * 1000).to_bytes(8, "little")),
    "noise": ({}, lambda n: bytes([128 + n % 120]) * 500),
    "half a picture": ({}, lambda n: jpeg(n % 8)[:300]),
    "empty pieces of a container": ({"codec": "mpegts"}, lambda n: b""),
    "a container of nothing": ({"codec": "mpegts"}, lambda n: NULL_PACKET * 10),
}


@pytest.mark.parametrize("feed", FEEDS)
def test_a_socket_that_is_fed_with_nothing_is_closed(impatient: Server, feed: str) -> None:
    start, data = FEEDS[feed]
    with plain_socket(impatient) as socket:
        client = Client(socket)
        client.say("start", **start)
        client.first("ready")
        for number in range(1000):
            try:
                socket.send(data(number))
            except ConnectionClosed:
                break
            client._reader.join(0.02)
        else:
            pytest.fail("it holds its stream as long as it likes")
        close, code, message = client.refused()
        assert (close, code) == (4408, "no_media"), message


@pytest.mark.slow
def test_text_is_paid_for_too(tiny_weights: Path, tmp_path: Path) -> None:
    secret = new_secret()
    key = Key(name="a", sha256=digest(secret), scopes=("stream",), requests_per_minute=5)
    write_keys(tmp_path / "keys.json", KeyFile(keys=(key,)))
    with running_server(weights=tiny_weights, keys=tmp_path / "keys.json") as server, plain_socket(server) as socket:
        client = Client(socket)
        client.say("start", api_key=secret)
        client.first("ready")
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20):
                client.say("update", top_k=1)
        assert client.refused()[:2] == (4429, "over_limit")


# -- keyframes


@pytest.fixture(scope="module")
def frugal(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A service, and a key that may have three keyframes a minute."""
    path, secret = tmp_path_factory.mktemp("keys") / "keys.json", new_secret()
    key = Key(name="a", sha256=digest(secret), scopes=("detect", "stream"), keyframes_per_minute=3)
    other = Key(name="b", sha256=digest(secret + "b"), scopes=("detect", "stream"), keyframes_per_minute=3)
    write_keys(path, KeyFile(keys=(key, other)))
    with running_server(weights=tiny_weights, keys=path) as server:
        yield server, secret


@pytest.mark.slow
def test_a_camera_has_so_many_keyframes_a_minute(frugal: tuple[Server, str]) -> None:
    server, secret = frugal
    with plain_socket(server) as socket:
        client = Client(socket)
        client.say("start", api_key=secret, keyframe_hz=4, lookahead_ms=0, timestamps="prefix", policy="all")
        client.first("ready")
        with contextlib.suppress(ConnectionClosed):
            for number in range(300):
                if client.close_code is not None:
                    break
                client.picture(jpeg(number % 8), number * 66_667)
                client._reader.join(0.02)
        close, code, message = client.refused()
        assert (close, code) == (4429, "over_limit")
        assert "3 keyframes a minute" in message
        assert 3 <= len(client.of("result")) <= 12  # those that ran meanwhile are given


@pytest.mark.slow
def test_an_upload_has_so_many_keyframes_a_minute(frugal: tuple[Server, str]) -> None:
    server, secret = frugal
    answer = httpx.post(
        server.url + "/v1/detect", params={"keyframe_hz": "8"}, content=(OWN_CLIPS / "walk.mp4").read_bytes(),
        headers={"Authorization": f"Bearer {secret}b"}, timeout=60,
    ).json()  # fmt: skip
    assert any("3 keyframes a minute" in warning for warning in answer["warnings"])
    assert 3 <= answer["summary"]["ok"] < answer["summary"]["keyframes_due"]
    assert answer["summary"]["cancelled"] > 0


# -- uploads


def test_an_upload_has_a_least_rate_in_every_window() -> None:
    now = 0.0
    pace = Pace(30, lambda: now)
    pace.took(10**9)  # a good start is no excuse
    now = 30.0
    pace.took(1)
    for seconds in (40, 50, 59):
        now = float(seconds)
        pace.took(1)
    now = 61.0
    with pytest.raises(InputError, match="4 bytes came in 31 s") as ended:
        pace.took(1)
    assert (ended.value.code, ended.value.status) == ("upload_stalled", 408)
    slow = Pace(30, lambda: now)
    for _ in range(120):
        now += 1.0
        slow.took(LEAST_BYTES_PER_S)


@pytest.mark.parametrize("chunked", [True, False])
def test_an_upload_that_drips_is_ended(impatient: Server, chunked: bool) -> None:
    clip = (OWN_CLIPS / "fall.mp4").read_bytes()
    with connected(impatient) as connection:
        connection.sendall(request_head(impatient, None if chunked else len(clip)))
        connection.settimeout(0.1)
        answer = b""
        for number in range(200):
            try:
                connection.sendall(b"1\r\n%c\r\n" % clip[number] if chunked else clip[number : number + 1])
                answer = connection.recv(65536)
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("it holds its place as long as it likes")
        connection.settimeout(10)
        answer += read_until(connection, b"}") if b"}" not in answer else b""
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "upload_stalled"


def test_room_is_reserved_before_it_is_used() -> None:
    """Of sizes that are said at once, of those that are not in steps, and given back."""
    greedy, again = (Caller(Key(name="a", sha256="0" * 64, scopes=("detect",))) for _ in range(2))
    other, free, mib = Caller(Key(name="b", sha256="1" * 64, scopes=("detect",))), 100 * 2**20, 2**20

    async def use() -> None:
        waiting = WaitingUploads(10, 64 * mib, Metrics(), free_bytes=lambda: free)
        with waiting.one_more(greedy) as one, waiting.one_more(again) as two, waiting.one_more(other) as third:
            waiting.reserve(one, 40 * mib)
            with pytest.raises(CapacityError, match=r"all of the 48 MiB that it may have") as refused:
                waiting.reserve(two, 9 * mib)  # the same key, whichever object
            assert (refused.value.code, refused.value.status, two.reserved) == ("over_limit", 429, 0)
            waiting.take(one, 10 * mib)
            assert (one.reserved, one.bytes) == (40 * mib, 10 * mib), "its size was said"
            waiting.take(third, 1000)
            assert third.reserved == STEP_BYTES
            waiting.take(third, STEP_BYTES)
            assert third.reserved == 2 * STEP_BYTES
            waiting.reserve(third, 45 * mib)  # as long as it is merely said
            waiting.take(one, 30 * mib)
            with pytest.raises(CapacityError, match="all the room, the 64 MiB for them") as refused:
                waiting.take(third, 24 * mib)
            assert (refused.value.code, refused.value.status) == ("capacity", 503)
        with waiting.one_more(other) as alone, waiting.one_more(Caller(None)) as anyone:
            waiting.reserve(alone, 40 * mib)
            nonlocal free
            free = 45 * mib  # 40 of which are promised
            with pytest.raises(CapacityError, match="the disk has no room for 6 MiB more") as refused:
                waiting.reserve(anyone, 6 * mib)
            assert (refused.value.code, refused.value.status) == ("storage", 503)
            waiting.reserve(anyone, 5 * mib)

    asyncio.run(use())


def test_one_key_does_not_fill_the_room_of_all() -> None:
    keys = [Key(name=name, sha256=digit * 64, scopes=("detect",)) for name, digit in (("a", "0"), ("b", "1"))]
    greedy, other = map(Caller, keys)

    async def use() -> None:
        waiting = WaitingUploads(10, 1000, Metrics())
        with waiting.one_more(greedy) as one, waiting.one_more(greedy) as two, waiting.one_more(other) as third:
            waiting.take(one, 500)
            waiting.take(two, 250)
            with pytest.raises(CapacityError, match="this key's uploads") as refused:
                waiting.take(two, 1)
            assert (refused.value.code, refused.value.status) == ("over_limit", 429)
            waiting.take(third, 250)
            with pytest.raises(CapacityError, match="all the room"):
                waiting.take(third, 1)
        with waiting.one_more(Caller(None)) as anyone:
            waiting.take(anyone, 1000)

    asyncio.run(use())
