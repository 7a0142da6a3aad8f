"""The wire, as pydantic models: what REST and WebSocket send (docs/protocol.md). Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stmixer.service.ipc.messages import Action as Action
from stmixer.service.ipc.messages import Actor as Actor

Outcome = Literal["ok", "superseded", "deadline", "error", "worker_lost", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "superseded", "deadline", "error", "worker_lost", "cancelled")


class Wire(BaseModel):
    """Strict base: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class FrameSize(Wire):
    """Size of the picture as displayed, px."""

    width: int
    height: int


class Timings(Wire):
    """Where a result's time went, milliseconds of wall clock.

    ``lookahead`` is the wait for frames after the keyframe, ``decode`` of the last needed frame, ``queue`` the wait for
    a worker, ``inference`` includes stacking the clip.
    """

    lookahead: float
    decode: float
    queue: float
    inference: float
    postprocess: float


class Result(Wire):
    """One keyframe. ``seq`` is its index k, ``pts_us`` its moment k / keyframe_hz after the first frame."""

    seq: int
    pts_us: int
    received_at_us: int
    sent_at_us: int
    warming: bool
    timings_ms: Timings
    dropped_since_last: int
    frame: FrameSize
    actors: tuple[Actor, ...]


class Summary(Wire):
    """Conservation: received = sampled + not_sampled + sum(dropped); keyframes_due = the outcomes + pending."""

    received: int = 0
    sampled: int = 0
    not_sampled: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    keyframes_due: int = 0
    ok: int = 0
    superseded: int = 0
    deadline: int = 0
    error: int = 0
    worker_lost: int = 0
    cancelled: int = 0
    pending: int = 0


class RunningStream(Wire):
    """A stream that runs now. ``key``: the name of the key that began it, null where none is asked for; never the key.

    ``seconds`` since it began.
    """

    id: str
    source: str
    policy: str
    keyframe_hz: float
    key: str | None
    seconds: float
    summary: Summary


class RunningStreams(Wire):
    """``GET /v1/streams``."""

    streams: list[RunningStream]


class DetectResponse(Wire):
    """What a posted clip is answered with, and what ``stmixer detect`` writes."""

    model: str
    trained: bool
    frame: FrameSize
    keyframes: list[Result]
    summary: Summary
    warnings: list[str]


class Problem(Wire):
    """RFC 9457 problem JSON; ``code`` is stable and for programs, ``detail`` says what to do.

    ``request_id`` is the answer's ``X-Request-Id``, by which the service's log has more.
    """

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    request_id: str


class DetectOptions(Wire):
    """Options of one stream. ``top_k`` limits the actions of an actor, None gives all of them."""

    keyframe_hz: float = Field(1.0, ge=0.001, le=30)
    score_threshold: float = Field(0.6, ge=0, le=1)
    top_k: int | None = Field(None, ge=1)
    action_threshold: float = Field(0.0, ge=0, le=1)
    lookahead_ms: float | None = Field(None, ge=0, le=10_000)
