"""start → serve → drain → stop."""

from __future__ import annotations

import asyncio
import logging
import socket

import uvicorn

from service.app import create_app
from service.errors import StartError
from service.service import Service
from service.settings import Settings

log = logging.getLogger("stmixer")


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError where that cannot begin."""
    listening = bind(settings)
    try:
        asyncio.run(_serve(settings, listening))
    finally:
        listening.close()


def bind(settings: Settings) -> socket.socket:
    """The listening socket, before anything slow is started. Raises StartError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        where = f"{settings.host}:{settings.port}"
        raise StartError("cannot_bind", f"{where}: {error.strerror}; choose another --host or --port") from None
    listening.set_inheritable(False)
    return listening


async def _serve(settings: Settings, listening: socket.socket) -> None:
    service = Service(settings)
    await service.start()
    try:
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(service),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="websockets-sansio",
                ws_max_size=settings.max_frame_bytes + 8,
                ws_per_message_deflate=False,
                ws_ping_interval=20.0,
                ws_ping_timeout=60.0,
                timeout_graceful_shutdown=int(settings.shutdown_timeout),
            )
        )
        host, port = listening.getsockname()[:2]
        log.info("stmixer is ready: http://%s:%d", f"[{host}]" if ":" in host else host, port)
        await server.serve(sockets=[listening])
    finally:
        await service.stop()
