"""What a WebSocket's client is told besides ``result`` and ``track`` (docs/protocol.md, WebSocket)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stmixer.service.event_schemas import Event
from stmixer.service.schemas import Pulled, Summary
from stmixer.service.wire import Wire


class ReadyLabel(Wire):
    """An action that results may name."""

    id: int
    name: str


class LookedAt(Wire):
    """When a stream is looked at, and by what."""

    lookahead_ms: float = Field(description="that takes effect")
    keyframe_hz: float = Field(description="that takes effect")
    model: str
    trained: bool = Field(description="false: boxes and names mean nothing")
    labels: tuple[ReadyLabel, ...] = ()


class Ready(LookedAt):
    """The answer to ``start``: what stream this is, and what holds of it."""

    type: Literal["ready"] = "ready"
    session_id: str
    resume_token: str = Field(description="to come back with, in another `start`")
    resume_ttl_s: float = Field(description="how long the stream waits for that")
    max_frame_bytes: int = Field(description="of a binary message")


class FollowerReady(LookedAt):
    """The same to who follows a stream that is pulled; what is said after it has an ``event_id``, which counts on."""

    type: Literal["ready"] = "ready"
    session_id: str
    pulled: Pulled


class MissingMessage(Wire):
    """To who follows: so many messages after `last_event_id` are not there any more."""

    type: Literal["missing"] = "missing"
    count: int


class EventMessage(Wire):
    """A rule of the stream has begun to hold, has changed much, or holds no more."""

    type: Literal["event"] = "event"
    event: Event


class StatusMessage(Wire):
    """Every 5 s, and after ``flush``."""

    type: Literal["status"] = "status"
    summary: Summary = Field(description="counts so far")


class WarningMessage(Wire):
    """Something is odd, and the stream goes on."""

    type: Literal["warning"] = "warning"
    code: str = Field(description="stable, for programs")
    message: str


class GoawayMessage(Wire):
    """The service drains."""

    type: Literal["goaway"] = "goaway"
    time_left_ms: int


class SummaryMessage(Summary):
    """The last message of a stream that ended in order: all counts."""

    type: Literal["summary"] = "summary"
    warnings: list[str]


class ErrorMessage(Wire):
    """Why the socket is closed next."""

    type: Literal["error"] = "error"
    code: str = Field(description="stable, for programs")
    message: str
    retryable: bool = Field(description="whether the same may succeed later")


class FollowedStatus(Wire):
    """To who follows: how it is with the source, where the state or the error is another."""

    type: Literal["status"] = "status"
    state: Literal["connecting", "live", "stalled", "reconnecting", "ended", "failed"]
    error: str | None = Field(description="what was wrong last, in words")


class RestartedMessage(LookedAt):
    """To who follows: another model is the default, and the stream has begun anew with it, at t = 0 with new tracks."""

    type: Literal["restarted"] = "restarted"
    summary: Summary = Field(description="all counts of what ended with this")
    warnings: list[str]


class FollowedSummary(Wire):
    """To who follows: the last word of a stream."""

    type: Literal["summary"] = "summary"
    summary: Summary = Field(description="all counts")
    warnings: list[str]


TOLD = (Ready, EventMessage, StatusMessage, WarningMessage, GoawayMessage, SummaryMessage, ErrorMessage)
"""All to who sends media."""
TOLD_TO_FOLLOWERS = (
    FollowerReady, MissingMessage, FollowedStatus, RestartedMessage, FollowedSummary, ErrorMessage,
)  # fmt: skip
"""All to who follows a stream that is pulled."""
