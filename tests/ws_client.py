"""A WebSocket client of `stmixer.v1` for tests, cameras, and pictures that say which one they are."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from serving import LOOK_S, Server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from stmixer.media.encode import encode_jpeg

Message = dict[str, Any]
BITS = 12
PATIENCE_S = 60.0
"""A message is waited for as long as a busy machine may take for it."""
OUTCOMES = ("ok", "superseded", "deadline", "error", "worker_lost", "cancelled")


# -- pictures


def numbered(number: int, width: int = 320, height: int = 240) -> np.ndarray:
    """A picture of 4 x 3 black and white fields: ``number`` in binary, robust to JPEG and resizing."""
    bits = np.array([number >> b & 1 for b in range(BITS)], np.uint8).reshape(3, 4)
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    return np.repeat((bits[rows][:, columns] * 255)[..., None], 3, axis=2)


def read_number(picture: np.ndarray) -> int:
    """What ``numbered`` wrote, from the middles of its fields."""
    height, width = picture.shape[:2]
    bits = [
        picture[int((r + 0.5) * height / 3), int((c + 0.5) * width / 4), 0] > 127 for r in range(3) for c in range(4)
    ]
    return sum(1 << b for b, on in enumerate(bits) if on)


@lru_cache(maxsize=4096)
def jpeg(number: int = 0, width: int = 320, height: int = 240) -> bytes:
    """``numbered`` as a JPEG of some 5 kB."""
    return encode_jpeg(numbered(number, width, height))


@lru_cache(maxsize=8)
def noise(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG that does not compress: about a byte per pixel."""
    return encode_jpeg(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), quality=90)


def prefixed(pts_us: int, data: bytes) -> bytes:
    """A picture as ``timestamps: prefix`` wants it."""
    return pts_us.to_bytes(8, "little") + data


# -- the client


class Client:
    """Connected; a thread collects what the server says, each message with ``at``, its monotonic time of arrival."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[Message] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while True:
                text = self.socket.recv()
                at = time.monotonic()
                assert isinstance(text, str)
                with self._news:
                    self.messages.append({**json.loads(text), "at": at})
                    self._news.notify_all()
        except ConnectionClosed as closed:
            with self._news:
                self.close_code = closed.rcvd.code if closed.rcvd else 1006
                self.close_reason = closed.rcvd.reason if closed.rcvd else ""
                self._news.notify_all()

    def wait(self, ready: Callable[[], Any], timeout: float = PATIENCE_S) -> Any:
        """Until ``ready`` gives something true of what has come."""
        with self._news:
            assert self._news.wait_for(lambda: ready() or self.close_code is not None, timeout), self.messages[-3:]
            value = ready()
            assert value, (self.close_code, self.close_reason, self.messages[-3:])
            return value

    def of(self, kind: str) -> list[Message]:
        """Messages of one type so far."""
        return [m for m in self.messages if m["type"] == kind]

    def first(self, kind: str, timeout: float = PATIENCE_S) -> Message:
        """The first message of one type, waited for."""
        return self.wait(lambda: self.of(kind), timeout)[0]

    def say(self, kind: str, **fields: Any) -> None:
        """Send a text message."""
        self.socket.send(json.dumps({"type": kind, **fields}))

    def picture(self, data: bytes, pts_us: int | None = None) -> None:
        """Send a JPEG."""
        self.socket.send(data if pts_us is None else prefixed(pts_us, data))

    def stop(self, timeout: float = PATIENCE_S) -> Message:
        """Stop, wait for the summary and the close, check both; returns the summary."""
        self.say("stop")
        return self.ended(timeout)

    def ended(self, timeout: float = PATIENCE_S) -> Message:
        """The summary, checked, of a stream that closes normally."""
        summary = self.first("summary", timeout)
        assert self.closed(timeout) == 1000
        check_conservation(summary)
        check_order(self.of("result"))
        return summary

    def closed(self, timeout: float = PATIENCE_S) -> int:
        """The close code, waited for."""
        with self._news:
            assert self._news.wait_for(lambda: self.close_code is not None, timeout), self.messages[-3:]
        assert self.close_code is not None
        return self.close_code

    def refused(self, timeout: float = PATIENCE_S) -> tuple[int, str, str]:
        """Close code, error code and message of a stream that ends in an error."""
        code = self.closed(timeout)
        error = self.first("error")
        assert set(error) == {"type", "code", "message", "retryable", "at"}
        return code, error["code"], error["message"]


@contextmanager
def plain_socket(server: Server, **options: Any) -> Iterator[ClientConnection]:
    """Connected, nothing said yet."""
    with connect(
        server.ws_url, subprotocols=options.pop("subprotocols", ["stmixer.v1"]), ping_interval=None, max_size=None,
        close_timeout=5, **options,
    ) as socket:  # fmt: skip
        yield socket


@contextmanager
def stream(server: Server, **start: Any) -> Iterator[Client]:
    """Connected and started; the caller ends it or vanishes."""
    with plain_socket(server) as socket:
        client = Client(socket)
        client.say("start", **start)
        yield client


# -- checks


def check_conservation(summary: Message) -> None:
    """docs/protocol.md, One idea."""
    s = summary
    assert s["received"] == s["sampled"] + s["not_sampled"] + sum(s["dropped"].values()), s
    assert s["pending"] == 0, s
    assert s["keyframes_due"] == sum(s[outcome] for outcome in OUTCOMES), s


def check_order(results: list[Message]) -> None:
    """Results come by rising keyframe, and count what was left out between them."""
    seqs = [r["seq"] for r in results]
    assert seqs == sorted(set(seqs))
    before = -1
    for result in results:
        assert result["dropped_since_last"] == result["seq"] - before - 1
        before = result["seq"]


def metric(server: Server, name: str, **labels: str) -> float:
    """The value of one series, 0 where there is none yet."""
    wanted = {f'{k}="{v}"' for k, v in labels.items()}
    for line in server.metrics().splitlines():
        match = re.fullmatch(rf"stmixer_{name}(?:{{(.*)}})? (\S+)", line)
        if match and wanted == set(filter(None, (match.group(1) or "").split(","))):
            return float(match.group(2))
    return 0.0


def poll(ready: Callable[[], Any], timeout: float = LOOK_S) -> Any:
    """Ask until the answer is true, at most ``timeout`` seconds; returns the last answer."""
    end = time.monotonic() + timeout
    while not (value := ready()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def paced(fps: float, seconds: float) -> Iterator[int]:
    """Frame numbers of a camera, each at its time (or at once, while we are late)."""
    started = time.monotonic()
    for number in range(round(fps * seconds)):
        time.sleep(max(0.0, started + number / fps - time.monotonic()))
        yield number
