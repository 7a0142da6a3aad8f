"""HTTP servers of a test's own, in its event loop: what each path answers is a coroutine that writes it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Asked:
    """One request: its target and headers, by names in lower case."""

    target: str
    headers: dict[str, str]


@dataclass
class WebCamera:
    """One that runs; ``asked``: what it was asked, in order."""

    port: int
    host: str
    asked: list[Asked] = field(default_factory=list)

    def url(self, path: str, credentials: str = "") -> str:
        """Of something on it."""
        return f"http://{credentials and credentials + '@'}{self.host}:{self.port}{path}"


@asynccontextmanager
async def running_web_camera(answers: Mapping[str, Answer], host: str = "127.0.0.1") -> AsyncIterator[WebCamera]:
    """Serve these paths, a request to a connection; others are 404."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            target = head.split(" ")[1]
            headers = {name.lower(): value for name, value in re.findall(r"^([\w-]+): (.*)\r$", head, re.MULTILINE)}
            asked = Asked(target, headers)
            camera.asked.append(asked)
            await answers.get(target.partition("?")[0], missing)(asked, writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, host, 0)
    camera = WebCamera(server.sockets[0].getsockname()[1], host)
    try:
        yield camera
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        await server.wait_closed()


async def missing(_: Asked, writer: asyncio.StreamWriter) -> None:
    """404."""
    writer.write(head("404 Not Found") + b"nothing here")


def head(status: str = "200 OK", **headers: str) -> bytes:
    """Of an answer that ends with its connection."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *lines, "", ""]).encode()


def moved(location: str) -> Answer:
    """To somewhere else."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("302 Found", Location=location))

    return answer
