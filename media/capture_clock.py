"""When pictures were taken, by the clock of who sends them: RTP's sender reports say what it was at a timestamp.

RFC 3550, 6.4.1. FFmpeg puts what they say on each packet from the first report on, as producer reference time.
"""

import struct

from av import VideoFrame
from av.packet import Packet
from av.video.stream import VideoStream

_WALLCLOCK = struct.Struct("=q")  # the first field of AVProducerReferenceTime: epoch µs


class CaptureClock:
    """``origin_us``: epoch µs of the first delivered frame; None until the sender has told its clock."""

    def __init__(self) -> None:
        self.origin_us: int | None = None
        self._known: tuple[int, int] | None = None

    def read(self, packet: "Packet[VideoStream]") -> None:
        """What a packet says of it."""
        if packet.pts is None or not packet.has_sidedata("prft"):
            return
        wallclock_us = _WALLCLOCK.unpack_from(bytes(packet.get_sidedata("prft")))[0]
        if wallclock_us > 0:  # a sender without a clock says 0 in NTP's time, which is before 1970
            self._known = packet.pts, wallclock_us

    def place(self, picture: VideoFrame, pts_us: int) -> None:
        """A picture is delivered with this time, µs after the first."""
        if self._known is not None and picture.pts is not None and picture.time_base:
            at, wallclock_us = self._known
            self.origin_us = wallclock_us + round((picture.pts - at) * picture.time_base * 1_000_000) - pts_us
