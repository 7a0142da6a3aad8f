"""What is of this machine and opened here, a device or a file: no socket whose bytes could wait or be lost."""

from __future__ import annotations

from stmixer.service.sources.source import DecodedSource


class LocalSource(DecodedSource):
    """A ``Fetcher`` but for ``fetch``: its decoder reads it by itself, and has nothing to catch up with."""

    @property
    def owes(self) -> bool:
        """What waits in a driver or a file nobody sees."""
        return False

    def _owed(self) -> None:
        """The same."""

    async def leave(self) -> None:
        """End what reads it."""
        try:
            await self.close()
        finally:
            self._context.counts.cut("decoder")

    def interrupt(self) -> None:
        """It has no client."""

    async def resume(self) -> None:
        """It was never interrupted."""

    async def ended(self) -> None:
        """It ends with its file, or when it is unplugged."""
