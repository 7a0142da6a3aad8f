"""The parts of a running service, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from weakref import WeakSet

from stmixer.model.clip import MAX_ASPECT
from stmixer.model.extras import TRAIN, brought_by, missing
from stmixer.service.access import Access, Caller, StreamPlace
from stmixer.service.api.drawings import Drawings
from stmixer.service.api.trial import TaughtTrial, trial_settings
from stmixer.service.api.uploads import WaitingUploads, free_disk_bytes
from stmixer.service.engine.engine import Engine
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.stream import Policy, SourceKind
from stmixer.service.engine.watched_file import WatchedFile
from stmixer.service.engine.worker import WORKER_MODULE
from stmixer.service.errors import AccessError, CapacityError, InputError, StartError
from stmixer.service.event_schemas import Rule
from stmixer.service.events.clips import DAY_S, ClipStore
from stmixer.service.events.desk import EventDesk
from stmixer.service.events.rules import check_rules
from stmixer.service.events.store import Page, Wanted
from stmixer.service.ipc.memory import available_bytes
from stmixer.service.ipc.ring import ring_shape, why_unsealed
from stmixer.service.key_file import Scope
from stmixer.service.logs import KEY_NAME
from stmixer.service.metrics import Metrics, Scraped
from stmixer.service.pulled_url import FILE, parse_url
from stmixer.service.schemas import DetectOptions, DrawProgress, PullOrder, RunningStream
from stmixer.service.sessions.event_clips import EventClips
from stmixer.service.sessions.filed_streams import FiledStreams
from stmixer.service.sessions.pulled_stream import PulledStream, PulledStreams
from stmixer.service.sessions.resume import ResumableStreams
from stmixer.service.sessions.session import Session, schedule_of
from stmixer.service.settings import Settings
from stmixer.service.sources.addresses import AddressPolicy, parse_networks
from stmixer.service.sources.camera import Way
from stmixer.service.sources.decoder_pool import DECODER_MODULE, DecoderPool
from stmixer.service.sources.device import check_device
from stmixer.service.sources.easel import Easel
from stmixer.service.sources.names import Names
from stmixer.service.sources.played_file import files_not_allowed, open_below
from stmixer.service.sources.pulled import PullTerms
from stmixer.service.sources.trust import Trust
from stmixer.service.teaching.teaching import TEACHER_MODULE, Teaching

log = logging.getLogger("stmixer")

GOAWAY_S = 5.0
"""How long live streams go on at most once they know that we are going away."""
LAST_WORDS_S = 2.0
KEYS_SEEN_S = 1.0
"""How often the key file is looked at while something runs for a key."""
DECODER_BYTES = 256 * 2**20
"""What a decoder takes at least."""


def check_memory(model: ModelInfo, available: int | None) -> None:
    """Raises StartError where not even one stream would fit beside the worker."""
    window, side = model.window, model.config.preprocess.short_side
    needed = ring_shape(window, MAX_ASPECT * side, side).total_bytes + DECODER_BYTES
    if available is not None and available < needed:
        raise StartError(
            "no_memory",
            f"{available / 2**20:.0f} MiB of memory are left and one stream of {model.name} takes "
            f"{needed / 2**20:.0f}; give it more, or take a smaller --model",
        )


def check_can_teach() -> None:
    """Raises StartError where what trains is not installed."""
    if absent := missing(TRAIN):
        raise StartError("missing", f"--allow-teach: {brought_by('train', absent)}")


class Service:
    """Engine, decoder pool and metrics behind the routes.

    ``worker_module``, ``decoder_module``, ``teacher_module``: what its child processes run. ``access``: another
    service's, where callers are the same. ``live_scope``: what a key needs for a live stream. ``home`` is what resume
    tokens begin with, ``first_stream`` the number of the first stream, where there are several services.
    """

    models_change = True
    """Whether models come and go while it runs."""

    def __init__(
        self,
        settings: Settings,
        *,
        worker_module: str = WORKER_MODULE,
        decoder_module: str = DECODER_MODULE,
        teacher_module: str = TEACHER_MODULE,
        access: Access | None = None,
        live_scope: Scope = "stream",
        home: str = "",
        first_stream: int = 1,
    ) -> None:
        self.settings, self.live_scope = settings, live_scope
        self._worker_module, self._decoder_module = worker_module, decoder_module
        self.metrics = Metrics()
        self.access = access or Access(settings.keys, known=KEY_NAME.set)
        self.engine = Engine(settings, self.metrics, worker_module, first_stream)
        self.pool = DecoderPool(settings, decoder_module)
        self.resumable = ResumableStreams(settings.resume_ttl_s, self.metrics, home)
        self.pulled, self._easel = PulledStreams(), Easel(self.pool)
        self._networks, self._names = parse_networks(settings.allow_networks), Names()
        self.clips: EventClips | None = None
        if settings.event_clips is not None:
            most = settings.event_clips_mb * 2**20, settings.event_clips_days * DAY_S
            store = ClipStore(settings.event_clips, *most)
            self.clips = EventClips(store, self.pool, self._easel, settings, self.metrics, self._numbered)
        self.events = EventDesk(settings, self.metrics, self.clips)
        self.filed: FiledStreams | None = None
        if settings.streams is not None:
            self.filed = FiledStreams(
                settings.streams, self.pulled, self._pull_terms, self._pull_filed, self._change_filed
            )
        self.teaching: Teaching | None = None
        if settings.allow_teach:
            assert settings.teach_folder is not None
            room = settings.teach_mb * 2**20, settings.max_duration_s
            self.teaching = Teaching(settings.teach_folder, *room, teacher_module)
        self.trial = TaughtTrial(self._tried)
        self._sessions: WeakSet[Session] = WeakSet()
        self.uploads = WaitingUploads(
            settings.max_waiting_uploads, settings.waiting_bytes, self.metrics, free_bytes=free_disk_bytes
        )
        self.drawings = Drawings(settings.upload_wait_s)
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)
        """Of uploads, a model's each."""
        self._drained_by: float | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start decoders and worker. Raises StartError."""
        Trust(self.settings.pull_ca_file).check()
        filed = {} if self.filed is None else self.filed.read()
        self.events.read()
        try:
            if self.teaching is not None:
                check_can_teach()
                self.teaching.open()
            if self.clips is not None:
                await self.clips.start()
            watched = None
            if self.settings.watch is not None:
                restart = self.settings.watch_streams == "restart"
                watched = WatchedFile(self.settings.watch, self.engine, restart=restart)
            await self.engine.start()
            await self.events.start(self.engine.models.labels)
            if self.filed is not None:
                self.filed.check(filed)  # again, now that the model's labels are known
            check_memory(self.engine.model, available_bytes())
            await self.pool.start()
            if missing := self.missing_walls:
                log.warning("decoders go without some walls on this machine: %s", "; ".join(missing))
            self._keeping = asyncio.create_task(self._keep_looking())
            if watched is not None:
                self._watching = asyncio.create_task(watched.watch())
            if self.filed is not None:
                self.filed.start(filed)
        except BaseException:
            await self.stop()
            raise

    @property
    def missing_walls(self) -> tuple[str, ...]:
        """What this machine lacks of what shuts a decoder in (docs/security.md), a line each."""
        why = why_unsealed()
        return (*self.pool.missing_walls, *(() if why is None else (f"seal: {why}",)))

    # -- the way out

    @property
    def time_left_s(self) -> float:
        """Until the end of ``--shutdown-timeout``; infinite while nobody has asked for the end."""
        return math.inf if self._drained_by is None else max(0.0, self._drained_by - time.monotonic())

    @property
    def live_time_left_s(self) -> float:
        """How long live streams may go on: a part of that, so that their last keyframes run and get sent."""
        return self.time_left_s - max(self.settings.shutdown_timeout / 2, self.settings.shutdown_timeout - GOAWAY_S)

    def begin_drain(self) -> None:
        """Admit nothing more; from here on the time runs."""
        self.engine.entry.draining = self.events.leaving = True
        self._drained_by = time.monotonic() + self.settings.shutdown_timeout

    async def drain(self) -> None:
        """Let what runs finish; what has not by then is answered with what there is."""
        await asyncio.gather(self._end_lesson(), self._drain_streams())

    async def _drain_streams(self) -> None:
        if self.filed is not None:
            await self.filed.close()
        await self.resumable.close()
        await self.pulled.close()
        last_words_s = min(LAST_WORDS_S, self.settings.shutdown_timeout / 2)
        await self._empty_within(self.time_left_s - last_words_s)
        leaving = CapacityError("draining", "the service is shutting down; try another instance")
        self.uploads.end_all(leaving)
        for session in list(self._sessions):
            session.cut(leaving)
        await self._empty_within(self.time_left_s - last_words_s / 2)

    async def _empty_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.uploads.empty.wait()  # whatever was here before runs, too
                await self.engine.empty.wait()

    async def stop(self) -> None:
        """End every child."""
        self.events.leaving = True
        await self._end_lesson()
        for task in (self._keeping, self._watching):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self.filed is not None:
            await self.filed.close()
        await self.pulled.close()
        await self.events.stop()
        if self.clips is not None:
            await self.clips.close(self.time_left_s)
        await self._easel.close()
        await self.engine.stop()
        await self.pool.stop()

    async def _end_lesson(self) -> None:
        await self.trial.end()
        if self.teaching is not None:
            await self.teaching.close()

    def _tried(self, weights: Path) -> Service:
        """A service for what a lesson taught."""
        return Service(
            trial_settings(self.settings, weights), worker_module=self._worker_module,
            decoder_module=self._decoder_module, access=self.access, live_scope="admin",
        )  # fmt: skip

    # -- whose key it is

    def running(self, caller: Caller) -> list[RunningStream]:
        """The streams that run now, as they began: this caller's, and all of them for an admin."""
        sessions = sorted(self._running(), key=lambda session: session.stream.id)
        seen = [s for s in sessions if caller.sees_all or s.caller.is_same(caller)]
        pulled = {stream.id: stream for stream in self.pulled.all()}
        return [pulled.get(session.stream.id, session).running() for session in seen]

    async def all_running(self, caller: Caller) -> list[RunningStream]:
        """The same, wherever they run."""
        return self.running(caller)

    async def all_missing_walls(self) -> tuple[str, ...]:
        """``missing_walls`` of every machine that serves."""
        return self.missing_walls

    async def drawn_so_far(self, request_id: str, caller: Caller) -> DrawProgress:
        """How far one of the caller's videos has come, wherever it is drawn. Raises InputError (404)."""
        return self.drawings.find(request_id, caller).progress()

    async def measured(self, accept: str) -> Scraped:
        """What ``/metrics`` tells to whom that header names what he reads."""
        return self.metrics.written(accept)

    async def events_page(self, wanted: Wanted) -> Page:
        """What has come of rules, wherever. Raises InputError."""
        return await self.events.page(wanted)

    def live(self, number: int, caller: Caller) -> Session | None:
        """A stream that can have rules, if this caller may see it."""
        found = [s for s in self._running() if s.stream.id == number and s.watched is not None]
        return next((s for s in found if caller.sees_all or s.caller.is_same(caller)), None)

    @property
    def live_streams(self) -> int:
        """How many run that are no uploads."""
        return sum(stream.source != "upload" for stream in self.engine.streams.values())

    def _numbered(self, number: int) -> Session | None:
        return next((session for session in self._running() if session.stream.id == number), None)

    def _running(self) -> Iterator[Session]:
        running = self.engine.streams.get  # one that has ended may have left its number to another one
        return (session for session in list(self._sessions) if running(session.stream.id) is session.stream)

    async def _keep_looking(self) -> None:
        """Whose key is taken away or has expired keeps nothing that runs. A socket notices by itself."""
        while True:
            await asyncio.sleep(KEYS_SEEN_S)
            try:
                await self._end_lapsed()
            except Exception:  # whatever it was, the next key that is taken away still counts
                log.exception("a key that is no longer good may have kept what runs for it")

    async def _end_lapsed(self) -> None:
        self.access.look_again()
        self.uploads.end_lapsed()
        await self.pulled.end_lapsed()
        for stream in self.resumable.unattended():
            if stream.session.caller.lapsed.is_set():
                await self.resumable.give_way(stream)
        for session in self._running():
            if session.stream.source == "upload" and session.caller.lapsed.is_set():
                session.cut(AccessError("unauthorized", session.caller.why, 401))

    # -- who is let in

    def check_room(self, caller: Caller, policy: Policy, options: DetectOptions) -> None:
        """Raises CapacityError where there is no room now, be it for what comes later; InputError without the model."""
        besides = {stream.session.stream.id for stream in self.resumable.unattended()}
        if not self._has_share(caller, policy, options, besides):
            raise self._over_share(caller)
        self.engine.entry.check_room(policy, schedule_of(self.engine, options).hz, besides, options.model)

    def place(self, caller: Caller) -> StreamPlace:
        """One of the caller's streams, for what is to become one. Raises CapacityError (429)."""
        try:
            return caller.open_stream()
        except CapacityError:
            self.metrics.streams_rejected.labels("key_limit").inc()
            raise

    async def session(
        self,
        caller: Caller,
        source: SourceKind,
        policy: Policy,
        options: DetectOptions,
        deadline_ms: float | None = None,
        place: StreamPlace | None = None,
        rules: Sequence[Rule] = (),
        name: str | None = None,
        number: int | None = None,
    ) -> Session:
        """A new stream's session. Raises CapacityError, for the service or for the caller.

        A live stream that nobody is connected to gives way to it. ``rules``, besides those of all streams: checked;
        ``name``: of the stream in its events; ``number``: its id, where it has one.
        """
        while not self._has_share(caller, policy, options) or (place is None and not caller.may_open):
            if not (own := self.resumable.unattended(caller)):
                break
            await self.resumable.give_way(own[0])
        if self._has_share(caller, policy, options):
            await self._make_room(policy, options)
        if not self._has_share(caller, policy, options):  # also where another of its streams has begun meanwhile
            raise self._over_share(caller)
        session = Session(
            self.engine, self.pool, self.settings, caller,
            source=source, policy=policy, options=options, deadline_ms=deadline_ms, place=place,
            number=number,
        )  # fmt: skip
        self._sessions.add(session)
        if source != "upload":
            await self._watch(session, name, rules)
        return session

    async def _watch(
        self, session: Session, name: str | None, rules: Sequence[Rule], after: Session | None = None
    ) -> None:
        """Have a live stream's results looked at, by its own rules and those of all. ``after``: the session that it
        follows, whose cool-downs and numbers of people go on."""
        key, stream = session.caller.key, session.stream
        owner, period_s = "" if key is None else key.sha256, stream.schedule.period_us / 1e6
        if after is None or after.watched is None:
            watched = self.events.enter(stream.id, name, owner, period_s)
        else:
            ended_us, newest_track = after.watched.ended_us, after.stream.tracks.last_id
            watched = self.events.enter(
                stream.id, name, owner, period_s, quiet_us=ended_us, newest_track=newest_track
            )  # fmt: skip
        session.be_watched(watched, self.events.exit)
        try:
            await self._set_own(session, rules)
        except BaseException as error:
            await session.close(error)
            raise

    async def set_rules(self, session: Session, rules: Sequence[Rule]) -> None:
        """Other rules of a live stream's own. Raises InputError where its model knows no such label."""
        await self._set_own(session, rules)

    async def _set_own(self, session: Session, rules: Sequence[Rule]) -> None:
        """The same, here alone."""
        assert session.watched is not None
        check_rules(rules, [label.name for label in self.engine.models.of(session.stream).info.labels])
        await self.events.set_rules(session.watched, rules)
        if self.clips is not None:
            self.clips.watch(session, session.watched.rules)

    async def begin_pulled(self, caller: Caller, order: PullOrder) -> RunningStream:
        """Begin to fetch a stream, wherever there is room. Raises InputError for what may not be fetched,
        CapacityError."""
        return (await self.pull(caller, order)).running()

    async def check_moving(self, number: int, caller: Caller) -> None:
        """Of a stream that is not here. Raises CapacityError where it will be again somewhere, and is the caller's."""

    async def end_waiting(self, number: int, caller: Caller) -> bool:
        """End one of the caller's that is not here for good; False where there is none."""
        return False

    async def end_pulled(self, stream: PulledStream) -> None:
        """End one for good."""
        await self.pulled.remove(stream)

    async def pull(
        self, caller: Caller, order: PullOrder, number: int | None = None, *, must_be_there: bool = True
    ) -> PulledStream:
        """Begin to fetch a stream, here; ``number``: its id, where it has one; ``must_be_there``: refuse a file that is
        not. Raises InputError for what may not be fetched, CapacityError."""
        terms = self._pull_terms(order, None if caller.key is None else caller.key.sha256)
        if must_be_there and terms.url.scheme == FILE:
            os.close(open_below(terms.folder, terms.url.target.lstrip("/")))
        return await self._begin_pull(caller, order, terms, number)

    def _pull_terms(self, order: PullOrder, whose: str | None = None) -> PullTerms:
        """What is fetched, and how; ``whose`` the lookups of names are. Raises InputError for what may never be."""
        if order.model is None or self.engine.models.named(order.model) is not None:
            self.events.check(order.rules)  # else when it begins
        settings, url = self.settings, parse_url(order.url)
        policy = AddressPolicy(self._networks, self._names.of(whose))
        if order.loop and url.scheme != FILE:
            raise InputError("bad_option", "loop: files are played again and again, cameras go on by themselves")
        if order.transport == "udp" and url.scheme != "rtsp":
            raise InputError("bad_option", "transport: packets of rtsp:// alone come by UDP")
        match url.scheme:
            case "file":
                if settings.allow_files is None:
                    raise files_not_allowed()
            case "device":
                check_device(url.target, settings.devices)
            case _:
                policy.check_literal(url)
        way = Way(policy, Trust(settings.pull_ca_file, order.tls_verify), order.transport)
        return PullTerms(url, way, settings.allow_files, order.loop, settings.pull_silent_s, settings.devices)

    async def _pull_filed(self, order: PullOrder) -> PulledStream:
        """One of the file's: of no key. A file that is missing is told of as its state: it may come back."""
        return await self._begin_pull(self.access.nobody, order, self._pull_terms(order))

    async def _change_filed(self, stream: PulledStream, order: PullOrder) -> None:
        session = self._numbered(stream.id)  # while it begins anew not that which it has yet
        await self.set_rules(session or stream.session, order.rules)

    async def _begin_pull(
        self, caller: Caller, order: PullOrder, terms: PullTerms, number: int | None = None
    ) -> PulledStream:
        session = await self.session(
            caller, "pull", "latest", order.options(), order.deadline_ms, rules=order.rules, name=order.name,
            number=number,
        )  # fmt: skip
        stream = PulledStream(session, terms, order.name, self._easel, partial(self._session_after, order))
        await self.pulled.add(stream)
        return stream

    async def _session_after(self, order: PullOrder, former: Session, model: str) -> Session:
        """Of a pulled stream that begins anew with the default model, or where its rules forbid that with its former
        one, ``model``: in the place of the session that was closed."""
        rules, options = () if former.watched is None else former.watched.own, former.stream.options
        why_kept = former.why_kept()  # it knows other rules or another default than when it was told
        session = Session(
            self.engine, self.pool, self.settings, former.caller, source="pull", policy="latest",
            options=options.model_copy(update={"model": model}) if why_kept else options,
            deadline_ms=order.deadline_ms, after=former,
        )  # fmt: skip
        session.update(options)  # what is kept names none: it may move on with a later default
        self._sessions.add(session)
        await self._watch(session, order.name, rules, former)
        if why_kept:
            session.context.notice("model_kept", why_kept)
        return session

    async def upload_session(self, caller: Caller, options: DetectOptions, place: StreamPlace) -> Session:
        """The session of an upload that is here, once there is room: first come, first served. Raises CapacityError."""
        turn = self._turns[self.engine.models.get(options.model).name]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.upload_wait_s), turn:
                while not await self._make_room("all", options):
                    self.engine.entry.room.clear()
                    await self.engine.entry.room.wait()
        return await self.session(caller, "upload", "all", options, place=place)

    def _has_share(self, caller: Caller, policy: Policy, options: DetectOptions, besides: Collection[int] = ()) -> bool:
        """Whether one more of its streams is within its share; ``besides``: ids of those that would not be there."""
        if caller.percent == 100:
            return True
        own = {s.stream.id for s in self._running() if s.caller.is_same(caller)} - set(besides)
        return self.engine.entry.has_share(own, policy, schedule_of(self.engine, options).hz, caller.percent)

    def _over_share(self, caller: Caller) -> CapacityError:
        self.metrics.streams_rejected.labels("key_limit").inc()
        return caller.over_share()

    async def _make_room(self, policy: Policy, options: DetectOptions) -> bool:
        """Whether one more stream fits, now that as many gave way for it as have to."""
        hz = schedule_of(self.engine, options).hz
        while not self.engine.entry.has_room(policy, hz, model=options.model):
            unattended = self.resumable.unattended()
            if not unattended:
                return False
            await self.resumable.give_way(unattended[0])
        return True
