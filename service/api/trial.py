"""What a lesson taught, served beside what is served: by a service within the service, for whoever tries it.

The streams that run, and their model, know nothing of it. It has workers and decoders of its own, which go with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stmixer.service.errors import StmixerError
from stmixer.service.settings import Settings
from stmixer.service.teach_schemas import TeachTrial, TrialState

if TYPE_CHECKING:
    from stmixer.service.api.service import Service

log = logging.getLogger("stmixer.teaching")

MOST_STREAMS = 2
LEAVE_S = 6.0
"""What its streams get to end in order: they leave after half of it."""


def trial_settings(settings: Settings, weights: Path) -> Settings:
    """Those of a service that serves these weights and does nothing else: no streams, events or lessons of its own."""
    return settings.model_copy(
        update={
            "weights": weights, "model": None, "watch": None, "weights_dir": None,
            "device": settings.device.partition(",")[0],
            "max_streams": MOST_STREAMS, "spare_workers": 0, "idle_decoders": 1,
            "shutdown_timeout": min(LEAVE_S, settings.shutdown_timeout),
            "resume_ttl_s": 0.0, "streams": None, "rules": None, "events_file": None,
            "webhook": None, "webhook_secret_file": None, "event_clips": None, "allow_files": None,
            "allow_networks": "", "allow_devices": "", "allow_teach": False, "teach_dir": None,
            "mqtt": None, "mqtt_user": None, "mqtt_password": None, "mqtt_password_file": None,
            "mqtt_ca_file": None, "mqtt_discovery": "",
        }
    )  # fmt: skip


class TaughtTrial:
    """One at most. ``make``: a service for weights, which is started and stopped here."""

    def __init__(self, make: Callable[[Path], Service]) -> None:
        self._make = make
        self._state: TrialState = "off"
        self._says = ""
        self._service: Service | None = None
        self._starting: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def told(self) -> TeachTrial:
        """How it stands."""
        return TeachTrial(state=self._state, says=self._says)

    @property
    def service(self) -> Service | None:
        """Once it is ready."""
        return self._service if self._state == "ready" else None

    async def begin(self, weights: Path) -> None:
        """Start it, unless there is one; how that goes is ``told``."""
        async with self._turn:
            if self._state in ("starting", "ready"):
                return
            self._state, self._says = "starting", ""
            self._service = self._make(weights)
            self._starting = asyncio.create_task(self._start(self._service))

    async def end(self) -> None:
        """End it, if there is one, and what runs on it."""
        async with self._turn:
            service, starting, was_ready = self._service, self._starting, self._state == "ready"
            self._state, self._says, self._service, self._starting = "off", "", None, None
            if starting is not None:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
            if service is not None and was_ready:
                service.begin_drain()
                await service.drain()
                await service.stop()

    async def _start(self, service: Service) -> None:
        try:
            await service.start()
        except StmixerError as error:
            log.error("what was taught cannot be tried: %s", error)
            self._state, self._says = "failed", str(error)
        except Exception:
            log.exception("what was taught cannot be tried")
            self._state, self._says = "failed", "an error in the service itself; its log says which"
        else:
            self._state = "ready"
