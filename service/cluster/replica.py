"""What a replica of Ray Serve is: the application of ``service.api`` around a service of its own, with a lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.types import ASGIApp, Receive, Scope, Send

from stmixer.service.api.app import create_app
from stmixer.service.api.doorway import raise_descriptor_limit
from stmixer.service.cluster.coordinator import coordinator_of
from stmixer.service.cluster.member import Member
from stmixer.service.cluster.service import ClusterService, Replies
from stmixer.service.cluster.signs import leave_sign
from stmixer.service.cluster.taking import listen
from stmixer.service.cluster.tokens import SharedAccess
from stmixer.service.errors import CapacityError
from stmixer.service.events.store import Wanted
from stmixer.service.ipc.child import hide
from stmixer.service.logs import KEY_NAME, configure
from stmixer.service.settings import Settings
from stmixer.service.streams_file import read_streams

log = logging.getLogger("stmixer.cluster")

ASKED_S = 5.0
"""So long each of the other replicas may take to answer."""
ABSENT_S = 2.0
"""One that takes no requests for so long is being stopped; for less it was only not told of."""
STOP_S = 10.0
"""For what comes after a service has been drained."""


class Replica:
    """See the module. Serve makes one in each process, with the methods by which it and the others ask.

    ``deployment`` is of all replicas that were deployed at once; with keyframes older than ``late_s`` it is late.
    """

    def __init__(self, settings: Settings, deployment: str, late_s: float) -> None:
        if not logging.getLogger().handlers:
            logging.basicConfig()
        configure(settings)
        if (why := hide()) is not None:
            log.warning("our memory can be read by other processes of this user: %s", why)
        self._settings, self._late_s = settings, late_s
        context = serve.get_replica_context()
        self._name, app = context.replica_tag, context.app_name
        self._peers = serve.get_deployment_handle(context.deployment, app)
        self._seen = False
        self._absent: asyncio.TimerHandle | None = None
        self._left_at: float | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        filed = {} if settings.streams is None else {
            name: order.model_dump_json(exclude_unset=True) for name, order in read_streams(settings.streams).items()
        }  # fmt: skip
        self._member = Member(
            self._name,
            lambda: asyncio.to_thread(coordinator_of, app),
            ray.get_runtime_context().current_actor,
            lambda: asyncio.to_thread(leave_sign, app, self._name),
            filed,
            deployment,
        )
        self._service: ClusterService

    async def __serve_build_asgi_app__(self) -> ASGIApp:  # Serve's own name
        raise_descriptor_limit()
        joined = await self._member.join()
        access = SharedAccess(self._settings.keys, joined.secret, known=KEY_NAME.set)
        self._service = ClusterService(self._settings, self._member, joined.number, access, self._ask, self._late_s)
        return Front(create_app(self._service), self)

    # -- lifespan

    async def begin(self) -> None:
        """Start all that a service is."""
        await self._service.start()
        loop = asyncio.get_running_loop()
        listen(lambda names: loop.call_soon_threadsafe(self._see, names))
        self._looking = asyncio.create_task(self._look_around())
        self._member.start(self._service)

    async def _look_around(self) -> None:
        """Have our own router say who takes requests, from here on."""
        with contextlib.suppress(RayServeException, CapacityError):  # nobody does yet
            await self._ask("present")

    async def end(self) -> None:
        """End it; what was to be said has been, where Serve has waited for it."""
        await self._leave()
        await self._service.stop()

    def _see(self, names: frozenset[str]) -> None:
        """One that took requests and takes none any more is being stopped."""
        if self._name in names:
            self._seen = True
            if self._absent is not None:
                self._absent.cancel()
                self._absent = None
        elif self._seen and self._absent is None:
            self._absent = asyncio.get_running_loop().call_later(ABSENT_S, self._begin_leave)

    def _begin_leave(self) -> None:
        if self._leaving is None:
            log.info("replica %s is to end", self._name)
            self._left_at = time.monotonic()
            self._leaving = asyncio.create_task(self._service.leave())

    async def _leave(self) -> None:
        if self._absent is not None:
            self._absent.cancel()
        self._begin_leave()
        assert self._leaving is not None
        await asyncio.gather(self._leaving, return_exceptions=True)

    # -- what Serve asks

    def check_health(self) -> None:
        """Raises where no worker can be had, or it should be gone: Serve then starts another replica."""
        if self._left_at is not None and time.monotonic() - self._left_at > self._settings.shutdown_timeout + STOP_S:
            raise RuntimeError("it has left, and is still there")
        if not (self._service.engine.ready or self._service.engine.entry.draining):
            raise RuntimeError("no worker is ready")

    def record_routing_stats(self) -> dict[str, Any]:
        """What ``StreamRouter`` goes by."""
        here = self._service
        return {"streams": len(here.engine.streams), "capacity": here.capacity, "late": here.late}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What ``StreamScaling`` goes by."""
        return {
            "streams": float(len(self._service.engine.streams)),
            "capacity": float(self._service.capacity),
            "keyframe_age_s": self._service.keyframe_age_s,
        }

    # -- what other replicas ask

    async def present(self) -> None:
        """Whether we are there."""

    async def scrape(self) -> tuple[str, str]:
        """Who we are, and what is measured here."""
        return self._name, self._service.scraped()

    async def list_streams(self, owner: str, *, sees_all: bool) -> list[str]:
        """As ``ClusterService.listed``."""
        return self._service.listed(owner, sees_all=sees_all)

    async def list_walls(self) -> tuple[str, tuple[str, ...]]:
        """Who we are, and what our machine lacks to shut decoders in."""
        return self._name, self._service.missing_walls

    async def find_drawing(self, request_id: str, owner: str) -> str:
        """As ``ClusterService.drawing_found``."""
        return self._service.drawing_found(request_id, owner)

    async def list_events(self, wanted: Wanted) -> list[str]:
        """As ``ClusterService.events_listed``."""
        return await self._service.events_listed(wanted)

    async def _ask(self, verb: str, *arguments: Any, **named: Any) -> Replies:
        """All replicas; what those say that answer in time, each by itself."""
        asked = self._peers.broadcast(verb, *arguments, **named)
        try:
            # Serve's own way to wait for them loses all answers where one does not come
            results: list[Any] = await asyncio.wait_for(asked._fetch_replica_results_async(), ASKED_S)
        except TimeoutError:
            raise CapacityError("slow_replica", "no replica answers in time; try again later") from None
        told = await asyncio.gather(
            *(asyncio.wait_for(result.get_async(), ASKED_S) for result in results), return_exceptions=True
        )
        answers = []
        for answer in told:
            if isinstance(answer, BaseException):
                log.warning("a replica does not say its part of %s: %r", verb, answer)
            else:
                answers.append(answer)
        return Replies(answers, len(told) - len(answers))


class Front:
    """The application with its replica's lifespan."""

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        self._app, self._replica = app, replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "lifespan":
            await self._app({**scope, "state": dict(scope.get("state") or {})}, receive, send)
            return
        await receive()
        try:
            await self._replica.begin()
        except Exception as error:  # whatever it was, Serve is told that this one did not start
            log.exception("the service does not start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._replica.end()
        await send({"type": "lifespan.shutdown.complete"})
