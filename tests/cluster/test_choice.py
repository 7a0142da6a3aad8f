"""Where a request goes: by its path, by the replica it names, by streams and room."""

from __future__ import annotations

from collections import Counter
from itertools import repeat
from typing import Any

import pytest

from stmixer.service.cluster.choice import Asked, Room, asked_of, ranked


def scope(kind: str, path: str, query: bytes = b"") -> dict[str, Any]:
    """Of a WebSocket, or of a request with that method."""
    if kind == "websocket":
        return {"type": kind, "path": path, "query_string": query}
    return {"type": "http", "method": kind, "path": path, "query_string": query}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (scope("websocket", "/v1/streams/ws"), Asked(begins=True)),
        (scope("websocket", "/v1/streams/ws", b"a=1&replica=x1y2"), Asked(replica="x1y2", begins=True)),
        (scope("GET", "/v1/streams/ws", b"replica=x"), Asked()),
        (scope("POST", "/v1/streams"), Asked(begins=True)),
        (scope("GET", "/v1/streams"), Asked()),
        (scope("POST", "/v1/detect"), Asked(begins=True)),
        (scope("DELETE", "/v1/streams/17"), Asked(stream=17)),
        (scope("GET", "/v1/streams/2000000001/preview.mjpg"), Asked(stream=2_000_000_001)),
        (scope("websocket", "/v1/streams/3/ws"), Asked(stream=3)),
        (scope("GET", "/v1/streams/17x"), Asked()),
        (scope("GET", "/"), Asked()),
        (scope("POST", "/v1/detect/"), Asked(begins=True)),
        (scope("POST", "/v1/streams/"), Asked(begins=True)),
        (scope("websocket", "/v1/streams/ws/", b"replica=r1"), Asked(replica="r1", begins=True)),
        (scope("websocket", "/v1/streams/3/ws/"), Asked(stream=3)),
        (scope("DELETE", "/v1/streams/17/"), Asked(stream=17)),
        (scope("POST", "/v1/detect/") | {"raw_path": b"/v1/detect/"}, Asked(begins=True)),
        (scope("POST", "/v1/detect/") | {"raw_path": b"/v1/detect%2F"}, Asked()),
        (scope("POST", "/v1/detect//"), Asked()),
    ],
)
def test_what_is_asked_for(asked: dict[str, Any], expected: Asked) -> None:
    assert asked_of(asked) == expected


def test_the_one_with_the_most_room_is_first_and_full_ones_are_last() -> None:
    rooms = {"full": Room(2, 2), "half": Room(5, 10), "little": Room(3, 10), "over": Room(5, 4), "new": Room(0, 0)}
    assert ranked(rooms, lambda: 0.0) == ["new", "little", "half", "full", "over"]


def test_late_ones_come_behind_those_in_time_and_before_full_ones() -> None:
    rooms = {"late": Room(1, 10, late=True), "later": Room(4, 10, late=True), "full": Room(9, 9), "in time": Room(7, 8)}
    assert ranked(rooms, lambda: 0.0) == ["in time", "late", "later", "full"]


def test_equals_are_drawn_by_lot() -> None:
    lots = iter([0.3, 0.1, 0.2])
    assert ranked(dict.fromkeys("abc", Room(1, 4)), lambda: next(lots)) == ["b", "c", "a"]


def test_streams_that_come_one_by_one_spread() -> None:
    """As the router counts them: six over three, none of which has said yet that it has one."""
    sent = Counter[str]()
    for _ in repeat(None, 6):
        sent[ranked({name: Room(sent[name], 32) for name in "abc"}, lambda: 0.5)[0]] += 1
    assert sent == {"a": 2, "b": 2, "c": 2}
