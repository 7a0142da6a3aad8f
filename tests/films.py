"""Cameras of a test's own that know who fetches them and when: MJPEG over HTTP, from a thread, a path each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from web_camera import head
from ws_client import jpeg

FPS = 5.0


@dataclass
class Fetch:
    """One connection, from when to when; ``ended`` is None while it lasts. Monotonic seconds."""

    began: float
    ended: float | None = None


@dataclass
class Films:
    """``fetches``: of each path, in order."""

    port: int = 0
    fetches: dict[str, list[Fetch]] = field(default_factory=dict)

    def url(self, path: str) -> str:
        """Of one; any path is."""
        return f"http://127.0.0.1:{self.port}{path}"

    def running(self, path: str) -> bool:
        """Whether it is fetched now."""
        return any(fetch.ended is None for fetch in self.fetches.get(path, []))

    def doubled(self) -> list[str]:
        """Those that two have ever fetched at a time."""
        return [
            path
            for path, fetches in self.fetches.items()
            if any(first.ended is None or first.ended > then.began for first, then in itertools.pairwise(fetches))
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the other side ends it."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            fetch = Fetch(time.monotonic())
            self.fetches.setdefault(path, []).append(fetch)
            sending = asyncio.create_task(_film(writer))
            try:
                await reader.read()  # nothing comes but the end
            finally:
                fetch.ended = time.monotonic()
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def _film(writer: asyncio.StreamWriter) -> None:
    writer.write(head(Content_Type="multipart/x-mixed-replace; boundary=frame"))
    for number in itertools.count():
        picture = jpeg(number % 64)
        writer.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture))
        writer.write(picture + b"\r\n")
        await writer.drain()
        await asyncio.sleep(1 / FPS)


@contextmanager
def running_films() -> Iterator[Films]:
    """Filming; ends all connections."""
    films, loop, ready = Films(), asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(films.serve, "127.0.0.1", 0)
        films.port = server.sockets[0].getsockname()[1]
        ready.set()
        await over.wait()
        server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield films
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()
