"""The parts of a running service, started and stopped together."""

from __future__ import annotations

from service.engine.engine import Engine
from service.engine.stream import Policy, Source
from service.ingest.pool import DecoderPool
from service.ingest.session import Session
from service.metrics import Metrics
from service.schemas import DetectOptions
from service.settings import Settings


class Service:
    """Engine, decoder pool and metrics behind the routes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine = Engine(settings, self.metrics)
        self.pool = DecoderPool(settings)

    async def start(self) -> None:
        """Start decoders and worker. Raises StartError."""
        try:
            await self.engine.start()
            await self.pool.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every child."""
        await self.engine.stop()
        await self.pool.stop()

    def session(
        self, source: Source, policy: Policy, options: DetectOptions, deadline_ms: float | None = None
    ) -> Session:
        """A new stream's session. Raises CapacityError."""
        return Session(
            self.engine, self.pool, self.settings,
            source=source, policy=policy, options=options, deadline_ms=deadline_ms,
        )  # fmt: skip
