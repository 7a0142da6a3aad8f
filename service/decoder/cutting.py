"""A decoder's kept packets, and the clips that are asked of them: muxed here, where the media is, and nowhere decoded.

A clip goes into memory that the API process owns, through a mapping: a decoder can write no file (``decoder.cell``).
"""

from __future__ import annotations

import errno
import mmap
import os

from stmixer.media.packet_ring import NothingKept, PacketRing
from stmixer.media.remux import plays, remux
from stmixer.service.ipc.channel import Channel, Received
from stmixer.service.ipc.messages import CutPackets, KeepPackets, NothingCut, PacketsCut


class Cutting:
    """``ring``: what the source's packets are put into; ``shift_us``: what the stream's time is ahead of its times."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.ring = PacketRing()
        self.shift_us = 0

    def carry_out(self, received: Received) -> None:
        """``KeepPackets`` or ``CutPackets``."""
        match received.message:
            case KeepPackets(seconds, max_bytes):
                self.ring.keep(seconds, max_bytes)
            case CutPackets() as order:
                self._channel.send(self._cut(order, received.fds[0]))

    def _cut(self, order: CutPackets, fd: int) -> PacketsCut | NothingCut:
        """Takes over ``fd``."""
        try:
            paper = Paper(fd, order.most)
        except OSError:  # no address space is left: it is one clip
            return NothingCut("no_memory")
        finally:
            os.close(fd)
        try:
            kept = self.ring.between(order.from_us - self.shift_us, order.to_us - self.shift_us)
            kept = remux(kept, paper)
        except NothingKept as error:
            return NothingCut("too_large" if paper.full else error.reason)
        finally:
            paper.close()
        from_us, to_us = kept.from_us + self.shift_us, kept.to_us + self.shift_us
        return PacketsCut(paper.size, max(0, from_us), max(0, to_us), kept.codec, plays(kept.codec))


class Paper:
    """A file of a fixed size in shared memory, as FFmpeg writes one. ``size``: how far it is written; ``full``: once
    something did not fit."""

    def __init__(self, fd: int, size: int) -> None:
        self._memory, self._most, self._at = mmap.mmap(fd, size), size, 0
        self.size, self.full = 0, False

    def write(self, data: bytes) -> int:
        """Raises OSError (ENOSPC) where it does not fit."""
        end = self._at + len(data)
        if end > self._most:
            self.full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._memory[self._at : end] = data
        self._at, self.size = end, max(self.size, end)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        begins = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}
        self._at = begins[whence] + offset
        return self._at

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._at

    def close(self) -> None:
        """Give up the mapping."""
        self._memory.close()
