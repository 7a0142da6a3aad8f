"""Every error a user can meet, as one small tree.

StmixerError             code, HTTP status, a sentence that says what to do
├── InputError           what was sent cannot be used (4xx)
├── AccessError          who sent it may not (401, 403)
├── CapacityError        not now: Retry-After seconds (429, 503)
└── StartError           the service or a command cannot start; exit code 2
"""

from __future__ import annotations

_MEDIA_STATUS = {"too_large": 413, "too_long": 413, "unsupported_codec": 415, "no_video": 415, "encrypted": 415}


class StmixerError(Exception):
    """Base. ``code`` is stable and machine-readable, ``str(error)`` one sentence for people."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class InputError(StmixerError):
    """Something about the request or the media; the same request fails again."""

    def __init__(self, code: str, message: str, status: int = 422) -> None:
        super().__init__(code, message, status)


class AccessError(StmixerError):
    """Without a known key (401), or with one that may not do this (403)."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code, message, status)


class CapacityError(StmixerError):
    """Full, draining or without a worker: try again after ``retry_after_s``."""

    def __init__(self, code: str, message: str, status: int = 503, retry_after_s: int = 5) -> None:
        super().__init__(code, message, status)
        self.retry_after_s = retry_after_s


class StartError(StmixerError):
    """The process cannot start as configured; the message says what to change."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, 500)


def media_status(code: str) -> int:
    """HTTP status of a media error's code: too large or long 413, a kind we cannot decode 415, else 422 or 400."""
    return _MEDIA_STATUS.get(code, 422 if code == "aspect_unsupported" else 400)


def no_room() -> CapacityError:
    """The disk does not take a video or what is made of it: no fault of the video."""
    return CapacityError("storage", "there is no room to store this video; try again later")
