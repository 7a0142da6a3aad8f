"""Where a request goes: what of it says so, and which of several replicas has the most room. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs

K = TypeVar("K", bound=Hashable)

SOCKET = "/v1/streams/ws"
_OF_A_STREAM = re.compile(r"/v1/streams/(\d{1,18})(/.*)?")
_BEGIN = {("websocket", SOCKET), ("POST", "/v1/streams"), ("POST", "/v1/detect")}


@dataclass(frozen=True, slots=True)
class Asked:
    """``stream``: the number of the one that is asked for; ``replica``: the one that a client comes back to
    (``?replica=``); ``begins``: whether there is a stream more where it goes."""

    stream: int | None = None
    replica: str | None = None
    begins: bool = False


def asked_of(scope: Mapping[str, Any]) -> Asked:
    """What an ASGI scope asks for."""
    path: str = scope["path"]
    if path.endswith("/") and (scope.get("raw_path") or b"/").endswith(b"/"):  # as a replica's ``Entrance``
        path = path[:-1]
    kind = "websocket" if scope["type"] == "websocket" else scope.get("method", "")
    if found := _OF_A_STREAM.fullmatch(path):
        return Asked(stream=int(found[1]))
    replica = None
    if kind == "websocket" and path == SOCKET:
        query = scope.get("query_string", b"").decode("latin-1")
        replica = next(iter(parse_qs(query).get("replica", [])), None)
    return Asked(replica=replica, begins=(kind, path) in _BEGIN)


@dataclass(frozen=True, slots=True)
class Room:
    """Streams that a replica has, and can have; of one that has not said so yet 0. ``late``: its keyframes are."""

    streams: float
    capacity: float
    late: bool = False


def ranked(rooms: Mapping[K, Room], lot: Callable[[], float]) -> list[K]:
    """The one with the most room first: those that are late behind, those that are full last, among equals by ``lot``.

    A late one takes what it is given, and is later for it; ``scaling`` counts on its being given nothing meanwhile.
    """

    def filled(name: K) -> tuple[bool, bool, float, float]:
        room = rooms[name]
        full = room.capacity > 0 and room.streams >= room.capacity
        return full, room.late, room.streams / max(1.0, room.capacity), lot()

    return sorted(rooms, key=filled)
