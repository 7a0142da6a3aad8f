"""What a decoder says: one that was taken over may talk without end, and has a share of the event loop for it."""

from __future__ import annotations

import time

from stmixer.service.ipc.channel import AsyncChannel, Received
from stmixer.service.sources.allowance import Allowance, LoopShare


class Hearing:
    """Of one decoder's channel. CPU time counts: what is heard late on a busy machine is heard at once then."""

    def __init__(self, channel: AsyncChannel) -> None:
        self._channel, self._share = channel, LoopShare(time.thread_time, Allowance(time.perf_counter))

    async def rest(self) -> None:
        """What was said last has been taken up: others have a turn, where that is due."""
        await self._share.let_others()

    async def next(self) -> Received | None:
        """As ``AsyncChannel.receive``."""
        received = await self._channel.receive()
        if self._channel.since is not None:
            self._share.begin(time.thread_time() - self._channel.since)
        return received
