"""The coordinator: one small Ray actor that says which replica fetches which stream (``placing``).

It runs on Ray's head, and its table lies in Ray's own store, which is there too (in Redis where Ray is told to keep it
in that), so an actor that dies is started again by Ray and goes on with it. Replicas ask it what they are to fetch and
are answered when that changes; they go on without it for ``LEASE_S``, and longer where they leave ``signs``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.experimental import internal_kv

from stmixer.service.cluster.orders import NAMESPACE, PROTOCOL, Order, PullRefusal
from stmixer.service.cluster.placing import HEAD, Placements
from stmixer.service.cluster.signs import Signs, drop_sign, read_sign, signed

log = logging.getLogger("stmixer.cluster")

ON_HEAD = {"node:__internal_head__": 0.001}
"""Where its store is: without that it is nothing, and elsewhere there would be one machine more to lose."""
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
        self._app, self._prefix = app, f"placements {PROTOCOL} of {app}: "
        self._secret = self._kept(f"secret of {app}") or self._new_secret(f"secret of {app}")
        rows = self._rows()
        self._table = Placements.read(rows, time.monotonic()) if HEAD in rows else Placements()
        self._unwritten = dict[str, str | None]()
        """Rows that have still to be written."""
        self._signs = Signs(partial(read_sign, app), partial(drop_sign, app), signed(app))
        self._version, self._changed = 0, asyncio.Event()
        self._ends: dict[int, asyncio.Future[PullRefusal | str]] = {}
        """What comes of a stream that somebody waits for: why not, or what it is (``RunningStream`` as JSON)."""
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    # -- what replicas say

    async def join(
        self, name: str, actor: Any, filed: Mapping[str, str], deployment: str, number: int | None
    ) -> Joined:
        """A replica begins, or one with a ``number`` was taken for gone. ``filed``: what its ``--streams`` says, which
        counts once for a ``deployment``."""
        now = time.monotonic()
        number = self._table.join(name, now, number)
        self._signs.clear(name, known=False)
        self._table.file(filed, now, deployment)
        if name not in self._watched:
            self._watched[name] = asyncio.create_task(self._until_dead(name, actor))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        self._write()
        return Joined(number, self._secret)

    async def ask(
        self, name: str, others: int, capacity: int, seen: int, over: tuple[int, ...] = (), late: bool = False
    ) -> ToFetch:
        """What it is to fetch, once that is other than at version ``seen``; ``others``: streams it has besides;
        ``over``: those that have come to their end; ``late``: it is given more only where all others are full."""
        known = self._table.report(name, others, capacity, time.monotonic(), over, late) and name in self._watched
        self._signs.clear(name)
        if known and seen == self._version:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), ASKED_S)
        return ToFetch(self._version, self._table.of(name), known)

    async def began(self, name: str, number: int, running: str) -> bool:
        """A stream runs there now; False where it should not."""
        if not self._table.began(name, number, running):
            return False
        self._tell(number, running)
        self._write()
        return True

    async def refused(self, name: str, number: int, why: PullRefusal) -> None:
        """A stream cannot begin there."""
        if not self._table.refused(name, number, why, time.monotonic()):
            self._tell(number, why)
        self._write()

    async def change(self, name: str, number: int, text: str) -> bool:
        """What is to be fetched is another order from now on, wherever; the stream runs on. False where it should not
        run there."""
        changed = self._table.change(name, number, text)
        self._write()
        return changed

    async def leave(self, name: str) -> None:
        """A replica has ended what it fetched, and fetches nothing more."""
        watch = self._watched.pop(name, None)
        if watch is not None:
            watch.cancel()
        self._gone(name)

    # -- what is asked for

    async def place(self, key: str, text: str, owner: str) -> PullRefusal | str:
        """Have a stream fetched: what it is then (``RunningStream`` as JSON), or why it is not. The same ``key`` is the
        same question."""
        number = self._table.order(text, owner, time.monotonic(), key=key).number
        if running := self._table.running(number):
            return running
        end = self._ends.get(number)
        if end is None:
            end = self._ends[number] = asyncio.get_running_loop().create_future()
        self._write()
        try:
            return await asyncio.wait_for(asyncio.shield(end), BEGIN_S)
        except TimeoutError:
            self._table.forget(number)
            late = PullRefusal("capacity", "no replica has begun it in time; try again later", 503, 5)
            self._tell(number, late)
            self._write()
            return late
        finally:
            self._ends.pop(number, None)

    async def forget(self, number: int, owner: str, sees_all: bool) -> bool:
        """End a stream for good; False where there is none of this owner."""
        known = self._table.forget(number, owner, sees_all=sees_all)
        self._write()
        return known

    async def placed(self, owner: str, sees_all: bool) -> tuple[Order, ...]:
        """All that is to be fetched of this owner, running or not."""
        return self._table.listed(owner, sees_all=sees_all)

    async def where(self, number: int) -> str | None:
        """The replica that has a stream, of whatever kind."""
        return self._table.where(number)

    async def knows(self, number: int, owner: str, sees_all: bool) -> bool:
        """Whether a stream of this owner is to be fetched by anybody."""
        return self._table.knows(number, owner, sees_all=sees_all)

    # -- by itself

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look_once(time.monotonic())
            except Exception:  # Ray's store does not answer: without what replicas leave there nobody is taken for gone
                log.exception("who is there")

    async def _look_once(self, now: float) -> None:
        if silent := self._table.silent(now):
            for name in await asyncio.to_thread(self._signs.look, silent):
                self._table.heard(name, time.monotonic())
        looked = self._table.look(now)
        if looked.changed or self._unwritten:
            self._write()
        for name in looked.lost:
            self._signs.clear(name, known=False)
        since = self._table.empty_since
        if since is not None and now - since > FORGOTTEN_S:
            for name in self._rows():
                self._put(self._prefix + name, None)
            for name in signed(self._app):
                drop_sign(self._app, name)
            ray.kill(ray.get_runtime_context().current_actor)

    async def _until_dead(self, name: str, actor: Any) -> None:
        """Ray knows of a process that ended long before its silence tells."""
        while True:
            try:
                await actor.__ray_ready__.remote()
            except ActorDiedError:
                log.warning("replica %s is gone", name)
                self._watched.pop(name, None)
                self._gone(name)
                return
            except RayError:  # for the moment
                log.info("replica %s does not answer Ray", name)
            await asyncio.sleep(LOOK_S)

    def _gone(self, name: str) -> None:
        now = time.monotonic()
        self._table.leave(name, now)
        lost = self._table.look(now).lost
        self._write()
        for gone in (name, *lost):
            self._signs.clear(gone, known=False)

    def _tell(self, number: int, what: PullRefusal | str) -> None:
        end = self._ends.get(number)
        if end is not None and not end.done():
            end.set_result(what)

    def _write(self) -> None:
        self._unwritten |= self._table.changes()
        for name, row in list(self._unwritten.items()):
            self._put(self._prefix + name, None if row is None else row.encode())
            del self._unwritten[name]
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- Ray's store

    def _rows(self) -> dict[str, str]:
        keys: list[bytes] = internal_kv._internal_kv_list(self._prefix, namespace=NAMESPACE.encode())
        names = [key.decode().removeprefix(self._prefix) for key in keys]
        # another application's name may begin with ours
        found = {name: self._kept(self._prefix + name) for name in names if name == HEAD or name.isdecimal()}
        return {name: row.decode() for name, row in found.items() if row is not None}

    def _put(self, key: str, value: bytes | None) -> None:
        if value is None:
            internal_kv._internal_kv_del(key, namespace=NAMESPACE.encode())
        else:
            internal_kv._internal_kv_put(key, value, namespace=NAMESPACE.encode())

    def _kept(self, key: str) -> bytes | None:
        kept: bytes | None = internal_kv._internal_kv_get(key, namespace=NAMESPACE.encode())
        return kept

    def _new_secret(self, key: str) -> bytes:
        secret = secrets.token_bytes(32)
        self._put(key, secret)
        return secret


def name_of(app: str) -> str:
    """What the coordinator of an application is called."""
    return f"coordinator {PROTOCOL} of {app}"


def coordinator_of(app: str) -> Any:
    """The coordinator of an application, which is started where there is none. Blocks."""
    return (
        ray.remote(Coordinator)
        .options(
            name=name_of(app), namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
            resources=ON_HEAD, max_restarts=-1, max_concurrency=1000,
        )
        .remote(app)
    )  # fmt: skip
