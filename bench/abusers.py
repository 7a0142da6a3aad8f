"""Everything that one who means harm can do to a service from outside, in a process of its own (``doing_harm``).

It comes from addresses of its own, 127.0.0.2 by default, and runs while a core is idle (``SCHED_IDLE``): it stands for
another machine, whose cores are not the service's, and a process that is merely nice takes one when it wakes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from stmixer.media.encode import encode_jpeg

ADDRESS = "127.0.0.2"
SILENT, DRIPPING, UNREAD = 300, 12, 20
HOUR_US = 3_600_000_000
GONE = (OSError, WebSocketException, AssertionError)
"""How the service ends what one who means harm does."""
_JPEG = encode_jpeg(np.full((240, 320, 3), 120, np.uint8))


@dataclass(frozen=True)
class Camp:
    """Whence they come: the service's address, the keys that they have, if any, and their own addresses. Of keys and
    addresses each connection has some one."""

    url: str
    secrets: tuple[str, ...] = ()
    addresses: tuple[str, ...] = (ADDRESS,)

    @property
    def headers(self) -> dict[str, str]:
        """That go with a request."""
        return {"Authorization": f"Bearer {random.choice(self.secrets)}"} if self.secrets else {}

    @property
    def address(self) -> str:
        """From which to connect."""
        return random.choice(self.addresses)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def request(self, line: str, *more: str) -> bytes:
        """The head of a request."""
        host, port = self.place
        named = [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}:{port}", *named, *more, "", ""]).encode()

    @contextlib.contextmanager
    def tcp(self) -> Iterator[socket.socket]:
        """A connection."""
        with socket.create_connection(self.place, timeout=10, source_address=(self.address, 0)) as connection:
            yield connection

    @contextlib.contextmanager
    def camera(self, **start: object) -> Iterator[ClientConnection]:
        """A stream that has begun."""
        with connect(
            self.url.replace("http", "ws") + "/v1/streams/ws", subprotocols=["stmixer.v1"],  # type: ignore[list-item]
            ping_interval=None, max_size=None, additional_headers=self.headers, source_address=(self.address, 0),
            close_timeout=1,
        ) as opened:  # fmt: skip
            opened.send(json.dumps({"type": "start", **start}))
            while json.loads(opened.recv(10))["type"] != "ready":
                pass
            yield opened


Attack = Callable[[Camp, threading.Event], None]


def again_and_again(once: Attack) -> Attack:
    """Whatever the service does about it, it begins anew."""

    def attack(camp: Camp, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(*GONE):
                once(camp, stop)
            stop.wait(0.05)

    return attack


@again_and_again
def silent_sockets(camp: Camp, stop: threading.Event) -> None:
    """Hundreds that begin to ask, and do not."""
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT):
            with contextlib.suppress(OSError):
                stack.enter_context(camp.tcp()).sendall(b"GET /healthz HTT")
        stop.wait(5)


@again_and_again
def dripping_uploads(camp: Camp, stop: threading.Event) -> None:
    """A byte each half second."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(camp.tcp()) for _ in range(DRIPPING)]
        for connection in connections:
            connection.sendall(camp.request("POST /v1/detect", f"Content-Length: {100 * 2**20}"))
        while not stop.wait(0.5):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")


@again_and_again
def unread_answers(camp: Camp, stop: threading.Event) -> None:
    """Asks for much, and reads nothing of it."""
    ask = camp.request("GET /web/stage.js") * 200
    with contextlib.ExitStack() as stack:
        for _ in range(UNREAD):
            connection = stack.enter_context(camp.tcp())
            connection.settimeout(1)
            with contextlib.suppress(OSError):
                connection.sendall(ask)
        stop.wait(10)


@again_and_again
def floods(camp: Camp, stop: threading.Event) -> None:
    """Questions without a pause, on four connections that stay."""
    ask = camp.request("GET /v1/models") * 16
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(camp.tcp()) for _ in range(4)]
        while not stop.is_set():
            for connection in connections:
                connection.sendall(ask)
            for connection in connections:
                assert connection.recv(2**20)


@again_and_again
def restarts(camp: Camp, stop: threading.Event) -> None:
    """A camera program that begins again after its first picture."""
    with camp.camera() as opened:
        opened.send(_JPEG)


@again_and_again
def clock_leaps(camp: Camp, stop: threading.Event) -> None:
    """A clock that is an hour ahead with every second picture."""
    with camp.camera(keyframe_hz=30, timestamps="prefix", policy="all") as opened:
        for number in range(10_000):
            opened.send((number % 2 * HOUR_US + number * 40_000).to_bytes(8, "little") + _JPEG)
            if stop.wait(0.05):
                return


@again_and_again
def small_messages(camp: Camp, stop: threading.Event) -> None:
    """A byte at a time, without a pause."""
    with camp.camera() as opened:
        while not stop.is_set():
            opened.send(b"x")


@again_and_again
def large_messages(camp: Camp, stop: threading.Event) -> None:
    """One that is larger than any may be."""
    with camp.camera() as opened:
        opened.send(bytes(8 * 2**20))
        while True:
            opened.recv(10)


ATTACKS: dict[str, Attack] = {
    "silent_sockets": silent_sockets, "dripping_uploads": dripping_uploads, "unread_answers": unread_answers,
    "floods": floods, "restarts": restarts, "clock_leaps": clock_leaps, "small_messages": small_messages,
    "large_messages": large_messages,
}  # fmt: skip


@contextlib.contextmanager
def doing_harm(camp: Camp, names: tuple[str, ...]) -> Iterator[None]:
    """Within: a process does all of these at once."""
    if not names:
        yield
        return
    command, root = [sys.executable, "-m", "bench.abusers"], Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({**asdict(camp), "names": names}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "begun\n"
        yield
        process.stdin.close()
        assert process.wait(60) == 0


def main() -> None:
    """Do what the first line of standard input says until that ends."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    told = json.loads(sys.stdin.readline())
    camp, stop = Camp(told["url"], tuple(told["secrets"]), tuple(told["addresses"])), threading.Event()
    with ThreadPoolExecutor(len(told["names"])) as pool:
        attacks = [pool.submit(ATTACKS[name], camp, stop) for name in told["names"]]
        print("begun", flush=True)
        sys.stdin.read()
        stop.set()
        for attack in attacks:
            attack.result()


if __name__ == "__main__":
    main()
