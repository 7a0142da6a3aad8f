"""Every frame of a stream, counted once: received, and then sampled, not sampled, or dropped with the reason.

Counts are added where things happen. What is on its way has a running number for each place it may be at, so that a cut
knows how many frames it costs.
"""

from __future__ import annotations

from stmixer.media.grid import Sample
from stmixer.service.engine.stream import Slot, Stream
from stmixer.service.engine.stream_origin import StreamOrigin
from stmixer.service.ipc.messages import Frames, FramesDropped, MessageError, NewestSample, Progress
from stmixer.service.metrics import DROP_REASONS, OTHER_REASON, Metrics


class FrameCounts:
    """What came to a stream and what its decoders have told of it, so that another one can go on there.

    ``at_socket``: pictures are counted as they come in, and each goes to the decoder by itself; frames of a container
    are counted as its decoder tells of them.
    """

    def __init__(self, stream: Stream, metrics: Metrics) -> None:
        self._stream, self._metrics = stream, metrics
        self.at_socket = False
        self._before_decoder = 0
        """Pictures received and neither sent to the decoder nor dropped."""
        self._at_decoder = 0
        """Pictures sent to the decoder, which has told of them in no way yet."""
        self._told = self._told_and_dropped = 0
        self._dropped_by_decoder: dict[str, int] = {}
        self._origin = StreamOrigin()

    # -- on the way in

    def received(self, count: int = 1) -> None:
        """Frames that reached us."""
        self._stream.summary.received += count
        self._metrics.frames_received.labels(self._stream.source).inc(count)
        if self.at_socket:
            self._before_decoder += count

    def sent(self) -> None:
        """A picture that goes to the decoder."""
        self._before_decoder -= 1
        self._at_decoder += 1

    def dropped(self, reason: str, count: int = 1) -> None:
        """Pictures that the decoder never gets, with the reason."""
        self._before_decoder -= count
        self._drop(reason, count)

    # -- what decoders tell

    def told(self, message: Frames) -> None:
        """Frames that a decoder tells of, and what it found not to be kept. Raises MessageError for too many."""
        count, summary = len(message.pts_us), self._stream.summary
        if self.at_socket and count > self._at_decoder:
            raise MessageError(f"the decoder tells of {count} pictures, of {self._at_decoder} that it was sent")
        if self.at_socket and message.not_sampled and message.not_sampled > self._at_decoder + self._undecided:
            raise MessageError(f"{message.not_sampled} pictures not kept, of fewer that it has")
        self._told += count
        summary.not_sampled += message.not_sampled
        if self.at_socket:
            self._at_decoder -= count
        else:
            self.received(count)
        for pts_us, at in zip(message.pts_us, message.at, strict=True):
            self._origin.note(pts_us, at)

    def dropped_by_decoder(self, message: FramesDropped) -> None:
        """Frames that a decoder lost, whether or not it had told of them before. Raises MessageError for too many."""
        reason, count = message.reason if message.reason in DROP_REASONS else OTHER_REASON, message.count
        if self.at_socket and not message.told and count > self._at_decoder:
            raise MessageError(f"the decoder drops {count} pictures, of {self._at_decoder} that it was sent")
        self._dropped_by_decoder[reason] = self._dropped_by_decoder.get(reason, 0) + count
        if message.told:
            self._told_and_dropped += count
        elif self.at_socket:
            self._at_decoder -= count
        else:
            self.received(count)
        self._drop(reason, count)

    def progress(self) -> Progress:
        """Where the next decoder goes on; of a stream that has opened."""
        stream, newest = self._stream, self._stream.newest
        return Progress(
            sampled=stream.summary.sampled,
            not_sampled=stream.summary.not_sampled,
            frames=self._told,
            dropped=dict(self._dropped_by_decoder),
            pts_us=stream.newest_pts_us,
            width=stream.frame_width,
            height=stream.frame_height,
            origin=self._origin.at,
            newest=None if newest is None else _newest_sample(newest),
        )

    # -- cuts

    def lose_pictures(self) -> None:
        """Their decoder died: pictures that it had been sent and not settled are lost. What it never got is not."""
        self._lose("decoder", self._at_decoder + self._undecided)

    def cut(self, reason: str) -> None:
        """No decoder goes on: whatever is on its way is lost, for this reason."""
        if not self.at_socket and self._undecided < 0:  # written by a decoder that died before it told of them
            untold = -self._undecided
            self._told += untold
            self.received(untold)
        self._lose(reason, self._before_decoder + self._at_decoder + self._undecided)
        self._before_decoder = 0

    @property
    def _undecided(self) -> int:
        """Frames told of, and neither sampled, nor found not to be kept, nor dropped since.

        A sample is told before its frame: the number is negative for as long as the frame itself is not told of.
        """
        summary = self._stream.summary
        return self._told - self._told_and_dropped - summary.sampled - summary.not_sampled

    def _lose(self, reason: str, count: int) -> None:
        self._told_and_dropped += self._undecided
        self._at_decoder = 0
        if count > 0:
            self._drop(reason, count)

    def _drop(self, reason: str, count: int) -> None:
        dropped = self._stream.summary.dropped
        dropped[reason] = dropped.get(reason, 0) + count
        self._metrics.dropped(self._stream.source, reason, count)


def _newest_sample(newest: Sample[Slot]) -> NewestSample:
    return NewestSample(newest.index, newest.pts_us, newest.frame.generation, newest.frame.size)
