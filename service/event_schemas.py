"""Rules and the events that come of them, as they go over the wire (docs/events.md). Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stmixer.service.wire import Wire

MOST_RULES = 50
"""Of a stream, and of the file for all streams."""
MOST_CORNERS = 50
"""Of a zone."""
MOST_CORNERS_IN_ALL = 400
"""Of a stream's zones together: what a keyframe with a crowd in it, and a check of rules, may take."""

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
ClipSeconds = Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)]


class Count(Wire):
    """So many people at a time, of the whole stream: who they are does not matter."""

    min: int = Field(ge=1, le=1000)


class ClipWish(Wire):
    """Keep the pictures from so long before an event's start to so long after its end."""

    pre_s: ClipSeconds = 5.0
    post_s: ClipSeconds = 5.0


class Rule(Wire):
    """When something is an event: somebody does ``label``, or (``person``) is there, for ``for_s`` seconds.

    It is over once that has not been so for ``clear_s``. ``zone``: corners of an area as fractions of the picture, for
    people who stand in it, by the middle of their box's lower edge. ``count``: so many together rather than one.
    ``cooldown_s``: after an end, this long no new start of this rule in this stream.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="letters, digits, - and _, at most 64")
    label: str | None = Field(None, min_length=1, max_length=200, description="an action that the model names")
    person: Literal[True] | None = Field(None, description="true: somebody is there, whatever they do")
    min_score: Fraction = Field(0.5, description="of the action, smoothed where that is known, or of the person")
    for_s: Seconds = 1.0
    clear_s: Seconds = 5.0
    zone: tuple[tuple[Fraction, Fraction], ...] | None = Field(None, max_length=MOST_CORNERS)
    count: Count | None = None
    cooldown_s: Seconds | None = None
    clip: ClipWish | None = None

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> Rule:
        if (self.label is None) == (self.person is None):
            raise ValueError("a rule has either label, an action, or person: true")
        return self


class Event(Wire):
    """One occurrence of a rule, as it is now: it has one ``start``, one ``end``, and ``update`` where it changed much.

    ``started_at_us``, ``ended_at_us``: epoch µs at which the first and the last keyframe that met the rule were
    received. ``track_id``, ``box``: whose it is now and where, fractions of the picture; of a ``count`` null and the
    box around all who count. ``score_max``: the highest so far. ``zone``: the rule's. ``reason``, at an end that is
    none of the rule's: ``lost`` (nobody looked), ``stream_ended``, ``rule_changed``.
    """

    event_id: str
    rule: str
    stream: str = Field(description="its name, or its number where it has none")
    state: Literal["start", "update", "end"]
    track_id: int | None
    started_at_us: int
    ended_at_us: int | None
    score_max: float
    box: tuple[float, float, float, float]
    zone: tuple[tuple[float, float], ...] | None
    reason: Literal["lost", "stream_ended", "rule_changed"] | None = Field(
        None, exclude_if=lambda reason: reason is None
    )


class Rules(Wire):
    """Rules of a stream, or (``--rules``) of all."""

    rules: tuple[Rule, ...] = Field((), max_length=MOST_RULES)


class Events(Wire):
    """``GET /v1/events``: those told first last. ``next``: for ``before``, where there are more. ``latest``: for
    ``after``, which then has what began or changed since, all of it, in the order of the changes. ``clips``: whether
    any are kept here, of rules that ask for them.
    """

    events: list[Event]
    next: int | None
    latest: int
    clips: bool
