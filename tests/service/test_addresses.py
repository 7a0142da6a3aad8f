"""What may be fetched: whatever spells an address that is not public is refused before a packet leaves, or named."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from web_camera import moved, running_web_camera

from stmixer.service.errors import InputError
from stmixer.service.pulled_url import PulledUrl, parse_url
from stmixer.service.settings import Settings
from stmixer.service.sources.addresses import AddressPolicy, AddressRefused, parse_networks
from stmixer.service.sources.camera import MOST_ADDRESSES, Way, connected, reachable
from stmixer.service.sources.names import OF_ONE, Names
from stmixer.service.sources.trouble import Trouble
from stmixer.service.sources.web_stream import WebSource

# what a URL's host is; the addresses that the system makes of it; what --allow-networks has to name
REFUSED = [
    ("127.0.0.1", "127.0.0.0/8"), ("127.8.9.10", "127.0.0.0/8"), ("localhost", "127.0.0.0/8,::1"),
    ("2130706433", "127.0.0.1"), ("0177.0.0.1", "127.0.0.1"), ("0x7f000001", "127.0.0.1"), ("0x7f.1", "127.0.0.1"),
    ("127.1", "127.0.0.1"), ("0", "0.0.0.0"), ("0.0.0.0", "0.0.0.0"),
    ("10.1.2.3", "10.0.0.0/8"), ("172.16.0.1", "172.16.0.0/12"), ("192.168.1.5", "192.168.0.0/16"),
    ("169.254.169.254", "169.254.0.0/16"), ("100.64.0.1", "100.64.0.0/10"), ("198.18.0.1", "198.18.0.0/15"),
    ("224.0.0.1", "224.0.0.0/4"), ("255.255.255.255", "255.255.255.255"), ("240.0.0.1", "240.0.0.0/4"),
    ("[::1]", "::1"), ("[::]", "::"), ("[fe80::1]", "fe80::/10"), ("[fc00::1]", "fc00::/7"), ("[fd12::1]", "fd00::/8"),
    ("[fec0::1]", "fec0::/10"), ("[ff02::1]", "ff02::/16"), ("[::ffff:127.0.0.1]", "127.0.0.0/8"),
    ("[::ffff:10.0.0.1]", "10.0.0.0/8"), ("[::127.0.0.1]", "127.0.0.1"), ("[64:ff9b::7f00:1]", "127.0.0.1"),
    ("[2002:7f00:1::]", "127.0.0.1"), ("[2002:c0a8:105::1]", "192.168.1.0/24"), ("[::ffff:0:0]", "0.0.0.0"),
]  # fmt: skip
PUBLIC = ["8.8.8.8", "[64:ff9b::808:808]", "93.184.216.34", "[2606:4700::1111]", "134744072", "010.8.8.8"]


def spelt(host: str) -> PulledUrl:
    return parse_url(f"rtsp://{host}/cam")


def reached(policy: AddressPolicy, host: str) -> tuple[str, ...]:
    return asyncio.run(policy.reach(spelt(host).host, 554))


@pytest.mark.parametrize(("host", "named"), REFUSED)
def test_what_is_not_public_is_refused_unless_it_is_named(host: str, named: str) -> None:
    with pytest.raises(AddressRefused):
        reached(AddressPolicy(()), host)
    other = parse_networks("203.0.113.0/24,2001:db8::/32")
    with pytest.raises(AddressRefused):
        reached(AddressPolicy(other), host)
    assert reached(AddressPolicy(parse_networks(named)), host)


@pytest.mark.parametrize(("host", "named"), [row for row in REFUSED if row[0] != "localhost"])
def test_an_address_is_refused_without_a_lookup(host: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        AddressPolicy(()).check_literal(spelt(host))
    assert refused.value.code == "address_refused"
    AddressPolicy(parse_networks(named)).check_literal(spelt(host))


@pytest.mark.parametrize("host", PUBLIC)
def test_what_is_public_may_be_reached(host: str) -> None:
    AddressPolicy(()).check_literal(spelt(host))
    assert reached(AddressPolicy(()), host)


class Answers:
    """Says something else each time that it is asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        return self.answers.pop(0)


def test_of_a_name_with_two_addresses_the_allowed_one_is_reached() -> None:
    names = Answers(["127.0.0.1", "8.8.8.8", "fe80::1"], ["127.0.0.1", "10.0.0.1"])
    policy = AddressPolicy((), names)
    assert reached(policy, "two.example") == ("8.8.8.8",)
    with pytest.raises(AddressRefused, match=r"two\.example leads to private addresses alone"):
        reached(policy, "two.example")


def test_what_was_checked_is_what_is_connected_to() -> None:
    """The name leads elsewhere the moment after; nobody asks it again."""
    with socket.create_server(("127.0.0.1", 0)) as right, socket.create_server(("127.0.0.2", 0)) as wrong:
        names = Answers(["127.0.0.1"], ["127.0.0.2"])
        policy = AddressPolicy(parse_networks("127.0.0.1"), names)
        url = PulledUrl("rtsp", "changes.example", right.getsockname()[1], "/cam")

        async def connect() -> str:
            ours, address = await connected(url, policy)
            with ours:
                return f"{address} {ours.getpeername()[0]}"

        assert asyncio.run(connect()) == "127.0.0.1 127.0.0.1"
        assert names.answers == [["127.0.0.2"]]
        with pytest.raises(Trouble) as trouble:
            asyncio.run(connect())
        assert trouble.value.reason == "address_refused"
        wrong.setblocking(False)
        with pytest.raises(BlockingIOError):  # not a packet
            wrong.accept()


@pytest.mark.parametrize("host", [host for host, _ in REFUSED])
def test_nobody_is_sent_on_to_what_is_not_public(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, send = [], httpx.AsyncClient.send

    async def sent(client: httpx.AsyncClient, request: httpx.Request, **how: Any) -> httpx.Response:
        asked.append(request.url.host)
        return await send(client, request, **how)

    monkeypatch.setattr(httpx.AsyncClient, "send", sent)

    async def run() -> str:
        answers, way = {"/": moved(f"http://{host}:8/cam")}, Way(AddressPolicy(parse_networks("127.0.0.77")))
        async with running_web_camera(answers, "127.0.0.77") as camera:
            source = WebSource(SimpleNamespace(settings=Settings()), parse_url(camera.url("/")), way, 10.0)  # type: ignore[arg-type]
            with pytest.raises(Trouble) as trouble:
                await source.fetch(lambda: None)
        return trouble.value.reason

    assert asyncio.run(run()) in ("address_refused", "redirects")  # what the client takes for no address at all
    assert asked == ["127.0.0.77"]


def test_a_literal_address_is_not_looked_up() -> None:
    assert reached(AddressPolicy((), Answers()), "[64:ff9b::808:808]") == ("64:ff9b::808:808",)
    assert reached(AddressPolicy((), Answers()), "134744072") == ("8.8.8.8",)


def test_who_asks_for_one_name_shares_one_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = [], threading.Event()

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        answer.wait()
        return [(0, 0, 0, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def run() -> None:
        policy = AddressPolicy(())
        ways = [asyncio.create_task(policy.reach("slow.example", port)) for port in (80, 554, 555)]
        await asyncio.sleep(0)
        ways[0].cancel()
        await asyncio.sleep(0)
        answer.set()
        found = await asyncio.gather(*ways, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [("8.8.8.8",)] * 2
        assert asked == ["slow.example"]
        assert await policy.reach("slow.example", 80) == ("8.8.8.8",)  # later it is asked for again
        assert len(asked) == 2

    asyncio.run(run())


UNTIL_IT_HANGS_S = 30


def test_slow_names_of_one_key_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, answer, first = threading.Semaphore(0), threading.Event(), threading.Event()

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host.startswith("slow"):
            begun.release()
            (first if host == "slow-0" else answer).wait(UNTIL_IT_HANGS_S)
        return [(0, 0, 0, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def run() -> None:
        names = Names()
        mine, theirs = (AddressPolicy((), names.of(whose)) for whose in ("mine", "theirs"))
        slow = [asyncio.create_task(mine.reach(f"slow-{number}", 80)) for number in range(OF_ONE)]
        for _ in slow:
            await asyncio.to_thread(begun.acquire)
        queued = asyncio.create_task(mine.reach("quick-a", 80))
        async with asyncio.timeout(UNTIL_IT_HANGS_S):
            for anyone in (theirs, AddressPolicy((), names.of(None))):
                assert await anyone.reach("quick-b", 80) == ("8.8.8.8",)
            assert await theirs.reach("quick-a", 80) == ("8.8.8.8",), "it waits for none that has not begun"
            assert not queued.done()
            slow[0].cancel()  # who waits no longer gives no place back: its thread is still there
            await asyncio.sleep(0)
            assert not queued.done()
            first.set()
            assert await queued == ("8.8.8.8",)
        answer.set()
        assert await asyncio.gather(*slow[1:]) == [("8.8.8.8",)] * (OF_ONE - 1)

    asyncio.run(run())


def test_no_thread_for_a_name_is_an_error_and_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        names = Names()
        with monkeypatch.context() as none:
            none.setattr(threading.Thread, "start", start)
            for number in range(OF_ONE + 1):
                with pytest.raises(OSError, match="no thread"):
                    await names.of("mine")(f"name-{number}", 80)
        assert await names.of("mine")("localhost", 80)

    asyncio.run(run())


def test_so_many_addresses_of_a_name_are_tried() -> None:
    many = [f"8.8.8.{number}" for number in range(1, 30)]
    found = asyncio.run(reachable(spelt("many.example"), AddressPolicy((), Answers(many))))
    assert found == tuple(many[:MOST_ADDRESSES])


# -- URLs


def test_the_parts_of_a_url() -> None:
    url = parse_url("RTSP://us%20er:p%3A%40%2Fw@Cam.Example:8554/a/b%20c?channel=1&pw=secret")
    assert (url.scheme, url.host, url.port) == ("rtsp", "cam.example", 8554)
    assert (url.user, url.password, url.target) == ("us er", "p:@/w", "/a/b%20c?channel=1&pw=secret")
    assert str(url) == "rtsp://cam.example:8554/a/b%20c?…"
    literal = url.at("2001:db8::1", with_credentials=True)
    assert literal == "rtsp://us%20er:p%3A%40%2Fw@[2001:db8::1]:8554/a/b%20c?channel=1&pw=secret"
    assert url.at("10.0.0.1", with_credentials=False) == "rtsp://10.0.0.1:8554/a/b%20c?channel=1&pw=secret"
    for shown in (str(url), repr(url)):
        assert "us er" not in shown
        assert "p:@/w" not in shown
        assert "secret" not in shown


@pytest.mark.parametrize(
    "text",
    ["", "cam.example/x", "ftp://cam.example/", "gopher://x", "rtsp://", "rtsp:///x", "rtsp://h:99999/", "rtsp://h:x/",
     "rtsp://[::1/", "rtsp://h/a b", "rtsp://h/\r\nX: y", "concat:a|b", "file://other/x", "rtmp://h/x",
     "http://h/" + "x" * 2000, "rtsp://user:p@ss/word@cam/", "rtsp://u:p@s?w@cam/",
     "rtsp://u:p@s#w@cam/", "rtsp://admin:12/34@cam/stream", "rtsp://admin:2024#x@10.0.0.5/s", "rtsp://admin:9?x@cam/",
     "rtsp://us/er:pw@cam/", "rtsp://8.8.8.8%.evil.example/", "rtsp://8.8.8.8%251/", "http://8.8.8.8\uff05.evil.example/",
     "http://\u3002\u3002/", "http://" + "\u00fc" * 64 + "/",
     "rtsp://me:" + "\U0001f511" * 1000 + "@cam/"],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_url(text)
    assert (refused.value.code, refused.value.status) == ("bad_url", 422)


def test_a_host_in_other_letters_is_a_name_in_ascii() -> None:
    assert parse_url("http://b\u00fccher.example/\u00fc").host == "xn--bcher-kva.example"
    with pytest.raises(InputError, match="private"):
        AddressPolicy(()).check_literal(parse_url("http://\uff11\uff12\uff17.0.0.1/"))


def test_a_wrong_url_is_not_repeated() -> None:
    with pytest.raises(InputError) as refused:
        parse_url("rtsp://admin:hunter2@cam:badport/")
    assert "hunter2" not in str(refused.value)
