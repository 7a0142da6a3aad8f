"""What may be wrong with a source that is fetched: a reason for programs and metrics, words for people, and what then.

And how long until the next attempt.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from stmixer.service.errors import StmixerError

FIRST_WAITS_S = (1.0, 2.0, 4.0, 8.0)
LATER_WAITS_S = (16.0, 30.0)
SOON_FOR_S = 120.0
"""How long attempts stay close together; ``SLOW_S``: what they are apart where only a person can help."""
SLOW_S = 30.0
JITTER = 0.25
_SLOW = (
    "unauthorized", "no_such_path", "no_video", "unsupported_codec", "aspect_unsupported", "too_large",
    "address_refused", "redirects", "tls",
)  # fmt: skip


class Trouble(Exception):
    """Why an attempt ended; ``reason`` is a code of errors.

    ``slow``: nothing will be different in a second.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.slow = reason, reason in _SLOW

    @classmethod
    def of(cls, error: StmixerError) -> Trouble:
        """What a source failed with."""
        return cls(error.code, str(error))


class Backoff:
    """1, 2, 4, 8, 8 … s for two minutes, then up to 30 s, for ever; each shorter by up to a quarter, at random."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        """``draw``: from 0 to 1."""
        self._draw, self._since, self._failures = draw, 0.0, 0

    def succeeded(self) -> None:
        """There was a picture."""
        self._failures = 0

    def wait_s(self, trouble: Trouble, now: float, took_s: float = 0.0) -> float:
        """Seconds until the next attempt, one having failed at ``now``, monotonic s, after ``took_s``, which count: so
        attempts that hang in a connect are no farther apart than others."""
        if self._failures == 0:
            self._since = now
        soon = FIRST_WAITS_S[min(self._failures, len(FIRST_WAITS_S) - 1)]
        self._failures += 1
        if trouble.slow:
            soon = SLOW_S
        elif now - self._since > SOON_FOR_S:
            soon = LATER_WAITS_S[0] if now - self._since < SOON_FOR_S + 2 * LATER_WAITS_S[0] else LATER_WAITS_S[1]
        return max(soon - took_s, FIRST_WAITS_S[0]) * (1 - JITTER * self._draw())
