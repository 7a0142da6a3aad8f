"""Pulled streams over REST: ordered, looked at, and followed by server-sent events."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import httpx
from posting import eventually
from serving import Server


class Followed:
    """What a stream says by server-sent events, as it comes: (id, message)."""

    def __init__(self, server: Server, stream: str, **headers: str) -> None:
        self.stream, self.said = stream, list[tuple[int, dict[str, Any]]]()
        self.ended, self.begun = threading.Event(), threading.Event()
        self._url, self._headers = f"{server.url}/v1/streams/{stream}/events", headers
        threading.Thread(target=self._read, daemon=True).start()
        assert self.begun.wait(20)

    def _read(self) -> None:
        number = 0
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", self._url, headers=self._headers, timeout=60) as answer,
        ):
            for line in answer.iter_lines():
                self.begun.set()
                name, _, value = line.partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "data":
                    self.said.append((number, json.loads(value)))
        self.ended.set()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Its messages of a type."""
        return [message for _, message in self.said if message["type"] == kind]


def pull(server: Server, url: str, **order: object) -> dict[str, Any]:
    answer = httpx.post(server.url + "/v1/streams", json={"url": url, **order}, timeout=30)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/streams/{found['id']}"
    return found


def look(server: Server, stream: str) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/v1/streams/{stream}", timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def followed_until_live(server: Server, stream: str, timeout_s: float = 60) -> dict[str, Any]:
    """What is said of it once it is."""
    return eventually(lambda: look(server, stream), lambda seen: seen["pulled"]["state"] == "live", timeout_s)
