"""Whether in a file another video takes over: recordings of two cameras put behind each other, an encoder that was
changed. FFmpeg goes on reading the first, of which nothing comes any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from stmixer.media.ebml import SEGMENT, elements
from stmixer.media.padded import PlainPackets, padding_of
from stmixer.media.restarts import BoxWatch, HeaderWatch, watch_of
from stmixer.media.takeover import PACKET, SNIFFED, SYNC, TransportWatch, table_pids_of, transport_begins

_CHUNK, _LOOK = PACKET * 8192, 4096
_PAT_PID, _PIDS = 0, 1 << 13


def takes_over(file: BinaryIO) -> bool:
    """Looks through a whole file for another beginning, or other tables; leaves it where it was.

    Errors of the file object pass through.
    """
    before = file.tell()
    try:
        begun = file.read(SNIFFED) or b""
        if (padding := padding_of(begun)) is not None:
            at, size = padding
            return _tables_change(PlainPackets(file.read, begun[at:], size).read)
        packets_at = transport_begins(begun)
        file.seek(before + (packets_at or 0))
        return _begins_anew(file, begun) if packets_at is None else _tables_change(file.read)
    finally:
        file.seek(before)


def _begins_anew(file: BinaryIO, begun: bytes) -> bool:
    watch = watch_of(begun)
    if isinstance(watch, BoxWatch):
        return _boxes_begin_anew(file, watch)
    if not isinstance(watch, HeaderWatch) or _is_one_segment(file, begun):
        return False  # anything else (``media.parts``), or Matroska that says how long it is
    while data := file.read(_CHUNK):
        if watch.feed(data) is not None:
            return True
    return False


def _boxes_begin_anew(file: BinaryIO, watch: BoxWatch) -> bool:
    """From box to box, passing over what is in them, as far as they are boxes."""
    while data := file.read(_LOOK):
        if watch.feed(data) is not None:
            return True
        if watch.lost:
            return False
        try:
            file.seek(watch.pass_over(), os.SEEK_CUR)
        except (OSError, ValueError, OverflowError):  # no file is as long as a damaged one says
            return False
    return False


def _is_one_segment(file: BinaryIO, begun: bytes) -> bool:
    """Whether nothing comes behind its segment; leaves the file where it was."""
    before, unknown = file.tell(), 1 << 62
    try:
        end = next((end for kind, _, end in elements(begun, 0, unknown) if kind == SEGMENT), unknown)
        if end == unknown:
            return False
        file.seek(before + end)
        return not file.read(1)
    except (ValueError, IndexError, OSError):
        return False
    finally:
        file.seek(before)


def _tables_change(read: Callable[[int], bytes]) -> bool:
    watch, rest = TransportWatch(), b""
    tables = np.zeros(_PIDS, np.bool_)
    tables[_PAT_PID] = True
    while more := read(_CHUNK):
        data = rest + more
        begins = transport_begins(data[:SNIFFED]) or 0
        whole = max(0, len(data) - begins) // PACKET * PACKET
        packets = np.frombuffer(data, np.uint8, whole, begins).reshape(-1, PACKET)
        packets, rest = packets[packets[:, 0] == SYNC], data[begins + whole :]
        pids = (packets[:, 1].astype(np.uint16) & 0x1F) << 8 | packets[:, 2]
        programmes = packets[pids == _PAT_PID]
        programmes[:, 3] &= 0xF0  # but for their counter they are the same all the time
        for packet in {programme.tobytes() for programme in programmes}:
            tables[list(table_pids_of(packet))] = True
        if watch.feed(packets[tables[pids]].tobytes()) is not None:
            return True
    return False
