"""Events on their way to a receiver that is down, hangs, answers 500, twice, or with another address: each arrives at
least once, in order within its rule, signed, from a spool that is bounded and outlives a killed process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scenes import T0_US, event

from stmixer.service.errors import StartError
from stmixer.service.event_schemas import Event
from stmixer.service.events import spool as spool_module
from stmixer.service.events import webhook as webhook_module
from stmixer.service.events.delivery import Delivery
from stmixer.service.events.ledger import Ledger
from stmixer.service.events.names import StreamName
from stmixer.service.events.store import Change, Store
from stmixer.service.events.webhook import Webhook
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

SECRET = b"hunter2"
HALL = StreamName("", "hall")
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
FAILED = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
ELSEWHERE = b"HTTP/1.1 307 There\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Receiver:
    """``answer`` says what a message is answered with, None for nothing at all; ``got``: head and body of each."""

    answer: Callable[[dict[str, Any]], bytes | None] = lambda message: OK
    got: list[tuple[str, bytes]] = field(default_factory=list)
    server: asyncio.Server | None = None
    port: int = 0

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line)
            body = await reader.readexactly(length)
            self.got.append((head, body))
            answer = self.answer(json.loads(body))
            if answer is None:
                await reader.read()  # until the other side has had enough
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()

    @property
    def names(self) -> list[str]:
        return [json.loads(body)["event_id"] for _, body in self.got]


@dataclass
class Scene:
    """A receiver, and a webhook whose clock is ``now``."""

    receiver: Receiver
    ledger: Ledger
    delivery: Delivery
    metrics: Metrics
    day: list[float]

    def save(self, *events: Event) -> int:
        return self.ledger.store.save([Change(HALL, events)], ["webhook"], T0_US).get("webhook", 0)

    async def round(self, now: float) -> float | None:
        return await self.delivery.round(now)

    def count(self, outcome: str) -> float:
        found = self.metrics.registry.get_sample_value(
            "stmixer_event_deliveries_total", {"to": "webhook", "outcome": outcome}
        )
        assert found is not None
        return found

    @property
    def waiting(self) -> int:
        return self.ledger.store.spool.waiting("webhook")[0]


@asynccontextmanager
async def scene(path: Path | None = None, secret: bytes | None = SECRET) -> AsyncIterator[Scene]:
    receiver, ledger, metrics, day = Receiver(), Ledger(Store(path)), Metrics(), [T0_US / 1e6]
    await receiver.open()
    webhook = Webhook(f"http://127.0.0.1:{receiver.port}/hook", secret, lambda: day[0])
    yield Scene(receiver, ledger, Delivery(webhook, ledger, metrics, lambda: day[0]), metrics, day)
    await webhook.close()
    await receiver.close()
    await ledger.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_how_much_waits_is_known_while_the_receiver_is_slow() -> None:
    async def body() -> None:
        async with scene() as it:
            gauges: list[tuple[float | None, float | None]] = []

            def look(_: dict[str, Any]) -> bytes:
                read = it.metrics.registry.get_sample_value
                gauges.append(
                    (
                        read("stmixer_events_waiting", {"to": "webhook"}),
                        read("stmixer_event_age_seconds", {"to": "webhook"}),
                    )
                )
                return OK

            it.receiver.answer = look
            it.day[0] += 700
            it.save(event("a"), event("b"), event("c"))
            await it.round(0)
            assert gauges == [(3, 700), (2, 700), (1, 700)]

    run(body())


def test_a_rule_that_is_refused_waits_its_time_whatever_others_do() -> None:
    async def body() -> None:
        async with scene() as it:
            it.receiver.answer = lambda message: FAILED if message["rule"] == "fall" else OK
            it.save(event("a"))
            now = 0.0
            for n in range(4):
                again = await it.round(now)
                assert again == now + 2**n
                it.save(*(event(f"{n}{at}", "other") for at in range(3)))
                assert await it.round(now + 2**n / 2) == again
                now = again
            assert it.receiver.names.count("a") == 4

    run(body())


def test_those_that_found_it_gone_go_on_when_one_finds_it_back() -> None:
    async def body() -> None:
        async with scene() as it:
            await it.receiver.close()
            it.save(event("a"), event("b", "other"))
            for now in (0, 1, 3):
                await it.round(now)
            await it.receiver.open()
            it.save(event("c", "third"))
            assert await it.round(4) is None
            assert it.receiver.names == ["c", "a", "b"]

    run(body())


def test_owners_take_turns_and_do_not_wait_for_each_other() -> None:
    async def body() -> None:
        async with scene() as it:
            it.receiver.answer = lambda message: FAILED if message["event_id"] == "a0" else OK
            mine, theirs = StreamName("a", "hall"), StreamName("b", "hall")
            it.ledger.store.save([Change(mine, tuple(event(f"a{n}") for n in range(3)))], ["webhook"], T0_US)
            it.ledger.store.save([Change(mine, (event("x", "x"), event("y", "y")))], ["webhook"], T0_US)
            it.ledger.store.save([Change(theirs, (event("b0"), event("b1")))], ["webhook"], T0_US)
            assert await it.round(0) == 1
            assert it.receiver.names == ["a0", "b0", "x", "b1", "y"]

    run(body())


def test_a_failure_of_what_waits_no_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MOST_SPOOLED", 1)

    async def body() -> None:
        async with scene() as it:
            it.receiver.answer = lambda message: FAILED
            it.save(event("a"))
            assert await it.round(0) == 1
            it.save(event("b", "other"))  # in whose favour the first is gone
            assert await it.round(0.5) == 1
            assert await it.round(1) == 1.5

    run(body())


def test_what_arrives_is_the_event_and_its_signature_verifies() -> None:
    async def body() -> None:
        async with scene() as it:
            it.save(event("a"))
            assert await it.round(0) is None
            ((head, sent),) = it.receiver.got
            assert Event.model_validate_json(sent) == event("a")
            assert head.startswith("POST /hook HTTP/1.1\r\n")
            (given,) = [line.split(": ")[1] for line in head.split("\r\n") if line.startswith("X-Stmixer-Signature")]
            at, digest = (part.split("=")[1] for part in given.split(","))
            assert at == str(T0_US // 10**6)
            assert digest == hmac.new(SECRET, at.encode() + b"." + sent, hashlib.sha256).hexdigest()
            assert (it.waiting, it.count("delivered"), it.count("retried")) == (0, 1, 0)

    run(body())


def test_without_a_secret_it_is_not_signed() -> None:
    async def body() -> None:
        async with scene(secret=None) as it:
            it.save(event("a"))
            await it.round(0)
            assert "X-Stmixer-Signature" not in it.receiver.got[0][0]

    run(body())


def test_a_receiver_that_is_down_for_two_minutes_gets_all_of_it_in_order() -> None:
    async def body() -> None:
        async with scene() as it:
            await it.receiver.close()
            it.save(*(event(name) for name in "abc"))
            tries, now = [], 0.0
            while now < 120:
                again = await it.round(now)
                assert again is not None
                tries.append(now)
                now = again
            assert tries == [0, 1, 3, 7, 15, 31, 63]
            assert now == 127
            assert it.count("retried") == 7
            it.day[0] += 127
            await it.receiver.open()
            assert await it.round(now - 0.5) == now
            assert it.receiver.got == []
            assert await it.round(now) is None
            assert it.receiver.names == ["a", "b", "c"]
            assert (it.waiting, it.count("delivered"), it.count("dead")) == (0, 3, 0)

    run(body())


def test_one_rule_waits_and_the_others_go_on() -> None:
    async def body() -> None:
        async with scene() as it:
            broken = [True]
            it.receiver.answer = lambda message: FAILED if message["rule"] == "fall" and broken[0] else OK
            it.save(event("a"), event("b", "other"), event("c"), event("d", "other"))
            assert await it.round(0) is not None
            assert [name for name in it.receiver.names if name != "a"] == ["b", "d"]
            assert "c" not in it.receiver.names
            broken[0] = False
            assert await it.round(1000) is None
            assert it.receiver.names[-2:] == ["a", "c"]

    run(body())


def test_one_that_hangs_is_left_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "TRY_S", 0.2)

    async def body() -> None:
        async with scene() as it:
            it.receiver.answer = lambda message: None
            it.save(event("a"))
            assert await it.round(0) == 1
            it.receiver.answer = lambda message: OK
            assert await it.round(1) is None
            assert it.receiver.names == ["a", "a"]

    run(body())


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", FAILED, ELSEWHERE])
def test_what_is_no_yes_is_a_no(answer: bytes) -> None:
    async def body() -> None:
        async with scene() as it:
            it.receiver.answer = lambda message: answer
            it.save(event("a"))
            assert await it.round(0) == 1
            assert [head.split(" ")[1] for head, _ in it.receiver.got] == ["/hook"]
            assert (it.waiting, it.count("retried")) == (1, 1)

    run(body())


def test_one_that_answers_twice_has_it_once() -> None:
    async def body() -> None:
        async with scene() as it:
            it.receiver.answer = lambda message: OK + OK
            it.save(event("a"), event("b"))
            assert await it.round(0) is None
            assert it.receiver.names == ["a", "b"]

    run(body())


def test_after_a_day_it_is_a_dead_letter_and_the_next_has_its_turn() -> None:
    async def body() -> None:
        async with scene() as it:
            it.receiver.answer = lambda message: FAILED if message["event_id"] == "a" else OK
            it.save(event("a"), event("b"))
            assert await it.round(0) == 1
            assert it.metrics.registry.get_sample_value("stmixer_events_waiting", {"to": "webhook"}) == 2
            it.day[0] += 86_400
            assert it.metrics.registry.get_sample_value("stmixer_event_age_seconds", {"to": "webhook"}) == 86_400
            assert await it.round(1) is None
            assert it.receiver.names == ["a", "a", "b"]
            assert (it.waiting, it.count("dead"), it.count("delivered")) == (0, 1, 1)
            assert it.metrics.registry.get_sample_value("stmixer_event_age_seconds", {"to": "webhook"}) == 0

    run(body())


def test_the_spool_is_bounded_and_says_how_many_gave_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MOST_SPOOLED", 3)

    async def body() -> None:
        async with scene() as it:
            assert it.save(*(event(name) for name in "abcde")) == 2
            assert it.waiting == 3
            assert it.save(event("f")) == 1
            await it.round(0)
            assert it.receiver.names == ["d", "e", "f"]

    run(body())


KILLED = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_webhook import HALL, event
from stmixer.service.events.store import Change, Store
store = Store(Path(sys.argv[1]))
store.save([Change(HALL, (event("a"), event("b")))], ["webhook"], 1)
store.save([Change(HALL, (event("c"),))], ["webhook"], 1)
print("saved", flush=True)
signal.pause()
"""


def test_a_killed_process_loses_none(tmp_path: Path) -> None:
    path, tests = tmp_path / "events.db", Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLED, str(path), str(tests)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "saved\n"
            with pytest.raises(StartError, match="another process uses it"):
                Store(path)
        finally:
            process.send_signal(signal.SIGKILL)

    async def body() -> None:
        async with scene(path) as it:
            assert await it.round(0) is None
            assert it.receiver.names == ["a", "b", "c"]

    run(body())


KILLED_SENDING = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_webhook import HALL, SECRET, T0_US, event
from stmixer.service.events.delivery import Delivery
from stmixer.service.events.ledger import Ledger
from stmixer.service.events.store import Change, Store
from stmixer.service.events.webhook import Webhook
from stmixer.service.metrics import Metrics

async def main():
    ledger = Ledger(Store(Path(sys.argv[1])))
    await ledger.do(ledger.store.save, [Change(HALL, (event("a"), event("b"), event("c")))], ["webhook"], T0_US)
    webhook = Webhook(f"http://127.0.0.1:{sys.argv[3]}/hook", SECRET, lambda: T0_US / 1e6)
    await Delivery(webhook, ledger, Metrics(), lambda: T0_US / 1e6).run()

asyncio.run(main())
"""


def test_one_that_is_killed_while_it_sends_sends_that_again_and_the_rest(tmp_path: Path) -> None:
    path, tests = tmp_path / "events.db", Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    async def body() -> None:
        receiver, reached = Receiver(), asyncio.Event()

        def answer(message: dict[str, Any]) -> bytes | None:
            if message["event_id"] == "b":
                reached.set()
                return None
            return OK

        receiver.answer = answer
        await receiver.open()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED_SENDING, str(path), str(tests), str(receiver.port), env=environment
        )
        ways = [asyncio.ensure_future(reached.wait()), asyncio.ensure_future(process.wait())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        assert process.returncode is None
        process.send_signal(signal.SIGKILL)
        await asyncio.gather(*ways)
        await receiver.close()
        assert receiver.names == ["a", "b"]
        async with scene(path) as it:
            assert it.waiting == 2
            assert await it.round(0) is None
            assert it.receiver.names == ["b", "c"]

    run(body())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"webhook": "https://x/y"}, "--webhook needs --events-file"),
        ({"event_clips": "c"}, "--event-clips needs --events-file"),
        ({"webhook": "ftp://x/y", "events_file": "e"}, "--webhook takes an address like https://host/path"),
        *(
            ({"webhook": no_address, "events_file": "e"}, "--webhook takes an address like https://host/path")
            for no_address in (
                "http:///y",
                "http://host:99999/x",
                "http://host:0/x",
                "http://host:port/x",
                "http://exa mple/x",
                "http://exa%20mple/x",
                "http://host/a b",
                "http://host\n/x",
                "http://999.1.1.1/x",
                "http://[::1/x",
            )
        ),
        ({"webhook": "http://me:you@x/y", "events_file": "e"}, "--webhook takes no user and password"),
        ({"webhook_secret_file": "s"}, "--webhook-secret-file needs --webhook"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Settings(**settings)


@pytest.mark.parametrize(
    "url", ["http://host", "https://ha.local:8123/a?b=c", "http://a_b/x", "http://[::1]:80/x", "http://10.0.0.1/x"]
)
def test_addresses_that_can_be(url: str) -> None:
    assert Settings(webhook=url, events_file=Path("e")).webhook == url
