"""Decoding ahead of the model: a thread reads a file, samples and resizes it and writes ring slots while keyframes run.

It stands where a decoder process does in serving. What it tells comes in order, through a bounded line; where the ring
is full it waits until the engine has moved the limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from stmixer.media.decode import VideoReader
from stmixer.service.decoder.sampling import Sampling, Told
from stmixer.service.ipc.messages import FramesDropped, Opened, RingFull, SamplingOrder
from stmixer.service.ipc.ring import Ring

MOST_WAITING = 256
"""Messages that nobody has taken yet; behind them the thread waits. Frames of a second or more."""


class Stopped(Exception):
    """Nobody wants more: end quietly."""


class DecodingAhead:
    """A ``sampling.SampleSink`` on a thread of its own, which begins with ``messages``; the reader is its own.

    ``limit``: samples numbered below it may be written.
    """

    def __init__(self, reader: VideoReader, order: SamplingOrder) -> None:
        self._reader, self._order = reader, order
        self.limit = 0
        self._changed = threading.Condition()
        self._line: deque[Told | Opened | RingFull] = deque()
        self._ring: Ring | None = None
        self._ended = self._stopped = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    # -- whoever takes

    def messages(self) -> Iterator[Told | Opened | RingFull]:
        """What comes of the file, in order, to its end; once. Raises what reading it raised, after all before that,
        and RuntimeError in a process that a fork has left without the thread."""
        self._thread = threading.Thread(target=self._work, name="decoding ahead", daemon=True)
        self._thread.start()
        while True:
            if self._is_elsewhere:
                raise RuntimeError("whoever decodes this file is in the process before the fork: open it anew here")
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._ended)
                if not self._line:
                    break
                message = self._line.popleft()
                self._changed.notify_all()
            yield message
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # it refers to this frame

    def give(self, ring: Ring) -> None:
        """Answer ``Opened``."""
        with self._changed:
            self._ring = ring
            self._changed.notify_all()

    def raise_limit(self, limit: int) -> None:
        """Samples numbered below ``limit`` may be written from now on."""
        if limit != self.limit:
            with self._changed:
                self.limit = limit
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread, wait for that, and close the file. May be called twice."""
        if self._is_elsewhere:
            return  # the file is that thread's, and so may be the lock
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is None:
            self._reader.close()
        elif self._thread is not threading.current_thread():  # the collector of memory runs where it likes
            self._thread.join()

    @property
    def _is_elsewhere(self) -> bool:
        """Whether a fork left the thread behind; one of this process does not end before it has said so."""
        return self._thread is not None and not self._thread.is_alive() and not self._ended

    # -- the thread

    def _work(self) -> None:
        try:
            with self._reader:
                self._decode()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again by who takes)
            self._failure = error
        finally:
            with self._changed:
                self._ring, self._ended = None, True
                self._changed.notify_all()

    def _decode(self) -> None:
        reader, sampling = self._reader, Sampling(self._order, self, prompt=True)
        sampling.open(reader.info.width, reader.info.height, reader.info.average_rate)
        asked_at = time.monotonic()  # of a file every frame is there as soon as it is asked for
        for frame in reader:
            sampling.frame(frame.pts_us, frame, asked_at)
            asked_at = time.monotonic()
        sampling.commit()
        sampling.tell_frames()
        for reason, count in reader.dropped.items():
            self.tell(FramesDropped(reason, count, told=False))

    def open(self, message: Opened) -> Ring:
        """See ``SampleSink``."""
        self._put(message)
        with self._changed:
            self._changed.wait_for(lambda: self._ring is not None or self._stopped)
            if self._ring is None:
                raise Stopped
            return self._ring

    def tell(self, message: Told) -> None:
        """See ``SampleSink``."""
        self._put(message)

    def room(self, number: int) -> None:
        """See ``SampleSink``."""
        self._put(RingFull(number))
        with self._changed:
            self._changed.wait_for(lambda: number < self.limit or self._stopped)
            if self._stopped:
                raise Stopped

    def _put(self, message: Told | Opened | RingFull) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._line) < MOST_WAITING or self._stopped)
            if self._stopped:
                raise Stopped
            self._line.append(message)
            self._changed.notify_all()
