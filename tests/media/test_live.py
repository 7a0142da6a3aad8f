"""A live source: a pipe that cannot be sought, waits, and must give its first pictures before its last bytes."""

import os
import threading

import pytest

from stmixer.media.decode import Limits, VideoReader

LIVE = {
    "webm": {
        "container": "webm",
        "codec": "libvpx",
        "options": {"live": "1", "cluster_time_limit": "0", "flush_packets": "1"},
    },
    "webm vp9": {
        "container": "webm",
        "codec": "libvpx-vp9",
        "options": {"live": "1", "cluster_time_limit": "0", "flush_packets": "1"},
    },
    "mpegts": {"container": "mpegts", "codec": "libx264", "options": {"flush_packets": "1"}},
}


@pytest.mark.parametrize("kind", LIVE)
@pytest.mark.parametrize("chunk", [700, 1 << 16])
def test_the_first_frame_comes_before_the_last_bytes(make_video, kind, chunk):
    """The sender holds all beyond the first ten frames back until the first one has arrived."""
    offsets: list[int] = []
    data = make_video(90, 320, 240, offsets=offsets, **LIVE[kind])
    arrived = threading.Event()
    in_time = []
    receiving, sending = os.pipe()

    def send():
        with os.fdopen(sending, "wb", buffering=0) as pipe:
            for at in range(0, offsets[10], chunk):
                pipe.write(data[at : min(at + chunk, offsets[10])])
            in_time.append(arrived.wait(10))
            pipe.write(data[offsets[10] :])

    sender = threading.Thread(target=send)
    sender.start()
    with (
        os.fdopen(receiving, "rb", buffering=0) as pipe,
        VideoReader(pipe, limits=Limits(), low_latency=True) as reader,
    ):
        frames = iter(reader)
        first = next(frames)
        arrived.set()
        times = [first.pts_us, *(f.pts_us for f in frames)]
    sender.join()
    assert in_time == [True]
    assert len(times) == 90
    assert times == sorted(set(times))
    assert times[-1] == pytest.approx(89 / 30 * 1e6, abs=1000)
    assert reader.dropped == {}
    assert (reader.info.width, reader.info.height) == (320, 240)
    assert reader.info.duration_s is None or kind == "mpegts"


def test_a_pipe_that_ends_in_the_middle_gives_what_came(make_video):
    offsets: list[int] = []
    data = make_video(60, offsets=offsets, **LIVE["webm"])
    receiving, sending = os.pipe()
    with os.fdopen(sending, "wb") as pipe:
        pipe.write(data[: offsets[29] + 3])
    with (
        os.fdopen(receiving, "rb", buffering=0) as pipe,
        VideoReader(pipe, limits=Limits(), low_latency=True) as reader,
    ):
        assert 28 <= sum(1 for _ in reader) <= 31


class Drip:
    """Hands out a few bytes at a time and counts them."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def seekable(self):
        return False

    def read(self, size):
        part = self.data[self.at : self.at + min(size, 50)]
        self.at += len(part)
        return part


@pytest.mark.parametrize(("kind", "lag"), [("webm", 1), ("webm vp9", 1), ("mpegts", 2)])
def test_no_frame_is_held_back(make_video, kind, lag):
    """Once it runs, a frame is there when the next one begins; a transport stream tells its end by the one after."""
    offsets: list[int] = []
    data = make_video(90, 320, 240, offsets=offsets, **LIVE[kind])
    drip = Drip(data)
    with VideoReader(drip, limits=Limits(), low_latency=True, threads=4) as reader:
        behind = [sum(o <= drip.at for o in offsets) - frame.index - 1 for frame in reader]
    assert len(behind) == 90
    assert max(behind[30:85]) <= lag
