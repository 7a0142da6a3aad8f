"""A decoder whose files may not grow past 20 kB, started in the real one's place: its writes find a full disk."""

from __future__ import annotations

import resource
import socket

from stmixer.service.decoder import process
from stmixer.service.decoder.cell import lower

MOST_BYTES = 20_000


def prepare() -> None:
    """As the real one's."""
    process.prepare()


def run(connection: socket.socket, memory_bytes: int) -> None:
    """As the real one's, with a full disk."""
    lower(resource.RLIMIT_FSIZE, MOST_BYTES)
    process.run(connection, memory_bytes)
