"""A real MQTT broker (Debian's mosquitto) for tests, and another client of it that listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiomqtt import Client
from posting import eventually
from watching import need

WITHIN_S = 30.0


@dataclass
class Mosquitto:
    """``lines``: of its configuration, besides those that every one has. It keeps nothing on disk."""

    folder: Path
    lines: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """On the port that it had before, where it had one."""
        program = need("mosquitto", "mosquitto")
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        user = ("user root",) if os.geteuid() == 0 else ()  # it reads files of the test's
        anonymous = () if any(line.startswith("allow_anonymous") for line in self.lines) else ("allow_anonymous true",)
        lines = (f"listener {self.port} 127.0.0.1", "persistence false", *user, *anonymous, *self.lines)
        (self.folder / "mosquitto.conf").write_text("".join(f"{line}\n" for line in lines))
        with (self.folder / "mosquitto.log").open("a") as log:
            command = [program, "-c", self.folder / "mosquitto.conf"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def signal(self, which: signal.Signals) -> None:
        """Stop it, let it go on, or end it."""
        assert self.process is not None
        self.process.send_signal(which)

    def kill(self) -> None:
        """It is gone, and with it all that it kept."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)


@contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[Mosquitto]:
    """One that runs."""
    broker = Mosquitto(folder, lines)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@dataclass(frozen=True)
class Heard:
    """A message, as another client has it. ``retained``: it was kept for who comes later."""

    topic: str
    payload: str
    retained: bool


@dataclass
class Ear:
    """Hears all that is said."""

    heard: list[Heard] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, topic: str) -> list[str]:
        """What was said under a topic."""
        return [each.payload for each in self.heard if each.topic == topic]

    async def until(self, accept: Callable[[Ear], bool], within_s: float = WITHIN_S) -> None:
        """Wait for it; fails with all that was heard."""
        try:
            async with asyncio.timeout(within_s):
                while not accept(self):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"heard only {self.heard}") from None

    async def listen(self, client: Client) -> None:
        """Until it is cancelled."""
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            self.heard.append(Heard(str(message.topic), message.payload.decode(), bool(message.retain)))
            self._more.set()


async def comes(look: Callable[[], object]) -> None:
    """Look until it is so: for what tells nobody."""
    async with asyncio.timeout(WITHIN_S):
        while not look():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def ear(
    broker: Mosquitto, topic: str = "#", user: str | None = None, password: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Ear]:  # fmt: skip
    """Subscribed."""
    it, patient = Ear(), 3600  # a test may keep the loop from it while a service starts
    async with Client(
        "127.0.0.1", broker.port, username=user, password=password, tls_context=tls, keepalive=patient
    ) as client:
        await client.subscribe(topic, qos=1)
        listening = asyncio.create_task(it.listen(client))
        try:
            yield it
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def kept(broker: Mosquitto) -> dict[str, str]:
    """What the broker retains now."""
    async with ear(broker) as it, Client("127.0.0.1", broker.port) as other:
        await other.publish("the/end", qos=1)  # comes after all that is kept
        await it.until(lambda it: bool(it.of("the/end")))
        return {each.topic: each.payload for each in it.heard if each.retained}


class Way:
    """To a broker, which can be closed: what is between a service and it."""

    def __init__(self, broker: Mosquitto) -> None:
        self._broker, self.port = broker, 0
        self._server: asyncio.Server | None = None
        self._ours: set[asyncio.StreamWriter] = set()
        self._beyond: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Those who come now get through."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Nobody gets through, nor goes on."""
        if self._server is not None:
            self._server.close()
        for writer in (*self._ours, *self._beyond):
            writer.close()

    def lose(self) -> None:
        """Who is connected now is not any more; the broker does not hear of it."""
        for writer in self._ours:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ours.add(writer)
        with contextlib.suppress(OSError):
            beyond_reader, beyond_writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
            self._beyond.add(beyond_writer)
            there = asyncio.create_task(_copy(reader, beyond_writer))
            await _copy(beyond_reader, writer)
            beyond_writer.close()
            writer.close()
            await there
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
