"""Connections: no delay of small answers, on any socket that we make."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.asyncio.server import serve
from websockets.sync.client import connect

from stmixer.service.api.server import bind
from stmixer.service.settings import Settings


def undelayed(of: socket.socket) -> bool:
    """Whether it sends small pieces at once."""
    return of.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_answers_leave_at_once(host: str) -> None:
    """Nagle's algorithm holds a body back until its head is acknowledged: 40 ms an answer on a kept connection."""

    async def accepted() -> bool:
        listening, taken = bind(Settings(host=host, port=0)), asyncio.get_running_loop().create_future()

        class Taking(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                taken.set_result(undelayed(cast(socket.socket, transport.get_extra_info("socket"))))
                cast(asyncio.Transport, transport).close()

        server = await asyncio.get_running_loop().create_server(Taking, sock=listening)
        address = listening.getsockname()
        _, writer = await asyncio.open_connection(address[0], address[1])
        writer.close()
        found = await taken
        server.close()
        await server.wait_closed()
        return bool(found)

    assert asyncio.run(accepted())


def test_the_clients_media_leave_at_once() -> None:
    """The sockets of the Python client, which are made by websockets: sync and async."""

    async def both() -> list[bool]:
        async with serve(lambda socket: socket.wait_closed(), "127.0.0.1", 0) as server:
            address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with connect_async(address) as one:
                found = [undelayed(one.transport.get_extra_info("socket"))]

            def in_a_thread() -> None:
                with connect(address) as other:
                    found.append(undelayed(other.socket))

            await asyncio.to_thread(in_a_thread)
        return found

    assert asyncio.run(both()) == [True, True]
