"""Every frame of a stream, counted once: received, and then sampled, not sampled, or dropped with the reason."""

from __future__ import annotations

from stmixer.service.engine.stream import Stream
from stmixer.service.ipc.channel import Header
from stmixer.service.metrics import Metrics


class FrameCounts:
    """What came to a stream and what its decoders have told of it, so that another one can go on there.

    ``at_socket``: pictures are counted as they come in; frames of a container as its decoder tells of them.
    """

    def __init__(self, stream: Stream, metrics: Metrics) -> None:
        self._stream, self._metrics = stream, metrics
        self.at_socket = False
        self._sent = self._told = 0
        self._dropped_by_decoder: dict[str, int] = {}
        self._origin: float | None = None

    # -- on the way in

    def received(self, count: int = 1) -> None:
        """Frames that reached us."""
        self._stream.summary.received += count
        self._metrics.frames_received.labels(self._stream.source).inc(count)

    def sent(self) -> None:
        """A picture that goes to the decoder."""
        self._sent += 1

    def dropped(self, reason: str, count: int = 1) -> None:
        """Frames lost, with the reason."""
        dropped = self._stream.summary.dropped
        dropped[reason] = dropped.get(reason, 0) + count
        self._metrics.dropped(self._stream.source, reason, count)

    # -- what decoders tell

    def told(self, pts_us: int, at: float) -> None:
        """A frame that its decoder tells of, received at monotonic time ``at``."""
        self._told += 1
        if not self.at_socket:
            self.received()
        origin = at - pts_us / 1e6
        self._origin = origin if self._origin is None else min(self._origin, origin)

    def dropped_by_decoder(self, reason: str, count: int, *, told: bool) -> None:
        """Frames that a decoder lost, whether or not it had told of them before."""
        self._dropped_by_decoder[reason] = self._dropped_by_decoder.get(reason, 0) + count
        self.dropped(reason, count)
        if not told and not self.at_socket:
            self.received(count)

    def lose_pictures(self) -> None:
        """Their decoder died: what it had been sent and had not told of is lost."""
        summary = self._stream.summary
        known = summary.sampled + summary.not_sampled + sum(self._dropped_by_decoder.values())
        if (lost := self._sent - known) > 0:
            self.dropped("decoder", lost)
            self._sent -= lost

    def done(self) -> Header:
        """Where the next decoder goes on (``Writer.go_on``)."""
        stream, newest = self._stream, self._stream.newest
        return {
            "sampled": stream.summary.sampled,
            "not_sampled": stream.summary.not_sampled,
            "frames": self._told,
            "dropped": self._dropped_by_decoder,
            "pts_us": stream.newest_pts_us,
            "shown": (stream.frame_width, stream.frame_height),
            "origin": self._origin,
            "newest": None if newest is None else (newest.index, newest.pts_us, newest.frame.generation),
        }

    # -- at the end

    def balance(self, reason: str) -> None:
        """Frames that were on their way at a cut: told of and never written are lost, written and never told came."""
        summary = self._stream.summary
        missing = summary.received - summary.sampled - summary.not_sampled - sum(summary.dropped.values())
        if missing > 0:
            self.dropped(reason, missing)
        elif missing < 0 and not self.at_socket:
            self.received(-missing)
