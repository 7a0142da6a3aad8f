"""A file below the folder of ``--allow-files``, played at its own pace as if a camera sent it: once, or for ever."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from stmixer.service.errors import CapacityError, InputError
from stmixer.service.ipc.messages import OpenContainer, Progress
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.local import LocalSource
from stmixer.service.sources.source import WHAT_IT_DID


def files_not_allowed() -> InputError:
    """No folder was named."""
    return InputError("files_not_allowed", "files are played where the service was started with --allow-files", 422)


def open_below(folder: Path | None, name: str) -> int:
    """A descriptor of a regular file that lies below the folder, links followed. Raises InputError.

    What lies elsewhere is not told apart from what is not there.
    """
    if folder is None:
        raise files_not_allowed()
    missing = InputError("no_such_file", "there is no such file below the folder of --allow-files", 422)
    if "\0" in name:
        raise missing
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, name))
    if not path.startswith(root.rstrip("/") + "/"):
        raise missing
    try:
        found = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise missing from None
    # what was opened counts, whatever has been put in the path's place meanwhile
    if os.path.realpath(f"/proc/self/fd/{found}") != path or not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise missing
    return found


class PlayedFile(LocalSource):
    """Each time it is played by a decoder of its own."""

    def __init__(self, context: SourceContext, folder: Path | None, name: str) -> None:
        super().__init__(context)
        self._folder, self._name, self._file = folder, name, -1

    async def fetch(self, begun: Callable[[], None]) -> None:
        """Begin to play. Raises InputError, CapacityError, ChannelError."""
        self._file = open_below(self._folder, self._name)
        try:
            await self.open()
            begun()
        finally:
            os.close(self._file)

    # -- to the decoder

    def _order(self, progress: Progress | None) -> tuple[OpenContainer, list[int]]:
        return OpenContainer(self._context.sampling(), progress, paced=True), [self._file]

    async def _died(self, death: DecoderDied) -> bool:
        if death.reason == "exit":  # which may not be the file's fault: memory ran out, for one
            self._context.counts.cut("decoder")
            self._context.fail(CapacityError("decoder", f"its decoder {death}"))
        else:
            self._fail(WHAT_IT_DID[death.reason])
        return False
