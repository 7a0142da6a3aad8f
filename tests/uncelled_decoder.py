"""The decoder as it is, but for its walls: none is put up. Started in the real one's place, to be compared with it."""

from __future__ import annotations

import socket

from stmixer.service.decoder import cell, process
from stmixer.service.decoder.process import prepare

__all__ = ["prepare", "run"]


def run(connection: socket.socket, memory_bytes: int) -> None:
    """A decoder's whole life, out in the open."""
    cell.shut = lambda memory_bytes, besides=(): ()
    process.run(connection, memory_bytes)
