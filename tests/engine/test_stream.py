"""A stream's life on a fake clock: when keyframes are due, which win, what is leased, and that the counts add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from stmixer.media.grid import FrameSampler
from stmixer.model.clip import window
from stmixer.model.query_bank import OnlineBank
from stmixer.model.smoothing import ActionScores
from stmixer.model.zoo import variant
from stmixer.service.engine.keyframes import KeyframeSchedule
from stmixer.service.engine.stream import MAX_UNDELIVERED, Pending, Policy, Stream
from stmixer.service.ipc.ring import RingMemory, RingShape
from stmixer.service.schemas import Action, Actor, DetectOptions, FrameSize, Result, Timings

WINDOW = window(variant("tiny").clip)
CAPACITY = WINDOW.span + 32


class Camera:
    """Feeds a stream as a decoder does: samples first, then the frame itself, writing only below the limit.

    Live, the newest frame is written at once where a keyframe's look-ahead ends with it.
    """

    def __init__(
        self,
        policy: Policy,
        hz: float = 1.0,
        lookahead_ms: float | None = None,
        deadline_s: float = 1.0,
        *,
        opened: bool = True,
    ):
        schedule = KeyframeSchedule(WINDOW, hz, lookahead_ms)
        options = DetectOptions(keyframe_hz=hz, lookahead_ms=lookahead_ms)
        self.delivered: list[Pending] = []
        self.stream = Stream(1, "ws", policy, schedule, options, deadline_s, self.delivered.append)
        if opened:
            self.stream.open(640, 480, RingMemory(-1, RingShape(170, 128, CAPACITY)), 30.0)
        self.sampler: FrameSampler[int] = FrameSampler(schedule.grid)
        self.ring: dict[int, int] = {}  # slot -> generation
        self.now = 0.0
        self._number, self._written = -1, (-1, -1)
        self._frame = count()
        self._instant = 0

    def send(self, pts_us: int, now: float | None = None) -> bool:
        """One frame; False if its predecessor found no room (the frame is not taken then)."""
        self.now = pts_us / 1e6 if now is None else now
        settled = self.sampler.feed(pts_us, next(self._frame))
        if settled is not None and not self.write(settled.index, settled.pts_us):
            return False
        newest = self.sampler.newest
        assert newest is not None
        schedule = self.stream.schedule
        if self.stream.policy == "latest" and pts_us >= schedule.keyframe(self._instant).due_pts_us:
            self._instant += 1
            if not self.write(newest.index, newest.pts_us):
                return False
        self.stream.note_frame(pts_us, self.now, self.now)
        self.stream.summary.received += 1
        return True

    def write(self, index: int, pts_us: int) -> bool:
        if self._written[1] == pts_us:
            return True
        number = self._number + (self._written[0] != index)
        if number >= self.stream.write_limit():
            self.stream.make_room(number)
            if number >= self.stream.write_limit():
                return False
        self._number, self._written = number, (index, pts_us)
        self.ring[number % CAPACITY] = number + 1
        self.stream.note_sample(number, number + 1, index, pts_us)
        return True

    def run(self, seconds: float, fps: float = 30.0) -> Iterator[int]:
        for i in range(int(seconds * fps)):
            assert self.send(round(i * 1e6 / fps))
            yield i


def outcomes(camera: Camera) -> list[tuple[int, str | None]]:
    return [(p.keyframe.seq, p.outcome) for p in camera.delivered]


def conserved(stream: Stream) -> bool:
    s = stream.snapshot()
    settled = s.ok + s.superseded + s.deadline + s.error + s.worker_lost + s.cancelled
    return s.keyframes_due == settled + s.pending


def test_a_file_keyframe_is_ready_when_no_later_frame_can_change_it() -> None:
    camera = Camera("all")
    ready_at = {}
    for _ in camera.run(3.0):
        for pending in camera.stream.ready():
            ready_at.setdefault(pending.keyframe.seq, camera.now)
    # keyframe 0 wants up to 16 raw frames after it, 0.533 s; the frame after that settles it
    assert ready_at[0] == pytest.approx(17 / 30, abs=2 / 30)
    assert ready_at[1] - ready_at[0] == pytest.approx(1.0, abs=2 / 30)


@pytest.mark.parametrize("lookahead_ms", [0.0, 200.0, None])
def test_a_live_keyframe_is_ready_with_the_first_frame_at_its_lookahead(lookahead_ms: float | None) -> None:
    camera = Camera("latest", hz=2.0, lookahead_ms=lookahead_ms)
    after = camera.stream.schedule.lookahead_ms / 1000
    seen = {}
    for _ in camera.run(4.0):
        for pending in camera.stream.ready():
            if seen.setdefault(pending.keyframe.seq, camera.now) == camera.now:
                assert camera.now >= pending.keyframe.pts_us / 1e6 + after - 1e-6
                assert camera.now <= pending.keyframe.pts_us / 1e6 + after + 1 / 30 + 1e-6
    assert sorted(seen) == list(range(len(seen)))
    assert len(seen) >= 6


def test_newest_wins_and_the_loser_is_counted() -> None:
    camera = Camera("latest", lookahead_ms=0.0)
    list(camera.run(3.5))
    assert [p.keyframe.seq for p in camera.stream.ready()] == [3]
    assert outcomes(camera) == [(0, "superseded"), (1, "superseded"), (2, "superseded")]
    assert conserved(camera.stream)


def test_what_runs_is_not_superseded_and_results_stay_in_order() -> None:
    camera = Camera("latest", lookahead_ms=0.0)
    taken: list[Pending] = []
    for _ in camera.run(2.2):
        for pending in camera.stream.ready():
            camera.stream.take(pending, camera.now)
            taken.append(pending)
    assert [p.keyframe.seq for p in taken] == [0, 1, 2]
    for pending in reversed(taken):
        camera.stream.settle(pending, "ok")
    assert outcomes(camera) == [(0, "ok"), (1, "ok"), (2, "ok")]


def test_a_live_keyframe_expires_and_a_file_keyframe_does_not() -> None:
    live, file = Camera("latest", lookahead_ms=0.0, deadline_s=1.0), Camera("all")
    for camera in (live, file):
        list(camera.run(0.8))
        camera.stream.expire(camera.now + 100)
    assert outcomes(live) == [(0, "deadline")]
    assert outcomes(file) == []


def test_the_deadline_counts_from_when_the_lookahead_should_have_come() -> None:
    camera = Camera("latest", deadline_s=1.0)
    assert camera.send(0)
    due = camera.stream.schedule.lookahead_ms / 1000 + 1.0
    assert camera.stream.expire(due - 0.01) == pytest.approx(due)
    assert outcomes(camera) == []
    assert camera.stream.expire(due) is None
    assert outcomes(camera) == [(0, "deadline")]


def test_a_file_waits_for_room_and_loses_nothing() -> None:
    camera = Camera("all")
    sent = 0
    while camera.send(round(sent * 1e6 / 30)):
        sent += 1
        assert sent < 10_000
    assert camera.stream.summary.superseded == 0
    pending = camera.stream.ready()[0]
    assert pending.keyframe.seq == 0
    limit = camera.stream.write_limit()
    camera.stream.take(pending, camera.now)
    camera.stream.copied(pending)
    assert camera.stream.write_limit() == limit  # kept for a rerun until it is settled
    camera.stream.settle(pending, "ok")
    assert camera.stream.write_limit() >= limit


def test_a_live_stream_reclaims_what_waits_but_never_what_is_being_copied() -> None:
    camera = Camera("latest", hz=1.0, lookahead_ms=0.0)
    list(camera.run(0.2))
    copying = camera.stream.ready()[0]
    lease = camera.stream.take(copying, camera.now)
    held = {slot: camera.ring.get(slot) for slot in lease.slots}
    sent = 6
    while camera.send(round(sent * 1e6 / 30)) and sent < 10_000:
        sent += 1
    assert sent < 10_000, "the writer should have been held up by the copy"
    assert {slot: camera.ring.get(slot) for slot in lease.slots} == held
    camera.stream.copied(copying)
    camera.stream.make_room(camera.stream.write_limit())
    assert copying.reclaimed
    camera.stream.release(copying)  # its worker died, newer frames lie where its own were
    assert (0, "superseded") in outcomes(camera)


def test_a_lease_names_the_frames_of_the_window() -> None:
    camera = Camera("all", hz=1.0)
    for i in camera.run(3.0):
        if i > 80:
            break
    second = next(p for p in camera.stream.ready() if p.keyframe.seq == 1)
    lease = camera.stream.take(second, camera.now)
    # grid samples are every second frame of 30 fps, so sample n is frame 2n; the window wants grid 15 + offset
    wanted = [max(0, 15 + offset) for offset in WINDOW.offsets]
    assert [g - 1 for g in lease.generations] == wanted
    assert lease.slots == tuple(n % CAPACITY for n in wanted)
    assert second.warming  # 15 - 16 < 0


def test_a_keyframe_runs_again_twice_and_is_then_lost() -> None:
    camera = Camera("all")
    list(camera.run(1.0))
    pending = camera.stream.ready()[0]
    for attempt in (1, 2):
        camera.stream.take(pending, camera.now)
        camera.stream.release(pending)
        assert pending.state == "ready"
        assert pending.attempts == attempt
    camera.stream.take(pending, camera.now)
    camera.stream.release(pending)
    assert outcomes(camera) == [(0, "worker_lost")]


def test_a_slot_written_anew_is_nobodys_fault() -> None:
    camera = Camera("all")
    list(camera.run(1.0))
    pending = camera.stream.ready()[0]
    for _ in range(10):
        camera.stream.take(pending, camera.now)
        camera.stream.release(pending, blame=False)
    assert pending.state == "ready"
    assert pending.attempts == 0


def test_the_end_makes_everything_ready_and_cancel_settles_it() -> None:
    camera = Camera("all", hz=4.0)
    list(camera.run(2.0))
    before = len(camera.stream.ready())
    camera.stream.end(camera.now)
    assert len(camera.stream.ready()) > before
    assert not camera.stream.finished
    assert camera.stream.snapshot().pending == 8
    camera.stream.cancel()
    assert camera.stream.finished
    assert camera.stream.summary.cancelled == 8
    assert conserved(camera.stream)


def test_a_slow_subscriber_holds_up_its_own_stream_only() -> None:
    camera = Camera("all")
    list(camera.run(1.0))
    assert camera.stream.ready()
    camera.stream.undelivered = MAX_UNDELIVERED
    assert not camera.stream.ready()


def test_late_news_of_a_settled_keyframe_is_ignored() -> None:
    camera = Camera("all")
    list(camera.run(1.0))
    pending = camera.stream.ready()[0]
    camera.stream.take(pending, camera.now)
    camera.stream.cancel()
    camera.stream.copied(pending)
    camera.stream.release(pending)
    camera.stream.settle(pending, "ok")
    assert outcomes(camera) == [(0, "cancelled")]
    assert camera.stream.summary.ok == 0


def test_memory_is_fixed_however_long_the_stream() -> None:
    camera = Camera("latest", hz=4.0, lookahead_ms=0.0)
    for i in range(30 * 600):
        assert camera.send(round(i * 1e6 / 30))
        for pending in camera.stream.ready():
            camera.stream.take(pending, camera.now)
            camera.stream.copied(pending)
            camera.stream.settle(pending, "ok")
    assert len(camera.ring) <= CAPACITY
    assert len(camera.stream._timeline) <= CAPACITY  # type: ignore[arg-type]
    assert camera.stream.summary.ok == camera.stream.summary.keyframes_due


# -- the bank of an online long-term model


def banked(policy: Policy) -> Camera:
    camera = Camera(policy, hz=2.0)
    camera.stream.bank = OnlineBank(3, 1, 2)
    return camera


def test_one_keyframe_of_a_stream_with_a_bank_is_in_flight() -> None:
    camera = banked("all")
    for _ in camera.run(3):
        pass
    stream = camera.stream
    first = stream.ready()
    assert [p.keyframe.seq for p in first] == [0], "though more are complete"
    stream.take(first[0], 3.0)
    assert stream.ready() == []
    stream.copied(first[0])
    assert stream.ready() == []
    stream.settle(first[0], "ok")
    assert [p.keyframe.seq for p in stream.ready()] == [1]


def test_the_bank_outlives_a_worker() -> None:
    camera = banked("all")
    for _ in camera.run(3):
        pass
    stream = camera.stream
    (first,) = stream.ready()
    stream.take(first, 3.0)
    stream.remember(first, np.array([[1, 2]], np.float16).tobytes())
    stream.settle(first, "ok")
    (second,) = stream.ready()
    stream.take(second, 3.1)
    before = stream.bank.window(1)
    stream.release(second)  # its worker died
    assert [p.keyframe.seq for p in stream.ready()] == [1]
    after = stream.bank.window(1)
    assert np.array_equal(before[0], after[0])
    assert after[0].tolist() == [[0, 0], [0, 0], [1, 2]]
    assert after[1].tolist() == [False, False, True]


def test_a_cancelled_keyframe_leaves_no_entry() -> None:
    camera = banked("all")
    for _ in camera.run(2):
        pass
    stream = camera.stream
    (first,) = stream.ready()
    stream.take(first, 2.0)
    stream.cancel()
    stream.remember(first, np.array([[1, 2]], np.float16).tobytes())
    assert not stream.bank.window(1)[1].any()


# -- who is who


def found(pending: Pending, *lefts: float) -> Result:
    """A result with people of 40 by 100 px."""
    actors = tuple(Actor((x, 200, x + 40, 300), (x / 640, 0.4, (x + 40) / 640, 0.6), 0.9, ()) for x in lefts)
    timings = Timings(lookahead=0, decode=0, queue=0, inference=0, postprocess=0)
    return Result(
        seq=pending.keyframe.seq, pts_us=pending.keyframe.pts_us, received_at_us=0, sent_at_us=0, warming=False,
        timings_ms=timings, dropped_since_last=0, frame=FrameSize(width=640, height=480), actors=actors,
    )  # fmt: skip


def test_people_are_numbered_in_the_order_of_keyframes_whatever_order_they_are_done_in() -> None:
    camera = Camera("all", hz=4)
    list(camera.run(2.5))
    people = [(100, 400), (115, 390), (), (140,), (150, 600), ()]
    ready = camera.stream.ready()[: len(people)]
    for pending in ready:
        camera.stream.take(pending, camera.now)
    camera.stream.release(ready[3])  # its worker died
    camera.stream.take(ready[3], camera.now)
    for k in (1, 0, 4, 3, 2, 5):
        camera.stream.settle(ready[k], "ok", found(ready[k], *people[k]))
    done = [pending.result for pending in camera.delivered]
    assert [result and [actor.track_id for actor in result.actors] for result in done] == [
        [1, 2], [1, 2], [], [1], [1, 3], [],
    ]  # fmt: skip
    changes = [[(c.track_id, c.state, c.seq, c.pts_us) for c in pending.tracks] for pending in camera.delivered]
    assert changes == [[(1, "start", 0, 0), (2, "start", 0, 0)], [], [], [], [(3, "start", 4, 1_000_000)], []]


def test_what_people_do_is_smoothed_over_all_scores_in_the_order_of_keyframes() -> None:
    """Of three actions results show one (``top_k``), each time another; whose worker died, and which was done first,
    changes nothing."""
    labels, order = (4, 8, 15), (0, 2, 1, 3)
    scores = [(0.6, 0.3, 0.4), (0.4, 0.55, 0.45), (0.3, 0.85, 0.6), (0.6, 0.2, 0.2)]

    def smoothed(order: tuple[int, ...]) -> list[float | None]:
        camera = Camera("all", hz=4)
        list(camera.run(2.0))
        ready = camera.stream.ready()[: len(scores)]
        for pending in ready:
            camera.stream.take(pending, camera.now)
        camera.stream.release(ready[2])
        camera.stream.take(ready[2], camera.now)
        for k in order:
            result, best = found(ready[k], 100), int(np.argmax(scores[k]))
            shown = (Action(labels[best], "best", scores[k][best]),)
            result.actors = (replace(result.actors[0], actions=shown),)
            camera.stream.settle(ready[k], "ok", result, ActionScores(labels, np.array([scores[k]])))
        return [p.result.actors[0].actions[0].smoothed for p in camera.delivered if p.result]

    seen = smoothed(order)
    assert seen == smoothed((0, 1, 2, 3))
    assert seen[0] == pytest.approx(0.6)
    assert seen[1] is not None
    assert seen[2] is not None
    assert 0.3 < seen[1] < 0.55, "it was 0.3 before, which nobody was shown"
    assert seen[1] < 0.5 < seen[2] < 0.85


@pytest.mark.parametrize(("model", "numbers"), [("same", [1, 2]), ("another", [2, 1])])
def test_people_are_told_apart_by_their_queries_but_not_by_another_models(model: str, numbers: list[int]) -> None:
    camera, looks = Camera("all", hz=1), np.array([(1, 0), (0, 1)], np.float16)
    list(camera.run(3.5))
    first, second = camera.stream.ready()[:2]
    for pending, people, name in ((first, (100, 125), "same"), (second, (122, 103), model)):
        camera.stream.take(pending, camera.now)
        result = found(pending, *people).model_copy(update={"model": name})
        camera.stream.settle(pending, "ok", result, None, looks)
    results = [pending.result for pending in camera.delivered[:2]]
    assert [[a.track_id for a in result.actors] for result in results if result] == [[1, 2], numbers]


def test_the_longest_absence_is_the_streams_own() -> None:
    camera = Camera("all", hz=2)
    camera.stream.options = DetectOptions(keyframe_hz=2, track_max_gap_s=0.4)
    list(camera.run(2.7))
    for pending, people in zip(camera.stream.ready(), [(100,), (), (100,), (100,)], strict=False):
        camera.stream.take(pending, camera.now)
        camera.stream.settle(pending, "ok", found(pending, *people))
    results = [pending.result for pending in camera.delivered]
    assert [[a.track_id for a in result.actors] for result in results if result] == [[1], [], [2], [2]]
    assert [(c.track_id, c.state, c.seq) for p in camera.delivered for c in p.tracks] == [
        (1, "start", 0), (1, "end", 2), (2, "start", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(("hz", "number"), [(0.1, 1), (2, 2)])
def test_rare_keyframes_follow_each_other_and_pauses_do_not(hz: float, number: int) -> None:
    """Of a keyframe in 10 s the next one is no absence; of two a second twenty that never ran are."""
    camera = Camera("latest", hz=hz)
    for seq in (0, round(10 * hz)):
        pending = Pending(camera.stream.schedule.keyframe(seq), 0.0, camera.stream)
        camera.stream._in_order.append(pending)
        camera.stream.settle(pending, "ok", found(pending, 100))
    second = camera.delivered[1].result
    assert second is not None
    assert [actor.track_id for actor in second.actors] == [number]
