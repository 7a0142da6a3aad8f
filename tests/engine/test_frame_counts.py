"""Frames, counted where things happen: received = sampled + not sampled + dropped, after every cut."""

from __future__ import annotations

import random

import pytest
from test_stream import Camera

from stmixer.service.engine.frame_counts import FrameCounts
from stmixer.service.engine.stream import Policy, Stream
from stmixer.service.ipc.messages import Frames, FramesDropped, MessageError
from stmixer.service.metrics import Metrics


class Decoder:
    """What a decoder tells, in its order: a sample before its frame; a frame is decided once the next one is there."""

    def __init__(self, stream: Stream, counts: FrameCounts, chance: random.Random) -> None:
        self.stream, self.counts, self.chance = stream, counts, chance
        self.open_frame = False
        self.pts_us = stream.newest_pts_us
        self.number = stream.summary.sampled - 1

    def frame(self, *, at_once: bool = False) -> None:
        """One picture, kept or not; ``at_once``: written as it comes, for a live keyframe."""
        self.pts_us += 33_333
        not_sampled = 0
        if self.open_frame:
            what = self.chance.choice(["write", "pass", "corrupt"])
            if what == "write":
                self.write()
            elif what == "corrupt":
                self.counts.dropped_by_decoder(FramesDropped("corrupt", 1, told=True))
            else:
                not_sampled = 1
        self.open_frame = not at_once
        if at_once:
            self.write()
        self.counts.told(Frames((self.pts_us,), (self.pts_us / 1e6,), not_sampled))
        self.stream.note_frame(self.pts_us, 0.0, 0.0)

    def write(self) -> None:
        self.number += 1
        self.stream.note_sample(self.number, self.number + 1, self.stream.schedule.grid.first_served(self.pts_us), 0)


def whole(stream: Stream, metrics: Metrics) -> None:
    summary = stream.snapshot()
    assert summary.received == summary.sampled + summary.not_sampled + sum(summary.dropped.values())
    value = metrics.registry.get_sample_value
    assert value("stmixer_frames_received_total", {"source": "ws"}) == summary.received
    for reason, count in summary.dropped.items():
        assert value("stmixer_frames_dropped_total", {"source": "ws", "reason": reason}) == count


def scene(policy: Policy = "latest") -> tuple[Stream, FrameCounts, Metrics]:
    stream, metrics = Camera(policy, lookahead_ms=0.0).stream, Metrics()
    return stream, FrameCounts(stream, metrics), metrics


@pytest.mark.parametrize("seed", range(20))
def test_pictures_add_up_over_dead_decoders_and_a_cut(seed: int) -> None:
    chance = random.Random(seed)
    stream, counts, metrics = scene()
    counts.at_socket = True
    waiting = 0
    for _ in range(chance.randrange(4)):
        decoder = Decoder(stream, counts, chance)
        for _ in range(chance.randrange(12)):
            counts.received()
            waiting += 1
            if chance.random() < 0.3:
                counts.dropped("mailbox")
                waiting -= 1
            elif chance.random() < 0.8:
                counts.sent()
                waiting -= 1
                match chance.randrange(4):
                    case 0:
                        counts.dropped_by_decoder(FramesDropped("out_of_order", 1, told=False))
                    case 1:
                        break  # it dies with it
                    case _:
                        decoder.frame(at_once=chance.random() < 0.3)
        counts.lose_pictures()
        summary = stream.snapshot()
        kept = summary.sampled + summary.not_sampled + sum(summary.dropped.values())
        assert summary.received - kept == waiting, "what the decoder never got is not lost"
    counts.cut("cancelled")
    whole(stream, metrics)
    assert stream.summary.dropped.get("cancelled", 0) == waiting
    counts.cut("cancelled")
    whole(stream, metrics)


@pytest.mark.parametrize("seed", range(20))
def test_a_containers_frames_add_up_after_a_cut(seed: int) -> None:
    chance = random.Random(seed)
    stream, counts, metrics = scene()
    decoder = Decoder(stream, counts, chance)
    for _ in range(chance.randrange(20)):
        decoder.frame(at_once=chance.random() < 0.3)
        if chance.random() < 0.2:
            counts.dropped_by_decoder(FramesDropped("corrupt", 2, told=False))
    if untold := seed % 3:  # written, and nobody told of the frame
        for _ in range(untold):
            decoder.write()
    counts.cut("decoder")
    whole(stream, metrics)
    counts.cut("cancelled")
    whole(stream, metrics)
    assert "cancelled" not in stream.summary.dropped


def test_each_loss_has_its_own_reason_and_number() -> None:
    stream, counts, metrics = scene()
    counts.at_socket = True
    for _ in range(10):
        counts.received()
    counts.dropped("mailbox", 2)
    for _ in range(5):
        counts.sent()
    counts.told(Frames((0, 33_333, 66_667), (0.0, 0.0, 0.0), 1))
    stream.note_frame(66_667, 0.0, 0.0)
    stream.note_sample(0, 1, 0, 0)
    counts.lose_pictures()  # two it was sent and one of the told that it had not decided on
    assert stream.summary.dropped == {"mailbox": 2, "decoder": 3}
    counts.cut("cancelled")
    assert stream.summary.dropped == {"mailbox": 2, "decoder": 3, "cancelled": 3}
    whole(stream, metrics)


def test_progress_says_where_the_next_decoder_goes_on() -> None:
    stream, counts, _ = scene()
    before = counts.progress()
    assert (before.frames, before.pts_us, before.origin, before.newest) == (0, -1, None, None)
    stream.note_sample(0, 5, 0, 0)
    counts.told(Frames((0, 33_333), (10.2, 10.1), 1))
    stream.note_frame(0, 0.0, 0.0)
    stream.note_frame(33_333, 0.0, 0.0)
    counts.dropped_by_decoder(FramesDropped("corrupt", 3, told=False))
    progress = counts.progress()
    assert (progress.sampled, progress.not_sampled, progress.frames) == (1, 1, 2)
    assert progress.dropped == {"corrupt": 3}
    assert progress.pts_us == 33_333
    assert progress.origin == pytest.approx(10.1 - 0.033333)
    assert progress.newest is not None
    assert (progress.newest.index, progress.newest.generation) == (0, 5)
    assert stream.summary.received == 5


@pytest.mark.parametrize("rate", [0.99, 1.0, 1.01])
def test_a_clock_that_drifts_is_no_pause(rate: float) -> None:
    """A camera's clock that loses 36 s in an hour: where it comes back after 5 s, 5 s have passed, not 41."""
    stream, counts, _ = scene()
    pts_us, at = 0, 0.0
    for number in range(3601):
        pts_us, at = round(number * rate * 1e6), 1000.0 + number
        late_s = 0.3 if number % 7 else 0.0  # on its way; the fastest counts
        counts.told(Frames((pts_us,), (at + late_s,), 1))
        stream.note_frame(pts_us, at, at)
    origin = counts.progress().origin
    assert origin is not None
    assert at + 5 - origin == pytest.approx(pts_us / 1e6 + 5, abs=0.25)


def test_more_pictures_not_kept_than_were_sent_are_refused() -> None:
    stream, counts, metrics = scene()
    counts.at_socket = True
    counts.received()
    counts.sent()
    with pytest.raises(MessageError):
        counts.told(Frames((0,), (0.0,), 2))
    counts.cut("decoder")
    assert stream.summary.dropped == {"decoder": 1}
    whole(stream, metrics)
