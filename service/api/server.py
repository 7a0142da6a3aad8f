"""start → serve → drain → stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn
from starlette.concurrency import run_in_threadpool

from stmixer.service.api.app import create_app
from stmixer.service.api.connections import HEAD_S, HttpSocket, StreamSocket
from stmixer.service.api.doorway import MOST_CONNECTIONS, Doorway, raise_descriptor_limit, tell_in_a_line
from stmixer.service.api.entrance import Peers
from stmixer.service.api.senders import Senders
from stmixer.service.api.service import Service
from stmixer.service.engine.worker import WORKER_MODULE
from stmixer.service.errors import StartError
from stmixer.service.ipc.child import hide
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DECODER_MODULE
from stmixer.service.teaching.teaching import TEACHER_MODULE

log = logging.getLogger("stmixer")

RECEIVE_BUFFER = 2**20
FORCE_LOOK_S = 0.1


def run_server(
    settings: Settings,
    *,
    worker_module: str = WORKER_MODULE,
    decoder_module: str = DECODER_MODULE,
    teacher_module: str = TEACHER_MODULE,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError where that cannot begin.

    ``worker_module``, ``decoder_module``, ``teacher_module``: what its child processes run.
    """
    if (why := hide()) is not None:
        log.warning("our memory can be read by other processes of this user: %s", why)
    descriptors = raise_descriptor_limit()
    listening = bind(settings)
    try:
        service = Service(
            settings, worker_module=worker_module, decoder_module=decoder_module, teacher_module=teacher_module
        )
        asyncio.run(serve(service, listening, descriptors))
    finally:
        listening.close()


def bind(settings: Settings) -> socket.socket:
    """The listening socket, before anything slow is started. Raises StartError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # with its protocol's number: asyncio switches Nagle's delay off only for sockets that say they are TCP
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # a sender that is to be slowed is slowed, not buffered: the kernel would grow this to tens of megabytes
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        where = f"{settings.host}:{settings.port}"
        raise StartError("cannot_bind", f"{where}: {error.strerror}; choose another --host or --port") from None
    listening.set_inheritable(False)
    return listening


def check_certificate(settings: Settings) -> None:
    """Raises StartError for one that uvicorn would fail on."""
    if settings.ssl_certfile is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # a key with a password would stop and ask for it, at a terminal that may not be there
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise StartError(
            "bad_certificate",
            f"--ssl-certfile {settings.ssl_certfile}, --ssl-keyfile {settings.ssl_keyfile}: "
            f"{error.strerror or error}; give a PEM certificate with its key, without a password",
        ) from None


def doorway(settings: Settings, descriptors: int) -> Doorway:
    """For the connections of a process that may open so many descriptors."""
    most = settings.max_connections or min(MOST_CONNECTIONS, max(1, descriptors // 2))
    most_of_one = settings.max_connections_per_address or max(1, most // 4)
    return Doorway(most, most_of_one, Peers(settings.forwarded_allow_ips))


async def serve(service: Service, listening: socket.socket, descriptors: int) -> None:
    """Start → serve → drain → stop, on a socket that listens; ``descriptors`` is how many may be open."""
    settings = service.settings
    tell_in_a_line(asyncio.get_running_loop())
    check_certificate(settings)
    if service.filed is not None:  # else SIGHUP is what it is to any process
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.filed.read_again)
    await service.start()
    try:
        senders = Senders(Peers(settings.forwarded_allow_ips), lambda: service.live_streams)
        come_in = partial(HttpSocket, doorway=doorway(settings, descriptors), senders=senders)
        server = Server(
            service,
            uvicorn.Config(
                create_app(service, senders),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                http=cast(type[asyncio.Protocol], come_in),
                proxy_headers=False,  # service/api/entrance.py reads them
                timeout_keep_alive=settings.keep_alive_s,
                ws=StreamSocket,
                ws_max_size=2 * settings.max_frame_bytes,  # what is not far over our own limit is refused in words
                ws_per_message_deflate=False,
                ws_ping_interval=20.0,
                ws_ping_timeout=60.0,
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
            ),
        )
        await _settle()
        host, port = listening.getsockname()[:2]
        scheme = "http" if settings.ssl_certfile is None else "https"
        log.info("stmixer is ready: %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
        await server.serve(sockets=[listening])
    finally:
        await service.stop()


async def _settle() -> None:
    """What is there now stays: Python's collector need not look at it again, for 60 ms in which nobody is answered.

    In a thread of the web framework's: what it imports for its first one would keep the first who asks for a file
    waiting, and all others with him.
    """
    await run_in_threadpool(gc.collect)
    gc.freeze()


class Server(uvicorn.Server):
    """uvicorn's server, but one that drains first, and ends with status 0 after SIGTERM or SIGINT.

    While it drains it answers: what is new with 503, what runs with its results. A second signal forces the end.
    """

    def __init__(self, service: Service, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; who comes by TLS has to shake hands as soon as others have to ask."""
        loop = asyncio.get_running_loop()
        if not self.config.is_ssl:
            await super().startup(sockets)
            return
        listen = loop.create_server
        loop.create_server = partial(listen, ssl_handshake_timeout=HEAD_S)  # type: ignore[method-assign]
        try:
            await super().startup(sockets)
        finally:
            loop.create_server = listen  # type: ignore[method-assign]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals on the event loop, and do not raise them again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then let uvicorn close what is left."""
        self._service.begin_drain()
        drain = asyncio.ensure_future(self._service.drain())
        while not (drain.done() or self.force_exit):
            await asyncio.wait([drain], timeout=FORCE_LOOK_S)
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        self.config.timeout_graceful_shutdown = math.floor(self._service.time_left_s)
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
