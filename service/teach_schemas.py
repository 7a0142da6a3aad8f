"""A lesson as it goes over the wire: the clips, what the training tells, what came of it. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stmixer.service.wire import Wire

LessonState = Literal["open", "learning", "done", "failed", "stopped"]
TrialState = Literal["off", "starting", "ready", "failed"]
FIRST_NAME = "my-actions"
"""What a model is called where nobody says."""


class TeachOrder(Wire):
    """What is to be learned from the clips that there are."""

    name: str = Field(
        FIRST_NAME,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="of the model: letters, digits, - and _, at most 64",
    )


class TeachClip(Wire):
    """A clip to learn from, of people who do ``label``, or none of what is taught where that is ``none``. Those of one
    ``scene`` are never on both sides of the split; without one it is a scene of its own. ``bytes``: on disk."""

    clip_id: int
    label: str
    scene: str | None
    bytes: int


class TeachPhase(Wire):
    """What the training does, or did: ``done`` of ``total``, ``left_s`` seconds to go, null until that is known.
    ``says``: what it is about, ``came``: what came of it, empty while it runs; for people."""

    phase: str
    says: str
    running: bool
    done: int | None = None
    total: int | None = None
    left_s: float | None = None
    came: str = ""


class TeachFigures(Wire):
    """How good it is on the clips that were kept to check by. ``mean_ap``, ``recall`` and ``named`` are shares, 0 to 1;
    ``false_people`` a keyframe; ``named``: of people who do none of it, those of whom a label is said all the same,
    null where nobody is known to do none of it."""

    mean_ap: float | None
    recall: float
    false_people: float
    keyframes: int
    named: float | None


class KeptModel(Wire):
    """Weights that somebody kept, and the command that serves them."""

    name: str
    weights: str
    serve: str


class TeachTrial(Wire):
    """Whether what was learned is being tried, below ``/v1/teach/trial``; ``says``: why it failed."""

    state: TrialState
    says: str


class TeachLimits(Wire):
    """The most there may be: of labels, of clips, of seconds of one, and of bytes of all."""

    labels: int
    clips: int
    clip_s: float
    bytes: int


class Teach(Wire):
    """The one lesson that there is. ``says``: its last words, for people; ``notes``: what one should know besides;
    ``pictures``: whether it can be seen who was taken for the actor of each clip; ``bytes``: of all clips."""

    state: LessonState
    name: str
    says: str
    phases: list[TeachPhase]
    notes: list[str]
    clips: list[TeachClip]
    bytes: int
    figures: TeachFigures | None
    pictures: bool
    trial: TeachTrial
    kept: list[KeptModel]
    limits: TeachLimits
