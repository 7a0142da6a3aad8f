"""Events at a real broker that dies, hangs, refuses and comes back: each arrives at least once, in order within its
rule; and what it keeps says what is, over restarts of either side.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import Ear, Mosquitto, Way, comes, ear, kept, mosquitto
from scenes import T0_US, event, fell, person, result
from watching import need

from stmixer.service.errors import StartError
from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events import broker as broker_module
from stmixer.service.events import delivery as delivery_module
from stmixer.service.events import mqtt as mqtt_module
from stmixer.service.events import spool as spool_module
from stmixer.service.events.desk import EventDesk
from stmixer.service.events.home_assistant import config_topic
from stmixer.service.events.topics import Topics
from stmixer.service.events.watched import WatchedStream
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

FALL = Rule(id="fall", label="fall", for_s=0, clear_s=0)
HERE = Rule(id="here", person=True, for_s=0, clear_s=0)
AVAILABLE, EVENT, STATE = "stmixer/available", "stmixer/hall/fall/event", "stmixer/hall/fall/state"
LATER_US = T0_US + 60_000_000


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tries to connect; and who found nobody there is not to wait his time."""
    monkeypatch.setattr(broker_module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(broker_module, "LONGEST_WAIT_S", 0.1)
    waits(monkeypatch, 600)


def waits(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Of a message that was refused."""
    monkeypatch.setattr(delivery_module, "FIRST_WAIT_S", seconds)
    monkeypatch.setattr(delivery_module, "LONGEST_WAIT_S", seconds)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as it:
        yield it


@asynccontextmanager
async def desk(path: Path, port: int, *, scheme: str = "mqtt", **settings: Any) -> AsyncIterator[EventDesk]:
    given = {"mqtt": f"{scheme}://127.0.0.1:{port}", "events_file": path / "events.db", **settings}
    it = EventDesk(Settings(**given), Metrics())
    await it.start(["fall"])
    try:
        yield it
    finally:
        await it.stop()


async def begin(it: EventDesk, *rules: Rule, name: str | None = "hall", number: int = 1) -> WatchedStream:
    stream = it.enter(number, name, "", 1.0)
    await it.set_rules(stream, rules)
    return stream


def states_of(it: Ear, topic: str = EVENT) -> list[str]:
    return [json.loads(payload)["state"] for payload in it.of(topic)]


def count(it: EventDesk, name: str, **labels: str) -> float | None:
    return it._metrics.registry.get_sample_value(f"stmixer_{name}", {"to": "mqtt", **labels})


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_an_event_and_the_state_that_comes_of_it(tmp_path: Path, broker: Mosquitto) -> None:
    async def body() -> None:
        async with ear(broker) as other, desk(tmp_path, broker.port) as it:
            hall = await begin(it, FALL)
            await other.until(lambda it: it.of(STATE) == ["OFF"])
            hall.see(result(0, fell(1)))
            hall.see(result(1))
            await other.until(lambda it: it.of(STATE) == ["OFF", "ON", "OFF"])
            assert states_of(other) == ["start", "end"]
            start, end = (Event.model_validate_json(payload) for payload in other.of(EVENT))
            assert (start.stream, start.rule, start.event_id) == ("hall", "fall", end.event_id)
            spoken = [each.topic for each in other.heard if each.topic in (EVENT, STATE)]
            assert spoken == [STATE, EVENT, STATE, EVENT, STATE], "an event before the state that comes of it"
            assert await kept(broker) == {AVAILABLE: "online", STATE: "OFF"}
            await comes(lambda: count(it, "event_deliveries_total", outcome="delivered") == 2)
            assert count(it, "event_receiver_up") == 1
        assert await kept(broker) == {AVAILABLE: "offline", STATE: "OFF"}

    run(body())


def test_it_is_on_while_any_of_a_rule_is_open(tmp_path: Path, broker: Mosquitto) -> None:
    async def body() -> None:
        async with ear(broker) as other, desk(tmp_path, broker.port) as it:
            hall = await begin(it, FALL)
            await other.until(lambda it: it.of(STATE) == ["OFF"])
            right = (0.7, 0.1, 0.9, 0.9)
            hall.see(result(0, fell(1), fell(2, box=right)))
            hall.see(result(1, fell(2, box=right)))
            hall.see(result(2))
            await other.until(lambda it: len(it.of(EVENT)) == 4)
            await other.until(lambda it: len(it.of(STATE)) == 5)
            assert states_of(other) == ["start", "start", "end", "end"]
            assert other.of(STATE)[1:] == ["ON", "ON", "ON", "OFF"]

    run(body())


def test_a_broker_that_is_killed_has_all_of_it_again_when_it_is_back(tmp_path: Path, broker: Mosquitto) -> None:
    """What it kept, too: one start and one end of each event."""

    async def body() -> None:
        way = Way(broker)
        await way.open()
        async with desk(tmp_path, way.port, mqtt_discovery="homeassistant") as it:
            hall = await begin(it, FALL, HERE)
            async with ear(broker) as other:
                hall.see(result(0, fell(1)))
                await other.until(lambda it: it.of(STATE)[-1:] == ["ON"])
                before = await kept(broker)
                broker.kill()
                await way.close()
            await comes(lambda: count(it, "event_receiver_up") == 0)
            hall.see(result(1, person(1)))
            hall.see(result(2, fell(2)))
            hall.see(result(3))
            await comes(lambda: count(it, "event_deliveries_total", outcome="retried"))
            broker.start()
            async with ear(broker) as other:
                await way.open()
                await other.until(lambda it: it.of(STATE)[-1:] == ["OFF"] and len(it.of(EVENT)) == 3)
                assert states_of(other) == ["end", "start", "end"]
                await other.until(lambda it: it.of("stmixer/hall/here/state")[-1:] == ["OFF"])
                after = await kept(broker)
                assert after == {**before, STATE: "OFF", "stmixer/hall/here/state": "OFF"}
                assert len(after) == 5
            await comes(lambda: count(it, "events_waiting") == 0)
            assert count(it, "event_deliveries_total", outcome="dead") == 0
        await way.close()

    run(body())


def test_a_broker_that_hangs_is_left_and_found_again(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "ANSWER_S", 0.3)
    waits(monkeypatch, 0.05)

    async def body() -> None:
        async with desk(tmp_path, broker.port) as it, ear(broker) as other:
            hall = await begin(it, FALL)
            await other.until(lambda it: it.of(STATE) == ["OFF"])
            broker.signal(signal.SIGSTOP)
            hall.see(result(0, fell(1)))
            hall.see(result(1))
            await comes(lambda: count(it, "event_deliveries_total", outcome="retried"))
            await comes(lambda: (count(it, "events_waiting"), count(it, "event_receiver_up")) == (2, 0))
            broker.signal(signal.SIGCONT)
            await other.until(lambda it: states_of(it)[-1:] == ["end"] and it.of(STATE)[-1:] == ["OFF"])
            # the first one may have been taken before it hung, and come again
            assert list(dict.fromkeys(states_of(other))) == ["start", "end"]

    run(body())


def test_one_that_takes_connections_and_says_nothing_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broker_module, "ANSWER_S", 0.1)

    async def body() -> None:
        taken: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            asyncio.get_running_loop().add_reader(server, lambda: taken.append(server.accept()[0]))
            async with desk(tmp_path, server.getsockname()[1]):
                await comes(lambda: len(taken) == 3)
            asyncio.get_running_loop().remove_reader(server)
        for each in taken:
            each.close()

    run(body())
    said = [record.getMessage() for record in caplog.records if record.name == "stmixer.mqtt"]
    assert said == ["no connection to the MQTT broker: no answer within 0.1 s"], "an outage is said once"


def test_who_is_not_let_in_is_told_so_and_no_password_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    passwords = tmp_path / "passwords"
    program = need("mosquitto_passwd", "mosquitto")
    subprocess.run([program, "-b", "-c", passwords, "cam", "open sesame"], check=True, capture_output=True)
    (tmp_path / "password").write_text("open sesame\n")
    lines = ("allow_anonymous false", f"password_file {passwords}")

    async def refused(broker: Mosquitto, **settings: Any) -> None:
        async with desk(tmp_path, broker.port, **settings):
            await comes(lambda: "does not let us in" in caplog.text)

    async def let_in(broker: Mosquitto, **settings: Any) -> None:
        it = desk(tmp_path, broker.port, mqtt_user="cam", **settings)
        async with it, ear(broker, user="cam", password="open sesame") as other:
            await other.until(lambda it: it.of(AVAILABLE)[-1:] == ["online"])

    with mosquitto(tmp_path, *lines) as broker:
        for settings in ({}, {"mqtt_user": "cam", "mqtt_password": "shut sesame"}):
            caplog.clear()
            run(refused(broker, **settings))
        assert "--mqtt-user" in caplog.text
        run(let_in(broker, mqtt_password="open sesame"))
        run(let_in(broker, mqtt_password_file=tmp_path / "password"))
    assert "sesame" not in caplog.text


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket")  # which the client leaves to the collector
def test_over_tls_the_broker_is_who_its_certificate_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("its", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / f"{name}.key", "-out",
             tmp_path / f"{name}.pem"],
            check=True, capture_output=True,
        )  # fmt: skip

    async def body(broker: Mosquitto) -> None:
        context = ssl.create_default_context(cafile=str(tmp_path / "its.pem"))
        async with ear(broker, tls=context) as other:
            async with desk(tmp_path, broker.port, scheme="mqtts", mqtt_ca_file=tmp_path / "other.pem"):
                await comes(lambda: "certificate verify failed" in caplog.text)
            assert other.heard == [], "nothing is said to who is somebody else"
            async with desk(tmp_path, broker.port, scheme="mqtts", mqtt_ca_file=tmp_path / "its.pem") as it:
                hall = await begin(it, FALL)
                hall.see(result(0, fell(1)))
                await other.until(lambda it: states_of(it) == ["start"])

    with mosquitto(tmp_path, f"certfile {tmp_path}/its.pem", f"keyfile {tmp_path}/its.key") as broker:
        run(body(broker))
    gc.collect()


KILLED = """
import asyncio, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_mqtt import FALL, begin, desk, fell, result

async def main():
    async with desk(Path(sys.argv[1]), int(sys.argv[2]), mqtt_discovery="homeassistant") as it:
        hall = await begin(it, FALL)
        hall.see(result(0, fell(1)))
        yard = await begin(it, FALL, name="yard", number=2)
        await it.flush()
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_service_is_said_to_be_gone_and_the_next_goes_on(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its will is seen by others; what it kept stays, but for a stream that does not come back."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    yard = "stmixer/yard/fall/state"

    async def body() -> None:
        async with ear(broker) as other:
            command = [sys.executable, "-c", KILLED, str(tmp_path), str(broker.port), *folders]
            process = await asyncio.create_subprocess_exec(*command, env=environment)
            await other.until(lambda it: it.of(STATE)[-1:] == ["ON"] and it.of(yard) == ["OFF"])
            assert other.of(AVAILABLE) == ["online"]
            process.kill()
            await process.wait()
            await other.until(lambda it: it.of(AVAILABLE) == ["online", "offline"])
            before = await kept(broker)
            assert (before[AVAILABLE], before[STATE], before[yard], len(before)) == ("offline", "ON", "OFF", 5)
            async with desk(tmp_path, broker.port, mqtt_discovery="homeassistant") as it:
                hall = await begin(it, FALL)
                await other.until(lambda it: it.of(AVAILABLE)[-1] == "online")
                assert (await kept(broker)) == {**before, AVAILABLE: "online"}
                hall.see(result(0, fell(hall.first_track + 1), since_us=LATER_US))
                hall.see(result(1, since_us=LATER_US))
                await other.until(lambda it: it.of(STATE)[-1:] == ["OFF"])
                # what was taken when it was killed may come again
                assert list(dict.fromkeys(states_of(other))) == ["start", "update", "end"]
                assert len({json.loads(payload)["event_id"] for payload in other.of(EVENT)}) == 1
                monkeypatch.setattr(mqtt_module, "UNWANTED_S", 0.0)
                await begin(it, FALL, name="gate", number=3)  # it looks again
                await other.until(lambda it: it.of(yard)[-1] == "")
                await other.until(lambda it: it.of("stmixer/gate/fall/state") == ["OFF"])
                assert {topic.split("/")[1] for topic in await kept(broker) if "state" in topic} == {"hall", "gate"}
                assert len(await kept(broker)) == 5

    run(body())


def test_a_connection_that_is_lost_without_the_brokers_knowledge_does_not_end_the_next_one(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """It knows who comes back: the will of the one before is told before, not a minute later."""

    async def body() -> None:
        way = Way(broker)
        await way.open()
        async with ear(broker) as other, desk(tmp_path, way.port):
            await other.until(lambda it: it.of(AVAILABLE) == ["online"])
            way.lose()
            await other.until(lambda it: it.of(AVAILABLE) == ["online", "offline", "online"])
        await way.close()

    run(body())


def test_a_stream_without_a_name_tells_its_events_and_leaves_nothing_behind(tmp_path: Path, broker: Mosquitto) -> None:
    async def body() -> None:
        async with ear(broker) as other, desk(tmp_path, broker.port, mqtt_discovery="homeassistant") as it:
            for number, name in ((7, None), (8, "9")):  # a number is some stream's own
                stream = await begin(it, FALL, name=name, number=number)
                stream.see(result(0, fell(1)))
                await other.until(lambda it, number=number: states_of(it, f"stmixer/{number}/fall/event") == ["start"])
            assert await kept(broker) == {AVAILABLE: "online"}

    run(body())


def test_what_a_stream_had_goes_some_time_after_it(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: it may begin again, and its last end is still to be told."""

    async def body() -> None:
        async with ear(broker) as other, desk(tmp_path, broker.port, mqtt_discovery="homeassistant") as it:
            hall = await begin(it, FALL, HERE)
            hall.see(result(0, fell(1)))
            await other.until(lambda it: it.of(STATE)[-1:] == ["ON"])
            await it.exit(hall)
            await other.until(lambda it: it.of(STATE)[-1:] == ["OFF"])
            assert len(await kept(broker)) == 5
            hall = await begin(it, HERE, number=2)
            monkeypatch.setattr(mqtt_module, "UNWANTED_S", 0.0)
            await it.set_rules(hall, [HERE.model_copy(update={"min_score": 0.4})])
            await other.until(lambda it: it.of(STATE)[-1] == "")
            there = await kept(broker)
            assert {topic for topic in there if "state" in topic} == {"stmixer/hall/here/state"}
            config = config_topic("homeassistant", Topics("stmixer"), "hall", "here")
            assert [topic for topic in there if topic.endswith("config")] == [config]

    run(body())


def test_other_topics_than_before_leave_none_of_the_old_ones(tmp_path: Path, broker: Mosquitto) -> None:
    async def body() -> None:
        for base, discovery in (("stmixer", "homeassistant"), ("home/cams", "")):
            settings = {"mqtt_topic": base, "mqtt_discovery": discovery}
            async with ear(broker, f"{base}/#") as other, desk(tmp_path, broker.port, **settings) as it:
                await begin(it, FALL)
                await other.until(lambda it, base=base: it.of(f"{base}/hall/fall/state") == ["OFF"])
        assert await kept(broker) == {
            AVAILABLE: "offline", "home/cams/available": "offline", "home/cams/hall/fall/state": "OFF",
        }  # fmt: skip

    run(body())


def test_the_spool_is_bounded_for_each_receiver(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "MOST_SPOOLED", 3)
    broker.kill()

    async def body() -> None:
        async with desk(tmp_path, broker.port, webhook="http://127.0.0.1:1/x") as it:
            hall = await begin(it, FALL)
            for at in range(5):
                hall.see(result(at, *[fell(at)] * (at % 2 == 0)))
                await it.flush()
            assert count(it, "event_deliveries_total", outcome="dead") == 2
            assert it._ledger is not None
            spool = it._ledger.store.spool
            assert (spool.waiting("mqtt")[0], spool.waiting("webhook")[0]) == (3, 3)
            broker.start()
            await comes(lambda: count(it, "events_waiting") == 0)
            assert (await kept(broker))[STATE] == "ON"
            assert count(it, "event_deliveries_total", outcome="delivered") == 3

    run(body())


def test_a_message_that_the_broker_will_not_have_holds_up_no_other_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the connection each time it is tried, and waits its time for the next."""
    waits(monkeypatch, 0.3)
    corners = tuple((round(0.5 + at / 1000, 3), round(at / 24, 3)) for at in range(25))
    large = FALL.model_copy(update={"id": "large", "zone": ((0.0, 0.0), *corners, (0.0, 1.0))})

    async def body(broker: Mosquitto) -> None:
        async with ear(broker) as other, desk(tmp_path, broker.port) as it:
            hall = await begin(it, large, HERE)
            for at in range(4):
                hall.see(result(at, *[fell(1)] * (at % 2 == 0)))
            await other.until(lambda it: len(it.of("stmixer/hall/here/event")) == 4)
            assert states_of(other, "stmixer/hall/here/event") == ["start", "end", "start", "end"]
            assert other.of("stmixer/hall/large/event") == []

    with mosquitto(tmp_path, "max_packet_size 500") as broker:
        run(body(broker))


def test_another_owners_stream_of_the_name_is_not_spoken_for(tmp_path: Path, broker: Mosquitto) -> None:
    """Of one name there is one at a time: what the one before still has to tell is no state of the other's."""

    async def body() -> None:
        way = Way(broker)
        await way.open()
        async with desk(tmp_path, way.port) as it:
            first = it.enter(1, "hall", "a", 1.0)
            await it.set_rules(first, [FALL])
            async with ear(broker) as other:
                await other.until(lambda it: it.of(STATE) == ["OFF"])
            await way.close()
            await comes(lambda: count(it, "event_receiver_up") == 0)
            first.see(result(0, fell(1)))
            await it.exit(first)
            second = it.enter(2, "hall", "b", 1.0)
            await it.set_rules(second, [FALL])
            async with ear(broker) as other:
                await way.open()
                await other.until(lambda it: states_of(it) == ["start", "end"])
                second.see(result(0, fell(1)))
                await other.until(lambda it: states_of(it) == ["start", "end", "start"] and it.of(STATE)[-1] == "ON")
                assert [each.payload for each in other.heard if each.topic == STATE] == ["OFF", "OFF", "ON"]
        await way.close()

    run(body())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mqtt": "mqtt://h"}, "--mqtt needs --events-file"),
        *(
            ({"mqtt": address, "events_file": "e"}, "--mqtt takes an address like mqtt://host:1883")
            for address in ("h:1883", "http://h", "mqtt://", "mqtt://h:0", "mqtt://h/x", "mqtt://h?x", "mqtt://h h")
        ),
        ({"mqtt": "mqtt://me:you@h", "events_file": "e"}, "--mqtt takes no user and password"),
        ({"mqtt_user": "me"}, "--mqtt-user needs --mqtt"),
        ({"mqtt_password": "secret"}, "STMIXER_MQTT_PASSWORD needs --mqtt"),
        ({"mqtt_discovery": "homeassistant"}, "--mqtt-discovery needs --mqtt"),
        ({"mqtt": "mqtt://h", "events_file": "e", "mqtt_password": "secret"}, "a password needs --mqtt-user"),
        (
            {"mqtt": "mqtt://h", "events_file": "e", "mqtt_user": "u", "mqtt_password": "secret",
             "mqtt_password_file": "p"},
            "exclude each other",
        ),
        ({"mqtt": "mqtt://h", "events_file": "e", "mqtt_ca_file": "c"}, "--mqtt-ca-file is for mqtts://"),
        ({"mqtt": "mqtt://h", "events_file": "e", "mqtt_topic": "a/#"}, "mqtt_topic"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        Settings(**settings)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mqtt_user": "u", "mqtt_password_file": "none"}, "--mqtt-password-file none: No such file"),
        ({"mqtt": "mqtts://h", "mqtt_ca_file": "none"}, "--mqtt-ca-file none: No such file"),
        ({"mqtt": "mqtts://h", "mqtt_ca_file": __file__}, "no certificates in PEM"),
    ],
)
def test_files_that_are_none_are_told_of(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    async def body() -> None:
        async with desk(tmp_path, 1, **settings):
            raise AssertionError

    with pytest.raises(StartError, match=says):
        run(body())


def test_a_password_is_in_nothing_that_is_printed() -> None:
    given = Settings(mqtt="mqtt://h", events_file=Path("e"), mqtt_user="u", mqtt_password="hunter2")
    address = broker_module.broker_address(given)
    assert address.password == "hunter2"
    assert "hunter2" not in repr(given) + repr(address) + str(event("a"))
