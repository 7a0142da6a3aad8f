"""Who keeps pictures of an event."""

from __future__ import annotations

from typing import Protocol

from stmixer.service.event_schemas import Event


class ClipKeeper(Protocol):
    """Called on the event loop, and may not block it."""

    def keep(self, event: Event, stream: int, pre_s: float, post_s: float) -> None:
        """An event of a rule with ``clip`` has begun (``start``), and again: is over (``end``).

        ``stream``: the number of the stream, whose name stands in the event.
        """
