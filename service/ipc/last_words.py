"""What a child that has met untrusted media writes to its stderr: kept apart, little of it, and never the log's own.

A pipe of a page, which nobody reads until the child has ended. What does not fit is lost, and holds nobody up: the
writing end does not block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re

MOST_BYTES = 4096
MOST_TOLD = 1000
_CREDENTIALS = re.compile(r"://[^\s/]*@")
"""Of an address, as FFmpeg's errors name it."""
_SET_PIPE_SIZE = 1031


class LastWords:
    """``writing`` is the child's end, to be closed here once it has it."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._open, self._text = True, ""
        with contextlib.suppress(OSError):  # a larger pipe does as well
            fcntl.fcntl(self.writing, _SET_PIPE_SIZE, MOST_BYTES)

    def take(self) -> str:
        """The end of what was written, at most ``MOST_TOLD`` characters, as often as it is asked for.

        After it nothing more is taken.
        """
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):
                said = os.read(self._reading, MOST_BYTES).decode(errors="replace").strip()
                self._text = _CREDENTIALS.sub("://…@", said)[-MOST_TOLD:]
            os.close(self._reading)
        return self._text
