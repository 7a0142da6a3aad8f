"""A whole file: read at the pace of the keyframes, and read again by another decoder where one dies."""

from __future__ import annotations

import math
import os

from stmixer.service.ipc.messages import OpenUpload, Progress
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.source import DecodedSource

CPU_PER_SECOND = 8
"""CPU seconds an upload may take per second that it may play: four times as long, on two threads."""
THREADS = 2


class UploadSource(DecodedSource):
    """A decoder that dies costs nothing: the next one goes on behind what was told. A socket is not its concern."""

    def __init__(self, context: SourceContext, fd: int) -> None:
        """``fd`` is duplicated; its position is moved."""
        super().__init__(context)
        self._file: int | None = os.dup(fd)

    def _order(self, progress: Progress | None) -> tuple[OpenUpload, list[int]]:
        assert self._file is not None
        longest_s = self._context.settings.max_duration_s
        sampling = self._context.sampling(longest_s=longest_s, threads=THREADS, cpu_s=CPU_PER_SECOND * longest_s)
        return OpenUpload(sampling, progress), [self._file]

    def _owed(self) -> int:
        """How far it has read."""
        return -1 if self._file is None else os.lseek(self._file, 0, os.SEEK_CUR)

    async def _died(self, death: DecoderDied) -> bool:
        if self._file is not None:  # the same open file, for another decoder if need be
            os.lseek(self._file, 0, os.SEEK_SET)
        return await self._replaced(death, counted_s=math.inf)

    def interrupt(self) -> None:
        """It needs no socket: the file is whole."""

    async def resume(self) -> None:
        """It was never interrupted."""

    async def ended(self) -> None:
        """It ends with its file."""

    async def close(self) -> None:
        """Free everything."""
        try:
            await super().close()
        finally:
            file, self._file = self._file, None
            if file is not None:
                os.close(file)
