"""The coordinator: one small Ray actor that says which replica fetches which stream (``placing``).

Its table lies in Ray's own store, the one of its head (in Redis where Ray is told to keep that there), so an actor that
dies is started again by Ray and goes on with it. Replicas ask it what they are to fetch and are answered when that
changes; they go on without it for ``LEASE_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.experimental import internal_kv

from stmixer.service.cluster.placing import Order, Placements, PullRefusal

log = logging.getLogger("stmixer.cluster")

NAMESPACE = "stmixer"
LOOK_S = 0.5
ASKED_S = 1.0
"""A question what to fetch is answered within this, whether anything has changed or not."""
BEGIN_S = 20.0
"""So long whoever asked for a stream waits for it to begin."""
FORGOTTEN_S = 120.0
"""After so long without a replica the service is over, and with it what was to be fetched."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A replica's number, and what all of them sign tokens with."""

    number: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class ToFetch:
    """What a replica is to fetch. ``version`` counts changes of the whole table; ``known``: whether it has joined."""

    version: int
    orders: tuple[Order, ...]
    known: bool


class Coordinator:
    """See the module. ``app`` names the Serve application whose it is."""

    def __init__(self, app: str) -> None:
        self._key = f"placements of {app}".encode()
        self._secret = self._kept(f"secret of {app}".encode()) or self._new_secret(f"secret of {app}".encode())
        kept = self._kept(self._key)
        now = time.monotonic()
        self._table = Placements() if kept is None else Placements.read(kept.decode(), now)
        self._version, self._changed = 0, asyncio.Event()
        self._ends: dict[int, PullRefusal | str] = {}
        """What came of a stream that somebody waits for: why not, or what it is (``RunningStream`` as JSON)."""
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    # -- what replicas say

    async def join(self, name: str, actor: Any, filed: Mapping[str, str] | None, number: int | None) -> Joined:
        """A replica begins, or one with a ``number`` was taken for gone. ``filed``: what its ``--streams`` says."""
        now = time.monotonic()
        number = self._table.join(name, now, number)
        if filed is not None:
            self._table.file(filed, now)
        if name not in self._watched:
            self._watched[name] = asyncio.create_task(self._until_dead(name, actor))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        self._write()
        return Joined(number, self._secret)

    async def ask(self, name: str, others: int, capacity: int, seen: int) -> ToFetch:
        """What it is to fetch, once that is other than at version ``seen``; ``others``: streams it has besides."""
        known = self._table.report(name, others, capacity, time.monotonic()) and name in self._watched
        if known and seen == self._version:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), ASKED_S)
        return ToFetch(self._version, self._table.of(name), known)

    async def began(self, name: str, number: int, running: str) -> bool:
        """A stream runs there now; False where it should not."""
        if not self._table.began(name, number):
            return False
        if number in self._ends:
            self._ends[number] = running
        self._write()
        return True

    async def refused(self, name: str, number: int, why: PullRefusal) -> None:
        """A stream cannot begin there."""
        if not self._table.refused(name, number, why, time.monotonic()) and number in self._ends:
            self._ends[number] = why
        self._write()

    async def leave(self, name: str) -> None:
        """A replica has ended what it fetched, and fetches nothing more."""
        watch = self._watched.pop(name, None)
        if watch is not None:
            watch.cancel()
        now = time.monotonic()
        self._table.leave(name, now)
        self._table.look(now)
        self._write()

    # -- what is asked for

    async def place(self, text: str, owner: str) -> PullRefusal | str:
        """Have a stream fetched: what it is then (``RunningStream`` as JSON), or why it is not."""
        number = self._table.order(text, owner, time.monotonic()).number
        self._ends[number] = ""
        self._write()
        try:
            async with asyncio.timeout(BEGIN_S):
                while not (end := self._ends[number]):
                    await self._changed.wait()
            return end
        except TimeoutError:
            self._table.forget(number)
            self._write()
            return PullRefusal("capacity", "no replica has begun it in time; try again later", 503, 5)
        finally:
            del self._ends[number]

    async def forget(self, number: int) -> None:
        """End a stream for good."""
        self._table.forget(number)
        self._write()

    async def where(self, number: int) -> str | None:
        """The replica that has a stream, of whatever kind."""
        return self._table.where(number)

    async def knows(self, number: int) -> bool:
        """Whether a stream is to be fetched by anybody."""
        return self._table.knows(number)

    # -- by itself

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            if self._table.look(now):
                self._write()
            since = self._table.empty_since
            if since is not None and now - since > FORGOTTEN_S:
                internal_kv._internal_kv_del(self._key, namespace=NAMESPACE.encode())
                ray.kill(ray.get_runtime_context().current_actor)

    async def _until_dead(self, name: str, actor: Any) -> None:
        """Ray knows of a process that ended long before its silence tells."""
        while True:
            try:
                await actor.__ray_ready__.remote()
            except ActorDiedError:
                log.warning("replica %s is gone", name)
                self._watched.pop(name, None)
                now = time.monotonic()
                self._table.leave(name, now)
                self._table.look(now)
                self._write()
                return
            except RayError:  # for the moment
                log.info("replica %s does not answer Ray", name)
            await asyncio.sleep(LOOK_S)

    def _write(self) -> None:
        internal_kv._internal_kv_put(self._key, self._table.written().encode(), namespace=NAMESPACE.encode())
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _kept(self, key: bytes) -> bytes | None:
        kept: bytes | None = internal_kv._internal_kv_get(key, namespace=NAMESPACE.encode())
        return kept

    def _new_secret(self, key: bytes) -> bytes:
        secret = secrets.token_bytes(32)
        internal_kv._internal_kv_put(key, secret, namespace=NAMESPACE.encode())
        return secret


def name_of(app: str) -> str:
    """What the coordinator of an application is called."""
    return f"coordinator of {app}"


def coordinator_of(app: str) -> Any:
    """The coordinator of an application, which is started where there is none. Blocks."""
    return (
        ray.remote(Coordinator)
        .options(
            name=name_of(app), namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
            max_restarts=-1, max_concurrency=1000,
        )
        .remote(app)
    )  # fmt: skip
