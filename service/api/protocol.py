"""The WebSocket protocol ``stmixer.v1``: what a client may say, what it is told first, and how a socket is closed."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from stmixer.service.event_schemas import MOST_RULES, Rule
from stmixer.service.schemas import DetectOptions
from stmixer.service.sessions.resume import ResumableStream
from stmixer.service.settings import Settings
from stmixer.service.stream_messages import Ready
from stmixer.service.wire import Wire

T = TypeVar("T")

SUBPROTOCOL = "stmixer.v1"
HAS_BEGUN = "has_begun"
"""In a scope's state: to be called once a connection has said what it wants, with a key that is good; with
``live=True`` where that is a stream of its own."""

MAX_TEXT = 64 * 1024
"""Characters of a text message: the longest sensible one has a few hundred, and it is parsed on the event loop."""

CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_RESTART = 1012
CLOSE_TOO_LARGE = 1009
CLOSE_CAPACITY = 1013
CLOSE_PROTOCOL = 4400
CLOSE_UNAUTHORIZED = 4401
CLOSE_NOT_FOUND = 4404
CLOSE_NO_MEDIA = 4408
CLOSE_EVICTED = 4409
CLOSE_OVERLOADED = 4429

TERMS = ("codec", "timestamps", "policy", "model", "keyframe_hz", "lookahead_ms", "deadline_ms")
"""What a stream keeps from its first ``start`` on."""


class Start(DetectOptions):
    """The first message: what kind of media will come, and what is wanted of it."""

    type: Literal["start"]
    codec: Literal["jpeg", "webm", "mpegts", "mp4"] = "jpeg"
    policy: Literal["latest", "all"] = "latest"
    deadline_ms: float | None = Field(None, gt=0, le=600_000)
    timestamps: Literal["arrival", "prefix"] = "arrival"
    rules: tuple[Rule, ...] = Field((), max_length=MOST_RULES)
    resume_token: str | None = None
    api_key: str | None = None

    def terms(self) -> tuple[str | float | None, ...]:
        """Its ``TERMS``."""
        return tuple(getattr(self, name) for name in TERMS)

    def options(self) -> DetectOptions:
        """What concerns detection."""
        return DetectOptions(**{name: getattr(self, name) for name in DetectOptions.model_fields})


class Update(Wire):
    """Change what is reported of a running stream. Keyframes are numbered by their rate, so that stays."""

    type: Literal["update"]
    score_threshold: float = Field(0.6, ge=0, le=1)
    top_k: int | None = Field(None, ge=1)
    action_threshold: float = Field(0.0, ge=0, le=1)
    track_max_gap_s: float = Field(2.0, ge=0, le=60)

    def changes(self) -> dict[str, float | int | None]:
        """What was given."""
        return self.model_dump(exclude={"type"}, exclude_unset=True)


class Flush(Wire):
    """Run what is pending with what is there."""

    type: Literal["flush"]


class Stop(Wire):
    """No more media: finish, then ``summary``."""

    type: Literal["stop"]


class Follow(Wire):
    """The first message to a stream that is pulled; ``last_event_id``: of the last message that was seen."""

    type: Literal["start"]
    last_event_id: int | None = Field(None, ge=0, lt=2**53)
    api_key: str | None = None


_CHANGEABLE = tuple(name for name in Update.model_fields if name != "type")

ClientMessage = Start | Update | Flush | Stop
_ADAPTER: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])
_OF_FOLLOWERS: TypeAdapter[Follow | Stop] = TypeAdapter(Annotated[Follow | Stop, Field(discriminator="type")])


class ProtocolError(Exception):
    """The client broke the protocol, or its socket has to be closed for another reason; ``close`` is the code."""

    def __init__(self, code: str, message: str, close: int = CLOSE_PROTOCOL, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code, self.close, self.retryable = code, close, retryable


class Evicted(ProtocolError):
    """Another socket came with this stream's token."""

    def __init__(self) -> None:
        super().__init__("evicted", "the stream goes on on another socket", CLOSE_EVICTED)


def parse(text: str) -> ClientMessage:
    """One text frame. Raises ProtocolError saying what is wrong with it."""
    return _parsed(_ADAPTER, text)


def parse_of_follower(text: str) -> Follow | Stop:
    """The same of who follows a pulled stream."""
    return _parsed(_OF_FOLLOWERS, text)


def _parsed(adapter: TypeAdapter[T], text: str) -> T:
    if len(text) > MAX_TEXT:
        said = f"a text message may have {MAX_TEXT} characters; pictures and other media are binary messages"
        raise ProtocolError("too_large", said, CLOSE_TOO_LARGE)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where, name = ".".join(str(part) for part in first["loc"]), first["loc"][-1] if first["loc"] else ""
        if first["type"] == "json_invalid":
            reason = f"text messages are JSON, and pictures and other media are binary messages ({first['msg']})"
        elif not first["loc"]:
            said = "it has no type" if first["type"] == "union_tag_not_found" else first["msg"]
            reason = f"message: {said}; pictures and other media are binary messages"
        elif first["type"] != "extra_forbidden":
            reason = f"{where or 'message'}: {first['msg']}"
        elif first["loc"][0] == "update" and name in Start.model_fields:
            reason = f"{name} cannot change while a stream runs; {', '.join(_CHANGEABLE)} can"
        else:
            reason = f"{where}: there is no such field"
        raise ProtocolError("bad_message", reason) from None


def ready(kept: ResumableStream, settings: Settings) -> Ready:
    """The answer to ``start``: what stream this is now, and what will be said of it."""
    return Ready(
        session_id=str(kept.session.stream.id),
        resume_token=kept.token,
        resume_ttl_s=settings.resume_ttl_s,
        max_frame_bytes=settings.max_frame_bytes,
        **kept.session.looked_at(),
    )
