"""The engine: all streams, and the models that serve them. Every change of a keyframe's state begins here.

``step`` is the whole of one round, ``finish`` what a batch comes back to. Runs on the API process's event loop and
never blocks it: pixels stay in rings, decoding and inference in children.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial

from stmixer.model.clip import MAX_ASPECT
from stmixer.model.query_bank import new_bank, second_of
from stmixer.service.engine.entry import Entry
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.models import Models
from stmixer.service.engine.payload import left_of
from stmixer.service.engine.seat import Seat
from stmixer.service.engine.served import ServedModel
from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.engine.worker import WORKER_MODULE, Batch, Shapes, WeightsSource, Worker
from stmixer.service.errors import CapacityError
from stmixer.service.ipc.channel import ChannelError, Received
from stmixer.service.ipc.messages import (
    Actor,
    BatchDone,
    BatchFailed,
    Frames,
    JobOrder,
    MessageError,
    Opened,
    RunBatch,
    SampleWritten,
    WindowsCopied,
)
from stmixer.service.ipc.ring import create_ring, ring_shape
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import FrameSize, Result, Timings
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.engine")

AT_ONCE_S = 0.02
"""A batch that follows the one before it so soon was waited for: what went by between them is a batch's overhead."""
MOVED_AFTER_S = 8.0
"""A seat that has been without a worker for so long hands its streams to the others."""
BUSY = 0.5
"""The load from which on capacity follows what keyframes cost now: an idle service says little of full batches."""


class Engine:
    """Streams in, settled keyframes out. ``worker_module``: what a worker process runs; ``first_stream``: the number
    of the first stream."""

    def __init__(
        self, settings: Settings, metrics: Metrics, worker_module: str = WORKER_MODULE, first_stream: int = 1
    ) -> None:
        self.settings, self.metrics = settings, metrics
        self.streams: dict[int, Stream] = {}
        self.models = Models(settings, metrics, worker_module, self._on_message, self._on_death, self.wake)
        self._changing = asyncio.Lock()
        self.entry = Entry(settings, metrics, self.models, self.streams, first_stream)
        self._batch_ids = 0
        self.empty = asyncio.Event()
        self.empty.set()
        self._wake = asyncio.Event()
        self._round: asyncio.Task[None] | None = None
        metrics.keyframes_waiting.set_function(lambda: sum(len(s.ready()) for s in self.streams.values()))
        metrics.keyframe_load.set_function(lambda: max(seat.scheduler.turns.load for seat in self.seats))
        metrics.ring_bytes.set_function(lambda: sum(s.ring.shape.total_bytes for s in self.streams.values() if s.ring))
        metrics.streams_capacity.set_function(lambda: self.entry.capacity)
        metrics.ready.set_function(lambda: int(self.ready))

    # -- life

    async def start(self) -> None:
        """Start a worker at every seat. Raises StartError when one cannot serve the model."""
        await self.models.start()
        self._round = asyncio.create_task(self._run())
        self._round.add_done_callback(log_failure)

    async def stop(self) -> None:
        """Stop at once; the caller has drained what it wants to keep."""
        self.entry.draining = True
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)
        await self.models.stop()
        for stream in self.streams.values():
            stream.close_ring()

    @property
    def model(self) -> ModelInfo:
        """The default model: what it is."""
        return self.models.default.info

    @property
    def seats(self) -> list[Seat]:
        """All models'."""
        return self.models.seats

    @property
    def ready(self) -> bool:
        """Whether a worker has warmed up whose seat does not keep losing them, and we are not draining."""
        lost = self._round is not None and self._round.done()
        return self.models.default.ready and not self.entry.draining and not lost

    # -- models

    def load(self, name: str, source: WeightsSource, *, default: bool, restart: bool = False) -> ServedModel:
        """Begin to load another model beside those that serve; ``default``: it takes over once it can, and has live
        streams begin anew (``restart``) as ``make_default`` does.

        Raises InputError where a model that has not failed has this name.
        """
        return self.models.load(name, source, partial(self.make_default, restart=restart) if default else None)

    async def make_default(self, name: str, *, restart: bool = False) -> None:
        """Have streams that name no model served by this one, those too that run, where it sees and tells alike.

        A keyframe that a worker has goes on with that; its stream's next one goes to the new model. Where it does not
        see and tell alike streams stay where they are until they end; with ``restart`` live ones are told to begin
        anew, those of before too. Raises InputError.
        """
        async with self._changing:
            former, served = self.models.default, self.models.get(name)
            if served is former and not restart:
                return
            if served is not former:
                self.models.be_default(served)
            for other in self.models.all:  # those too that stayed where they were when it was not to be had
                if other is not served and not served.takes_streams_of(other):
                    self._leave_behind(other, served, restart=restart)
                elif other is not served:
                    await self._move_all(other, served)
        self._wake.set()

    def _leave_behind(self, served: ServedModel, default: ServedModel, *, restart: bool) -> None:
        stay = [stream for seat in served.seats for stream in _naming_none(seat)]
        anew = [stream for stream in stay if restart and stream.source != "upload" and not stream.ended]
        if not stay:
            return
        told = "%s has other labels, clips or pictures than %s: of %d streams there %d are to begin anew, others stay"
        log.warning(told, default.name, served.name, len(stay), len(anew))
        for stream in stay:
            if stream in anew:
                stream.begin_anew()
            else:
                stream.stay()

    async def _move_all(self, served: ServedModel, to: ServedModel) -> None:
        for seat in served.seats:
            for stream in _naming_none(seat):
                stream.bank = new_bank(to.info.config)  # queries of other weights mean nothing to it
                await self._move(stream, seat, to)

    # -- streams

    def add(self, stream: Stream) -> None:
        """Take up a stream, at the seat of its model with the most room, where it stays. Raises InputError."""
        self.models.get(stream.options.model).roomiest(stream).add(stream)
        self.streams[stream.id] = stream
        self.empty.clear()
        self.metrics.streams_active.labels(stream.source).inc()

    def remove(self, stream: Stream) -> None:
        """Forget a stream and give up its ring; whatever of it is still running is dropped when it comes back."""
        if self.streams.get(stream.id) is not stream:  # its number may have gone on to another one
            return
        del self.streams[stream.id]
        stream.cancel()
        self.models.seat_of(stream).remove(stream)
        stream.close_ring()
        if not self.streams:
            self.empty.set()
        self.entry.room.set()
        self.metrics.streams_active.labels(stream.source).dec()

    # -- what comes of a stream's source

    async def opened(self, stream: Stream, message: Opened) -> None:
        """A source's first frame: make the stream's ring and have workers read it. Raises MessageError; CapacityError
        where the system has no memory for it."""
        seat = self.models.seat_of(stream)
        model = self.models.at(seat).info
        longest = MAX_ASPECT * model.config.preprocess.short_side
        width, height = message.input_width, message.input_height
        if stream.ring is not None:
            raise MessageError("a source opened twice")
        if width > longest or height > longest:  # its word is not to be trusted
            raise MessageError(f"an input size of {width} x {height} px, where {longest} is the longest")
        stream.clip_size = model.padded(width, height)
        try:
            ring = create_ring(ring_shape(model.window, width, height))
            stream.open(message.width, message.height, ring, message.rate)
            await seat.attach(stream)
        except OSError as error:
            why = f"there is no memory for its frames ({error.strerror}); try again later"
            raise CapacityError("capacity", why) from None

    def frames(self, stream: Stream, message: Frames, now: float) -> None:
        """Frames arrived, kept or not. Raises MessageError before the source has opened, and if time goes back."""
        if stream.ring is None:
            raise MessageError("frames of a source that has not opened")
        if message.pts_us and message.pts_us[0] <= stream.newest_pts_us:
            raise MessageError(f"a frame at {message.pts_us[0]} µs after one at {stream.newest_pts_us} µs")
        if stream.ended:  # cancelled meanwhile: they bring no keyframes
            return
        for pts_us, received_at in zip(message.pts_us, message.at, strict=True):
            if skipped := stream.note_frame(pts_us, received_at, now):
                self.metrics.keyframes.labels(stream.source, "superseded").inc(skipped)
        self._wake.set()

    def sample(self, stream: Stream, message: SampleWritten) -> None:
        """A frame was written to the ring. Raises MessageError unless it is the next sample, or the newest anew."""
        if stream.ring is None:
            raise MessageError("a sample of a source that has not opened")
        number, newest = stream.summary.sampled, stream.newest
        if newest is None or message.number == number:
            follows = message.number == number < stream.write_limit()
            follows &= newest is None or (message.index >= newest.index and message.pts_us > newest.pts_us)
        else:
            follows = message.number == number - 1 and message.index == newest.index
            follows &= message.pts_us >= newest.pts_us and message.generation > newest.frame.generation
        if not follows:
            raise MessageError(f"{message} follows sample {number - 1}, {newest}")
        size, shape = message.size, stream.ring.shape
        if size is not None and (size.input_width > shape.width or size.input_height > shape.height):
            raise MessageError(f"{size} does not fit into its slot")
        stream.note_sample(message.number, message.generation, message.index, message.pts_us, size)
        self._wake.set()

    def ring_full(self, stream: Stream, number: int) -> None:
        """A source waits for room for sample ``number``: a live one gives up keyframes until there is some."""
        if stream.ring is None:
            raise MessageError("a ring is full that does not exist")
        stream.make_room(number)
        self._wake.set()

    def flush(self, stream: Stream, now: float) -> None:
        """Run what is pending with what is there."""
        stream.flush(now)
        self._wake.set()

    def end(self, stream: Stream, now: float) -> None:
        """No more frames will come; what is pending runs."""
        stream.end(now)
        self._wake.set()

    def cancel(self, stream: Stream) -> None:
        """The stream ends now."""
        stream.cancel()
        self._wake.set()

    def wake(self) -> None:
        """Something changed: look again at once."""
        self._wake.set()

    # -- the round

    async def _run(self) -> None:
        while True:
            wait_until = await self.step(time.monotonic())
            timeout = None if wait_until is None else max(0.0, wait_until - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            self._wake.clear()

    async def step(self, now: float) -> float | None:
        """Expire, and at each seat choose, lease, send. Returns when there is something to do next, if nothing else
        happens."""
        moments = [stream.expire(now) for stream in self.streams.values()]
        for seat in self.seats:
            moments.append(await self._hand_over(seat, now) if seat.worker is None else await self._serve(seat, now))
        return min([moment for moment in moments if moment is not None], default=None)

    async def _serve(self, seat: Seat, now: float) -> float | None:
        """One seat's part of a round."""
        worker = seat.worker
        if worker is None or not worker.alive:
            return None
        if worker.batch is not None:
            if now < worker.batch.stuck_at:
                return worker.batch.stuck_at
            worker.give_up("stuck")
            return None
        with_suspects = seat.spare is not None or not seat.spare_is_coming  # one that could step in
        choice = seat.scheduler.choose(seat.streams.values(), now, seat.cost, with_suspects=with_suspects)
        if choice.batch:
            message, banks = self._lease(seat, worker, choice.batch, now)
            with contextlib.suppress(ChannelError):  # its death is noticed by whoever listens
                await worker.channel.send(message, banks)
        return choice.wait_until

    async def _hand_over(self, seat: Seat, now: float) -> float | None:
        """The streams of a seat that stays without a worker go to the others. When to look again, if it is too soon."""
        if seat.empty_since is None or not seat.streams:
            return None
        served = self.models.at(seat)
        if all(other.worker is None for other in served.seats):
            return None
        if now < (at := seat.empty_since + MOVED_AFTER_S):
            return at
        log.error("seat %s has had no worker for %.0f s: its streams go to the others", seat.name, MOVED_AFTER_S)
        for stream in list(seat.streams.values()):
            await self._move(stream, seat, served)
        return None

    async def _move(self, stream: Stream, seat: Seat, to: ServedModel) -> None:
        """From a seat to one of this model; what a worker has of it already runs there to its end."""
        if stream.id not in seat.streams:  # it has ended while others moved
            return
        seat.remove(stream)
        other = to.roomiest(stream)
        other.add(stream)
        if stream.ring is not None:
            await other.attach(stream)

    def _lease(self, seat: Seat, worker: Worker, keyframes: tuple[Pending, ...], now: float) -> tuple[RunBatch, bytes]:
        """Lease keyframes for a worker: its order, and of those with a query bank the windows, queries, then mask."""
        self._batch_ids += 1
        jobs, banks, new_frames = list[JobOrder](), list[bytes](), 0
        for pending in keyframes:
            stream = pending.stream
            jobs.append(stream.take(pending, now))
            new_frames += seat.scheduler.turns.leased(pending, jobs[-1], seat.cost)
            if stream.bank is not None:
                banks += [part.tobytes() for part in stream.bank.window(second_of(pending.keyframe.pts_us))]
        since = seat.free_at if now - seat.free_at < AT_ONCE_S else now
        shapes = Shapes(keyframes[0].stream.clip_size, len(keyframes), new_frames)
        worker.batch = Batch(self._batch_ids, keyframes, now + worker.stuck_after_s(shapes), shapes, since)
        return RunBatch(self._batch_ids, tuple(jobs)), b"".join(banks)

    # -- what workers say

    def _on_message(self, seat: Seat, worker: Worker, received: Received) -> None:
        """A worker's word on its batch. Raises MessageError where it speaks of anything else."""
        message, batch = received.message, worker.batch
        if batch is None or getattr(message, "id", None) != batch.id:
            raise MessageError(f"{type(message).__name__} of a batch that it was not given")
        match message:
            case WindowsCopied():
                self._copied(batch, message)
            case BatchDone():
                self.finish(seat, worker, batch, message, received.payload)
            case BatchFailed(reason="error"):
                log.error("worker %s: a batch of %d failed: %s", worker.name, len(batch.keyframes), message.message)
                worker.batch = None
                self._fail(batch)
            case BatchFailed():
                log.error("worker %s: %s", worker.name, message.message)
                worker.give_up(message.reason)  # such a process is not trusted with another batch
        self._wake.set()

    def _copied(self, batch: Batch, message: WindowsCopied) -> None:
        """Frames are copied, their slots free; keyframes that found another frame in one are ready again."""
        if batch.stale is not None or any(place >= len(batch.keyframes) for place in message.stale):
            raise MessageError(f"{message} does not fit a batch of {len(batch.keyframes)}")
        batch.stale = set(message.stale)
        for place, pending in enumerate(batch.keyframes):
            if place in batch.stale:
                pending.stream.release(pending, blame=False)
            else:
                pending.stream.copied(pending)

    def finish(self, seat: Seat, worker: Worker, batch: Batch, done: BatchDone, payload: bytes) -> None:
        """A batch is back: keep what it leaves for its streams, settle its keyframes.

        Raises MessageError if parts miss.
        """
        ran = [(p, found) for p, found in zip(batch.keyframes, done.actors, strict=False) if found is not None]
        missing = {place for place, found in enumerate(done.actors) if found is None}
        if len(done.actors) != len(batch.keyframes) or missing != batch.stale:
            raise MessageError(f"{len(done.actors)} results, {len(missing)} of them none, do not fit its batch")
        keyframes, people = [pending for pending, _ in ran], [len(actors) for _, actors in ran]
        labels, dim = tuple([label.id for label in worker.model.labels]), worker.model.config.decoder.dim
        left = left_of(keyframes, people, labels, dim, payload)
        for pending, each in zip(keyframes, left, strict=True):
            if each.entry and pending.stream.id in seat.streams:  # else it has gone on with other weights meanwhile
                pending.stream.remember(pending, each.entry)
        worker.batch, now, name = None, time.monotonic(), self.models.at(seat).name
        self._learn(seat, batch, done, now, compiled=worker.compiles(batch.shapes))
        if not batch.stale:  # else it ran in other shapes
            worker.ran(batch.shapes)
        self.metrics.batch_done(worker.name, done, now, [(pending.frame_at, pending.ready_at) for pending, _ in ran])
        for (pending, actors), each in zip(ran, left, strict=True):
            pending.done_at = now
            result = result_of(pending, actors, now, done.seconds.postprocess, name)
            pending.stream.settle(pending, "ok", result, each.scores, each.looks)

    def _learn(self, seat: Seat, batch: Batch, done: BatchDone, now: float, *, compiled: bool) -> None:
        """What keyframes cost, from a batch that ran whole without compiling; while much is to do capacity follows."""
        seat.free_at = now
        if seat.cost is None or batch.stale or compiled:
            return
        worked_s = done.seconds.preprocess + done.seconds.inference + done.seconds.postprocess
        seat.cost.observe(len(batch.keyframes), batch.shapes.new_frames, worked_s, now - batch.since - worked_s)
        seat.learn(busy=max(seat.scheduler.turns.load, seat.load()) > BUSY)

    def _fail(self, batch: Batch) -> None:
        """A batch did not run, and its worker goes on."""
        for pending in batch.running:
            if len(batch.keyframes) > 1:  # together they were too much, or one of them is to blame: each alone
                pending.stream.release(pending)
            else:
                pending.stream.settle(pending, "error")

    def _on_death(self, seat: Seat, _: Worker, batch: Batch | None) -> None:
        """A worker has died: what it was busy with runs again, alone, on the next one."""
        seat.scheduler.turns.forget_frames()
        if seat.worker is None and seat.empty_since is None:
            seat.empty_since = time.monotonic()
        for pending in batch.running if batch else ():
            pending.stream.release(pending)


def _naming_none(seat: Seat) -> list[Stream]:
    """A seat's streams that go with the default model."""
    return [stream for stream in seat.streams.values() if stream.options.model is None]


def log_failure(round_: asyncio.Task[None]) -> None:
    """The rounds never end by themselves: without them nothing runs, and ``ready`` says so."""
    if not round_.cancelled() and (error := round_.exception()) is not None:
        log.critical("the engine's round has failed: restart the service", exc_info=error)


def result_of(pending: Pending, actors: tuple[Actor, ...], now: float, postprocess_s: float, model: str) -> Result:
    """A keyframe's result, but for what is known only when it is sent. Its values are ours and not checked again."""
    keyframe = pending.keyframe
    timings = Timings.model_construct(
        lookahead=(pending.frame_at - pending.seen_at) * 1000,
        decode=(pending.ready_at - pending.frame_at) * 1000,
        queue=(pending.started_at - pending.ready_at) * 1000,
        inference=(now - pending.started_at - postprocess_s) * 1000,
        postprocess=postprocess_s * 1000,
    )
    return Result.model_construct(
        seq=keyframe.seq,
        pts_us=keyframe.pts_us,
        received_at_us=time.time_ns() // 1000 - round((time.monotonic() - pending.seen_at) * 1e6),
        sent_at_us=0,
        warming=pending.warming,
        timings_ms=timings,
        dropped_since_last=0,
        frame=FrameSize.model_construct(width=pending.width, height=pending.height),
        actors=actors,
        model=model,
    )
