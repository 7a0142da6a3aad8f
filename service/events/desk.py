"""Where the events of all streams come together: written down first, then told to who follows the stream, to who keeps
clips, and to receivers. Without a rule and a file nothing of it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from stmixer.service.errors import InputError, StartError
from stmixer.service.event_schemas import ClipWish, Event, Rule
from stmixer.service.events.keeper import ClipKeeper
from stmixer.service.events.ledger import Ledger
from stmixer.service.events.names import RuleOfStream, StreamName
from stmixer.service.events.receivers import Receivers
from stmixer.service.events.rules import check_rules, read_rules
from stmixer.service.events.runs import Occurrence, Reason
from stmixer.service.events.store import Change, Page, Store, Wanted
from stmixer.service.events.watched import WatchedStream
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.events")

RETURN_S = 60.0
"""After a start: how long what was open waits for its stream to begin."""
TOLD_WITHIN_S = 1.0
"""How long the end of a stream waits for its last events to be told."""
MOST_QUEUED = 10_000
"""Changes that wait to be written down; beyond that only events do, and of what a disk did not take the newest."""
AGAIN_S = 5.0
"""Until what a disk did not take is written again, if nothing comes before."""
MOST_ENDS = 10_000
"""Streams that may come back whose last ends are known, and of each the rules: a hundredth of that."""


class EventDesk:
    """``enter`` for each live stream, from ``start`` to ``stop``. ``keeper``: who keeps clips, None where nobody does.

    ``leaving``: the service ends; streams that return go on with their events after it.
    """

    def __init__(self, settings: Settings, metrics: Metrics, keeper: ClipKeeper | None = None) -> None:
        self._settings, self._metrics, self._keeper = settings, metrics, keeper
        self.leaving = False
        self._labels: Collection[str] | None = None
        self._common: tuple[Rule, ...] = ()
        self._ledger: Ledger | None = None
        self._receivers: Receivers | None = None
        self._streams: dict[str, WatchedStream] = {}
        self._left: dict[StreamName, list[Occurrence]] = {}
        self._newest_tracks: dict[StreamName, int] = {}
        self._quiet_us: dict[StreamName, dict[str, int]] = {}
        self._unsaved: list[Change] = []
        self._queue: deque[tuple[WatchedStream | None, Change]] = deque()
        self._wishes: dict[str, ClipWish] = {}
        self._flushes: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def read(self) -> None:
        """The file of rules for all streams. Raises StartError."""
        if self._settings.rules is not None:
            self._common = read_rules(self._settings.rules)

    async def start(self, labels: Collection[str]) -> None:
        """``labels``: those that the models know, now and later on. Raises StartError."""
        self._labels = labels
        try:
            self.check(self._common)
        except InputError as error:
            raise StartError("bad_rules", f"--rules {self._settings.rules}: {error}") from None
        self._warn_of_clips(None, self._common)
        if self._settings.events_file is None:
            return
        receivers = Receivers(self._settings, self._metrics)
        self._ledger = ledger = Ledger(await asyncio.to_thread(Store, self._settings.events_file))
        self._left = await ledger.do(ledger.store.opened)
        self._newest_tracks = await ledger.do(ledger.store.newest_tracks)
        for (stream, rule), ended_us in (await ledger.do(ledger.store.last_ends)).items():
            self._quiet_us.setdefault(stream, {})[rule] = ended_us
        self._begin()
        self._receivers = receivers
        self._tasks += await receivers.start(ledger)
        for name in [name for name in self._left if not _may_return(name.name)]:
            await self._lose(name, self._left.pop(name), "lost")
        if self._left:
            self._tasks.append(asyncio.create_task(self._lose_later()))

    async def stop(self) -> None:
        """Write down what is left."""
        self.leaving = True
        for stream in list(self._streams.values()):
            await self.exit(stream)
        if self._unsaved:
            await self._flush_soon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._receivers is not None:
            await self._receivers.close()
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            await ledger.close()

    # -- streams

    def check(self, rules: Sequence[Rule]) -> None:
        """Raises InputError (``bad_rule``) for some that cannot be."""
        check_rules(rules, self._labels)

    def enter(
        self, number: int, name: str | None, owner: str, period_s: float, *,
        quiet_us: Mapping[str, int] | None = None, newest_track: int = 0,
    ) -> WatchedStream:  # fmt: skip
        """A live stream begins. One without a name, or with one that another has, is known by its number.

        Where it follows one that has just ended: ``quiet_us``, when an event of each rule ended last there, epoch µs,
        and ``newest_track``, the highest number of a person there.
        """
        returns = name is not None and _may_return(name) and name not in self._streams
        known = StreamName(owner, name if returns and name is not None else str(number))
        stream = WatchedStream(
            number, known, period_s,
            returns=returns, common=self._common,
            newest_track=max(newest_track, self._newest_tracks.get(known, 0) if returns else 0),
            left=self._left.pop(known, []) if returns else [],
            quiet_us=(self._quiet_us.get(known, {}) if returns else {}) | dict(quiet_us or {}), put=self._put,
        )  # fmt: skip
        self._streams[known.name] = stream
        return stream

    async def set_rules(self, stream: WatchedStream, rules: Sequence[Rule]) -> None:
        """Other rules of its own, checked. What no rule goes on with ends."""
        orphans = stream.set_rules(rules)
        if stream.rules:
            self._need_ledger()
        self._warn_of_clips(stream, rules)
        self._show_rules()
        await self._lose(stream.name, orphans, "rule_changed" if stream.rules else "lost")

    async def exit(self, stream: WatchedStream) -> None:
        """It has ended. What comes of that is told when this returns."""
        if self._streams.get(stream.name.name) is not stream:
            return
        del self._streams[stream.name.name]
        self._show_rules()
        comes_back = self.leaving and stream.returns and self._settings.events_file is not None
        stream.close(comes_back=comes_back)
        await self._flush_soon()

    def _show_rules(self) -> None:
        """To receivers that keep them. Streams of a service that ends return after it."""
        if self._receivers is not None and not self.leaving:
            named = [stream for stream in self._streams.values() if stream.returns]
            self._receivers.show({RuleOfStream(one.name, rule.id): rule for one in named for rule in one.rules})

    def _warn_of_clips(self, stream: WatchedStream | None, rules: Sequence[Rule]) -> None:
        """Of those of a stream, or of all: nobody notices what is not there."""
        asking = [rule.id for rule in rules if rule.clip is not None]
        if asking and self._keeper is None:
            where = "all streams" if stream is None else f"stream {stream.name.name}"
            log.warning(
                "no clips are kept, though rules of %s ask for some (%s): --event-clips names a folder for them",
                where, ", ".join(asking),
            )  # fmt: skip

    # -- what has been

    async def page(self, wanted: Wanted) -> Page:
        """Events of now and before."""
        ledger = self._ledger
        return Page((), None, wanted.after or 0) if ledger is None else await ledger.do(ledger.store.page, wanted)

    async def event(self, event_id: str) -> tuple[str, Event] | None:
        """One as it is now, and the owner of its stream (``StreamName``)."""
        ledger = self._ledger
        return None if ledger is None else await ledger.do(ledger.store.event, event_id)

    # -- writing down, then telling

    def _put(self, stream: WatchedStream | None, change: Change) -> None:
        if stream is not None and stream.returns:
            self._note_ends(change)
        if change.events or len(self._queue) < MOST_QUEUED:
            self._queue.append((stream, change))
            self._changed.set()

    async def flush(self) -> None:
        """Until all that has come is written down and told."""
        if self._ledger is None or not self._tasks:
            return
        done = asyncio.get_running_loop().create_future()
        self._flushes.append(done)
        self._changed.set()
        await done

    async def _flush_soon(self) -> None:
        """A disk that hangs keeps nothing from its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_WITHIN_S):
                await self.flush()

    def _note_ends(self, change: Change) -> None:
        """For cool-downs: the stream may end, and one of its name begin."""
        ends = {event.rule: event.ended_at_us for event in change.events if event.ended_at_us is not None}
        if not ends:
            return
        ends = self._quiet_us.pop(change.stream, {}) | ends
        self._quiet_us[change.stream] = dict(list(ends.items())[-MOST_ENDS // 100 :])
        if len(self._quiet_us) > MOST_ENDS:
            del self._quiet_us[next(iter(self._quiet_us))]

    def _need_ledger(self) -> None:
        """In memory, where no file was named."""
        if self._ledger is None:
            log.warning("events are kept in memory alone; --events-file keeps them over a restart")
            self._ledger = Ledger(Store(None))
            self._begin()

    def _begin(self) -> None:
        self._tasks.append(asyncio.create_task(self._keep_telling()))

    async def _keep_telling(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S if self._unsaved else None):
                    await self._changed.wait()
            self._changed.clear()
            flushes, self._flushes = self._flushes, []
            batch = list(self._queue)
            self._queue.clear()
            try:
                await self._write_and_tell(batch)
            except Exception:  # whatever it was, the next one is told
                log.exception("an event may not have been told")
            for done in flushes:
                if not done.done():
                    done.set_result(None)

    async def _write_and_tell(self, batch: list[tuple[WatchedStream | None, Change]]) -> None:
        ledger = self._ledger
        if ledger is None or not (batch or self._unsaved):
            return
        changes, receivers = [*self._unsaved, *(change for _, change in batch)], self._receivers
        self._unsaved = []
        try:
            names = () if receivers is None else receivers.names
            gave_way = await ledger.do(ledger.store.save, changes, names, time.time_ns() // 1000)
            if receivers is not None:
                receivers.gave_way(gave_way)
        except sqlite3.Error as error:
            self._metrics.event_store_errors.inc()
            self._keep_unsaved(changes if isinstance(error, sqlite3.OperationalError) else ())
            log.error("events cannot be written down (%s): they are told, and %d wait", error, len(self._unsaved))
        self._metrics.events_open.set(sum(stream.open_count for stream in self._streams.values()))
        if receivers is not None:
            receivers.wake()
        for stream, change in batch:
            for event in change.events:
                self._tell(stream, event)

    def _keep_unsaved(self, changes: Iterable[Change]) -> None:
        """Until the disk takes them; what is noted every so often anyway need not wait."""
        waiting = [change for change in changes if change.events or change.newest_track is not None]
        self._unsaved = waiting[-MOST_QUEUED:]
        gone = sum(len(change.events) for change in waiting[:-MOST_QUEUED])
        if self._receivers is not None and gone:
            self._receivers.gave_way(dict.fromkeys(self._receivers.names, gone))

    def _tell(self, stream: WatchedStream | None, event: Event) -> None:
        self._metrics.events.labels(event.state).inc()
        log.info("event %s of rule %s in stream %s: %s", event.event_id, event.rule, event.stream, event.state)
        if stream is None:
            return
        stream.tell(event)
        if self._keeper is not None and event.state != "update":
            self._have_kept(self._keeper, stream, event)

    def _have_kept(self, keeper: ClipKeeper, stream: WatchedStream, event: Event) -> None:
        """As its rule wanted when it began, whatever that says now."""
        rule = stream.rule(event.rule)
        wish = self._wishes.pop(event.event_id, None if rule is None else rule.clip)
        if wish is not None:
            keeper.keep(event, stream.number, wish.pre_s, wish.post_s)
            if event.state == "start":
                self._wishes[event.event_id] = wish

    # -- what the process before has left

    async def _lose_later(self) -> None:
        await asyncio.sleep(RETURN_S)
        left, self._left = self._left, {}
        for name, occurrences in left.items():
            await self._lose(name, occurrences, "lost")

    async def _lose(self, name: StreamName, occurrences: Sequence[Occurrence], reason: Reason) -> None:
        """They end where they were seen last."""
        for one in occurrences:
            found = await self.event(one.event_id)
            if found is not None:
                end = {"state": "end", "ended_at_us": one.seen_at_us, "reason": reason, "track_id": one.track_id,
                       "score_max": round(one.score_max, 4), "box": one.box}  # fmt: skip
                self._put(None, Change(name, (found[1].model_copy(update=end),)))
        if occurrences:
            await self.flush()


def _may_return(name: str) -> bool:
    """Whether a stream may be known by this: a number is some stream's own."""
    return not name.isdecimal()
