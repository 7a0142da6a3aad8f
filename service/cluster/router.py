"""Ray Serve's request router for this service: which replica a request goes to, by streams instead of by requests.

Serve makes one of these in each proxy, and in each replica (where it says which replicas take requests: one that is no
longer among them is being stopped, ``taking``). Every second it gets what ``Replica.record_routing_stats`` says;
streams that it has sent since count as well, so sockets that open together spread.
"""

from __future__ import annotations

import asyncio
import pickle
import random
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from stmixer.service.cluster.choice import Asked, Room, asked_of, ranked
from stmixer.service.cluster.coordinator import name_of
from stmixer.service.cluster.orders import NAMESPACE
from stmixer.service.cluster.owners import Owners, UnansweredError
from stmixer.service.cluster.taking import tell

STATS_S = 1.0
"""How often replicas say how full they are."""
ANSWER_S = 1.0
"""So long a request waits to hear where its stream is; then it goes where that was last."""
COUNTED_S = 2.5
"""So long a stream that was sent counts besides: until its replica has surely counted it."""


class StreamRouter(RequestRouter):
    """See the module."""

    _sent: dict[str, tuple[ReplicaID, float]]

    def initialize_state(self, **_: Any) -> None:
        """As Serve asks; there are no options."""
        self._sent = {}
        self._coordinator: Any = None
        self._owners = Owners(self._owner)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of one replica each, the best first. It hardly waits: Serve routes but a few requests at a time."""
        asked = Asked()
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Serve asks again at once, and again
            asked = self._asked(pending_request)
        named = asked.replica if asked.stream is None else await self._owners.of(asked.stream)
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        ids = ranked({name: self._room(replica) for name, replica in by_id.items()}, random.random)
        ids.sort(key=lambda name: name.unique_id != named)  # where it is gone any other says so
        if asked.begins and ids and pending_request is not None:
            self._sent[pending_request.metadata.internal_request_id] = ids[0], time.monotonic()
        return [[by_id[name]] for name in ids]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """It went there, whatever was thought best."""
        super().on_request_routed(pending_request, replica_id, result)
        request_id = pending_request.metadata.internal_request_id
        if request_id in self._sent:
            self._sent[request_id] = replica_id, time.monotonic()

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It is no more."""
        super().on_request_completed(replica_id, internal_request_id)
        self._sent.pop(internal_request_id, None)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Others take requests now."""
        super().update_replicas(replicas)
        tell(frozenset(replica.replica_id.unique_id for replica in replicas))

    def _asked(self, request: PendingRequest) -> Asked:
        if not request.metadata.is_http_request or not request.args:
            return Asked()
        return asked_of(pickle.loads(request.args[0]).asgi_scope)  # as the proxy, this very process, wrote it

    async def _owner(self, number: int) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._coordinator is None:  # this blocks, and others are routed meanwhile
                    name = name_of(self.app_name)
                    self._coordinator = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
                owner: str | None = await self._coordinator.where.remote(number)
                return owner
        except (RayError, ValueError, TimeoutError) as error:  # it is not there for the moment
            self._coordinator = None
            raise UnansweredError from error

    def _room(self, replica: RunningReplica) -> Room:
        now = time.monotonic()
        self._sent = {name: (to, at) for name, (to, at) in self._sent.items() if now - at < COUNTED_S}
        more = sum(to == replica.replica_id for to, _ in self._sent.values())
        stats = replica.routing_stats
        return Room(stats.get("streams", 0) + more, stats.get("capacity", 0), stats.get("late", False))
