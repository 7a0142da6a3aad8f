"""Batches across streams: shape, size, patience, fairness."""

from __future__ import annotations

import pytest
from test_stream import Camera

from stmixer.service.engine.scheduler import Scheduler
from stmixer.service.engine.stream import Pending, Stream

WIDE, TALL = (256, 128), (128, 256)


def waiting(n: int, hz: float = 4.0, policy: str = "all") -> list[Stream]:
    streams = []
    for i in range(n):
        camera = Camera(policy, hz=hz)  # type: ignore[arg-type]
        list(camera.run(2.0))
        camera.stream.id = i
        streams.append(camera.stream)
    return streams


def sized(*streams: tuple[Stream, tuple[int, int]]) -> list[Stream]:
    for stream, size in streams:
        stream.clip_size = size
    return [stream for stream, _ in streams]


def ids(batch: tuple[Pending, ...]) -> list[int]:
    return [p.stream.id for p in batch]


def test_nothing_due_nothing_chosen() -> None:
    assert Scheduler(8, 0.01).choose([], 0.0).batch == ()


def test_a_full_batch_does_not_wait_a_small_one_does() -> None:
    (stream,) = waiting(1, hz=1.0)
    ready_at = stream.ready()[0].ready_at
    patient = Scheduler(8, 0.5)
    early = patient.choose(sized((stream, WIDE)), ready_at + 0.1)
    assert early.batch == ()
    assert early.wait_until == pytest.approx(ready_at + 0.5)
    assert list(patient.choose(sized((stream, WIDE)), ready_at + 0.5).batch) == stream.ready()
    assert len(Scheduler(1, 0.5).choose(sized((stream, WIDE)), ready_at).batch) == 1


def test_one_batch_has_one_shape() -> None:
    a, b, c = waiting(3)
    batch = Scheduler(8, 0.0).choose(sized((a, WIDE), (b, TALL), (c, WIDE)), 10.0).batch
    assert set(ids(batch)) == {0, 2}


def test_streams_take_turns_within_a_batch() -> None:
    streams = waiting(3)
    batch = Scheduler(5, 0.0).choose(sized(*[(s, WIDE) for s in streams]), 10.0).batch
    assert ids(batch) == [0, 1, 2, 0, 1]
    for stream in streams:
        seqs = [p.keyframe.seq for p in batch if p.stream is stream]
        assert seqs == sorted(seqs)


def test_no_stream_starves_whatever_its_shape() -> None:
    streams = waiting(5)
    shapes = [WIDE, WIDE, TALL, WIDE, TALL]
    scheduler, served = Scheduler(2, 0.0), []
    for turn in range(10):
        batch = scheduler.choose(sized(*zip(streams, shapes, strict=True)), 10.0 + turn).batch
        served += ids(batch)
        for pending in batch:
            pending.stream.take(pending, 10.0 + turn)
            pending.stream.copied(pending)
            pending.stream.settle(pending, "ok")
        if set(served) == set(range(5)):
            break
    assert set(served) == set(range(5))
    assert turn <= 3


def test_a_keyframe_that_died_with_its_batch_runs_alone() -> None:
    a, b = waiting(2)
    suspect = a.ready()[0]
    a.take(suspect, 1.0)
    a.release(suspect)
    a.served_at = b.served_at = 0.0
    assert Scheduler(8, 1.0).choose(sized((a, WIDE), (b, WIDE)), 1.0).batch == (suspect,)
    b.served_at = -1.0  # b's turn: the suspect is left out of its company
    batch = Scheduler(8, 0.0).choose(sized((a, WIDE), (b, WIDE)), 10.0).batch
    assert suspect not in batch
    assert batch


def test_a_suspect_waits_for_a_spare_and_nobody_waits_for_it() -> None:
    a, b = waiting(2)
    suspect, second = a.ready()[:2]
    a.take(suspect, 1.0)
    a.release(suspect)
    a.served_at = b.served_at = 0.0
    batch = Scheduler(8, 0.0).choose(sized((a, WIDE), (b, WIDE)), 10.0, with_suspects=False).batch
    assert suspect not in batch
    assert second in batch
    assert set(ids(batch)) == {0, 1}
    only = sized((a, WIDE))
    for other in [p for p in a.ready() if not p.attempts]:
        a.settle(other, "ok")
    assert Scheduler(8, 0.0).choose(only, 10.0, with_suspects=False).batch == ()
    assert Scheduler(8, 0.0).choose(only, 10.0).batch == (suspect,)
