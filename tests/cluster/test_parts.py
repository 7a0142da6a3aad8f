"""The cluster's small parts: joined metrics, scaling, shared tokens, options, what a proxy says of a dead replica."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from ray.serve.config import AutoscalingContext

from stmixer.service.access import TOKEN_S
from stmixer.service.cluster.ages import OVER_S, Lateness, RecentAge
from stmixer.service.cluster.joined import joined_metrics
from stmixer.service.cluster.options import NOT_HERE, ClusterOptions, options_of
from stmixer.service.cluster.proxy import CLOSE_RESTART, GONE, Mended
from stmixer.service.cluster.scaling import UNHEARD_S, Measured, StreamScaling, needed
from stmixer.service.cluster.tokens import SharedAccess
from stmixer.service.errors import AccessError, StartError
from stmixer.service.key_file import digest
from stmixer.service.settings import Settings


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests are told by the environment is no setting."""
    for name in [name for name in os.environ if name.startswith("STMIXER_")]:
        monkeypatch.delenv(name)


# -- metrics


def measured(streams: int, frames: int) -> str:
    registry = CollectorRegistry()
    Gauge("x_streams", "Streams now.", ["source"], registry=registry).labels("ws").set(streams)
    Counter("x_frames_total", "Frames.", registry=registry).inc(frames)
    Histogram("x_seconds", "Seconds.", buckets=(1, 2), registry=registry).observe(1.5)
    return generate_latest(registry).decode()


def test_each_series_says_of_which_replica_it_is() -> None:
    joined = joined_metrics({"b": measured(5, 7), "a": measured(2, 3)}, 1)
    lines = [line for line in joined.splitlines() if not line.startswith("#") and "created" not in line]
    assert lines == [
        'x_streams{replica="a",source="ws"} 2.0',
        'x_streams{replica="b",source="ws"} 5.0',
        'x_frames_total{replica="a"} 3.0',
        'x_frames_total{replica="b"} 7.0',
        *(
            f'x_seconds_{name}{{replica="{replica}"{label}}} {value}'
            for replica in "ab"
            for name, label, value in [
                ("bucket", ',le="1.0"', 0.0), ("bucket", ',le="2.0"', 1.0), ("bucket", ',le="+Inf"', 1.0),
                ("count", "", 1.0), ("sum", "", 1.5),
            ]
        ),
        "stmixer_replicas_unanswered 1.0",
    ]  # fmt: skip
    assert joined.count("# TYPE x_frames_total counter") == 1
    families = {family.name: family for family in text_string_to_metric_families(joined)}
    assert set(families) >= {"x_streams", "x_frames", "x_seconds", "stmixer_replicas_unanswered"}
    assert {sample.labels["replica"] for sample in families["x_seconds"].samples} == {"a", "b"}


def test_a_label_may_hold_anything() -> None:
    registry = CollectorRegistry()
    Gauge("x", 'In "quotes", and }.', ["what"], registry=registry).labels('a} 1 {b="c",\n').set(3)
    (family, _) = text_string_to_metric_families(joined_metrics({"a": generate_latest(registry).decode()}, 0))
    (sample,) = family.samples
    assert (sample.labels, sample.value) == ({"replica": "a", "what": 'a} 1 {b="c",\n'}, 3.0)


# -- scaling


@pytest.mark.parametrize(
    ("streams", "age_s", "now", "expected"),
    [
        ([0, 0], 0.0, 2, 1),
        ([8], 0.0, 1, 1),
        ([9], 0.0, 1, 2),
        ([4, 4], 3.1, 2, 3),  # few, and too old
        ([4, 4], 3.0, 2, 2),  # one alone would be full to the brim
        ([3, 4], 0.0, 2, 1),
        ([10, 10, 10], 0.0, 3, 4),
        ([], 9.0, 2, 2),
    ],
)
def test_replicas_follow_streams_and_the_age_of_keyframes(
    streams: list[int], age_s: float, now: int, expected: int
) -> None:
    replicas = [Measured(count, 10, age_s) for count in streams]
    assert needed(replicas, now, coming=0, filled=0.8, keyframe_age_s=3.0) == expected


@pytest.mark.parametrize(
    ("replicas", "now", "coming", "expected"),
    [
        ([(4, 9.0), (0, 0.0)], 2, 0, 2),  # new streams have somewhere to go, and the old ones stay where they are
        ([(4, 9.0), (8, 0.0)], 2, 0, 3),  # nowhere with room
        ([(4, 9.0)], 2, 1, 2),  # one is on its way
        ([(4, 9.0)], 2, 0, 3),  # one is there, and says nothing
        ([(4, 9.0), (0, 0.0), (0, 0.0)], 3, 0, 3),  # none goes meanwhile
        ([(4, 9.0), (13, 0.0)], 2, 0, 3),
    ],
)
def test_one_more_for_the_age_only_where_it_helps(
    replicas: list[tuple[int, float]], now: int, coming: int, expected: int
) -> None:
    measured = [Measured(streams, 10, age_s) for streams, age_s in replicas]
    assert needed(measured, now, coming, filled=0.8, keyframe_age_s=3.0) == expected


def serves(running: str, target: int, ages_s: Mapping[str, float]) -> AutoscalingContext:
    """What Serve says of replicas with a stream each: of those that run, and of those that have said how they are."""
    told = {"streams": dict.fromkeys(ages_s, 1.0), "capacity": dict.fromkeys(ages_s, 10.0), "keyframe_age_s": ages_s}
    context = SimpleNamespace(
        aggregated_metrics=told, running_replicas=list(running), current_num_replicas=len(running),
        target_num_replicas=target, capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=9,
    )  # fmt: skip
    return cast(AutoscalingContext, context)


def test_one_that_says_nothing_is_waited_for_no_longer_than_it_may_take() -> None:
    now = 0.0
    scaling = StreamScaling(0.8, 3.0, lambda: now)
    assert scaling(serves("a", 2, {"a": 9.0})) == (2, {}), "it starts, however long"
    now = 1000.0
    assert scaling(serves("ab", 2, {"a": 9.0})) == (2, {})
    now += UNHEARD_S
    assert scaling(serves("ab", 2, {"a": 9.0})) == (2, {})
    now += 0.1
    assert scaling(serves("ab", 2, {"a": 9.0})) == (3, {})
    assert scaling(serves("ab", 2, {"a": 9.0, "b": 0.0})) == (2, {})
    assert scaling(serves("ab", 2, {"a": 9.0})) == (2, {}), "for a moment"


def test_the_age_is_of_what_came_since_the_last_look() -> None:
    ages = Histogram("age", "s", ["source"], buckets=(0.5, 1, 2, 5), registry=CollectorRegistry())
    recent = RecentAge(ages)
    assert recent.look() == 0.0
    for seconds in [0.4] * 19 + [4.0]:
        ages.labels("ws").observe(seconds)
    assert recent.look() == 0.5
    assert recent.look() == 0.0
    ages.labels("pull").observe(1.5)
    ages.labels("ws").observe(0.1)
    assert recent.look() == 2.0
    ages.labels("ws").observe(60)
    assert recent.look() == 5.0


def test_a_replica_is_late_while_the_last_seconds_were() -> None:
    now = 0.0
    ages = Histogram("age", "s", ["source"], buckets=(0.5, 1, 2, 5), registry=CollectorRegistry())
    lateness = Lateness(RecentAge(ages), 2.0, lambda: now)
    ages.labels("ws").observe(4.0)
    assert not lateness.look(), "not for one moment"
    now = OVER_S
    assert [lateness.look(), lateness.look()] == [True, True], "whoever else asks"
    ages.labels("ws").observe(1.5)
    now = 2 * OVER_S - 0.1
    assert lateness.look()
    now = 2 * OVER_S
    assert not lateness.look()


# -- tokens


def keys(folder: Path) -> Path:
    path = folder / "keys.json"
    key = {"name": "door", "sha256": digest("secret"), "scopes": ["stream"]}
    path.write_text(json.dumps({"keys": [key]}))
    path.chmod(0o600)
    return path


def test_a_token_of_one_replica_opens_the_others(tmp_path: Path) -> None:
    now = 1000.0
    named: list[str] = []
    here = SharedAccess(keys(tmp_path), b"shared", epoch=lambda: now)
    there = SharedAccess(keys(tmp_path), b"shared", named.append, lambda: now)
    caller = here.caller("secret")
    token = here.token(caller, "/v1/streams/1/events")
    assert there.caller_of_token(token, "/v1/streams/1/events").name == "door"
    assert named == ["door"], "lines of the log name the key"
    assert digest("secret")[:8] not in token, "by which it is known elsewhere"
    assert there.caller_of_token(here.token(caller), "/v1/streams/2/events").name == "door"
    for wrong, path in [
        (token, "/v1/streams/2/events"), (token[:-1] + "!", "/v1/streams/1/events"), ("", "/"), ("a.b.c.d", "/"),
    ]:  # fmt: skip
        with pytest.raises(AccessError):
            there.caller_of_token(wrong, path)
    stranger = SharedAccess(keys(tmp_path), b"other", epoch=lambda: now)
    with pytest.raises(AccessError):
        stranger.caller_of_token(token, "/v1/streams/1/events")
    now += TOKEN_S
    with pytest.raises(AccessError):
        there.caller_of_token(token, "/v1/streams/1/events")


def test_a_token_of_a_key_that_was_taken_away_opens_nothing(tmp_path: Path) -> None:
    access = SharedAccess(keys(tmp_path), b"shared")
    token = access.token(access.caller("secret"))
    (tmp_path / "keys.json").write_text('{"keys": []}')
    with pytest.raises(AccessError):
        access.caller_of_token(token, "/v1/streams/1/events")


def test_without_keys_a_token_is_anybodys() -> None:
    access = SharedAccess(None, b"shared")
    assert access.caller_of_token("whatever", "/v1/streams/1/events") is access.caller(None)


# -- options


def test_options_are_the_clusters_and_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STMIXER_MAX_STREAMS", "5")
    given = {"replicas": "3", "max_replicas": "7", "model": "tiny", "device": "cpu", "allow_anonymous": "true"}
    options, settings = options_of(given)
    assert options == ClusterOptions(replicas=3, max_replicas=7)
    assert (settings.model, settings.device, settings.max_streams) == ("tiny", "cpu", 5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"replicas": "0"}, "replicas: "),
        ({"replicas": "3", "max_replicas": "2"}, "max_replicas is less than replicas"),
        ({"no_such": "1"}, "no_such: "),
        ({"fewer_after_s": "-1"}, "fewer_after_s: Input should be"),
        ({"allow_teach": "true", "teach_dir": "/nowhere"}, "allow_teach: not in a cluster"),
        ({"port": "9000"}, "port: not in a cluster"),
        ({"weights_dir": "/weights"}, "weights_dir: not in a cluster"),
        ({"watch": "/weights"}, "watch: not in a cluster"),
        ({}, "give keys=FILE"),
    ],
)
def test_what_cannot_be_is_said(arguments: dict[str, str], says: str) -> None:
    with pytest.raises(StartError) as raised:
        options_of(arguments)
    assert says in str(raised.value)


def test_a_misspelt_variable_does_not_open_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STMIXER_KEYZ", "/etc/stmixer/keys.json")
    with pytest.raises(StartError, match="STMIXER_KEYZ: no such setting"):
        options_of({"allow_anonymous": "true"})


def test_what_is_not_for_a_cluster_are_settings() -> None:
    assert set(NOT_HERE) <= set(Settings.model_fields)


# -- what a proxy says


class Replied:
    """Plays an application, and keeps what came of it."""

    def __init__(self, kind: str, *messages: Mapping[str, Any], heard: Mapping[str, Any] | None = None) -> None:
        self.sent: list[Mapping[str, Any]] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            if heard is not None:
                await receive()
            for message in messages:
                await send(message)

        async def receive() -> Any:
            return heard

        async def send(message: Mapping[str, Any]) -> None:
            self.sent.append(message)

        asyncio.run(Mended(application)({"type": kind}, receive, send))


def test_a_request_that_nobody_answers_may_be_sent_again() -> None:
    start, body = Replied("http").sent
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    problem = json.loads(body["body"])
    assert (problem["status"], problem["code"]) == (503, "replica_gone")


def test_serves_own_refusal_says_when_to_come_again() -> None:
    start, _ = Replied(
        "http", {"type": "http.response.start", "status": 503, "headers": []}, {"type": "http.response.body"}
    ).sent
    assert start["headers"] == [(b"retry-after", b"1")]
    ours = {"type": "http.response.start", "status": 503, "headers": [(b"Retry-After", b"5")]}
    assert Replied("http", ours).sent == [ours]


def test_half_an_answer_stays_half() -> None:
    start = {"type": "http.response.start", "status": 200, "headers": []}
    assert Replied("http", start).sent == [start]


def test_a_socket_that_nobody_closes_is_closed_with_words() -> None:
    accept = {"type": "websocket.accept"}
    assert Replied("websocket", accept).sent == [
        accept, {"type": "websocket.close", "code": CLOSE_RESTART, "reason": GONE},
    ]  # fmt: skip
    assert Replied("websocket").sent == [{"type": "websocket.close", "code": CLOSE_RESTART}]


def test_one_that_was_closed_stays_as_it_is() -> None:
    close = {"type": "websocket.close", "code": 1001}
    assert Replied("websocket", {"type": "websocket.accept"}, close).sent[-1] is close
    left = Replied("websocket", {"type": "websocket.accept"}, heard={"type": "websocket.disconnect", "code": 1000})
    assert [message["type"] for message in left.sent] == ["websocket.accept"]
