"""The wire, as pydantic models: what REST and WebSocket send (docs/protocol.md). Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from stmixer.service.errors import StartError
from stmixer.service.event_schemas import MOST_RULES, Rule
from stmixer.service.ipc.messages import Action as Action
from stmixer.service.ipc.messages import Actor as Actor
from stmixer.service.wire import Wire

if TYPE_CHECKING:
    from PIL.Image import Image

    from stmixer.service.plotting import Picture

Outcome = Literal["ok", "superseded", "deadline", "error", "worker_lost", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "superseded", "deadline", "error", "worker_lost", "cancelled")


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
    """One keyframe. ``seq`` is its index k, ``pts_us`` its moment k / keyframe_hz after the first frame;
    ``capture_at_us`` that by the camera's clock, left out where that is not known."""

    seq: int
    pts_us: int
    received_at_us: int
    sent_at_us: int
    capture_at_us: int | None = Field(None, exclude_if=lambda at_us: at_us is None)
    warming: bool
    timings_ms: Timings
    dropped_since_last: int
    frame: FrameSize
    actors: tuple[Actor, ...]
    model: str = Field("", description="the model that made it")
    _video: Path | None = PrivateAttr(None)
    _trained: bool = PrivateAttr(True)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same over the wire, wherever their pictures are."""
        return self.model_dump() == other.model_dump() if isinstance(other, Result) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def comes_from(self, video: Path | None, trained: bool) -> None:
        """Tells ``plot`` where its pictures are, None for nowhere, and whether the model is trained.

        None of it goes over the wire, nor counts where results are compared.
        """
        self._video, self._trained = video, trained

    def plot(self, picture: Picture | None = None) -> Image:
        """Its people drawn on its picture, as in ``stmixer detect -o out.mp4``; a notebook shows what this gives.

        A banner says where the model is untrained. What was read as JSON, and the client's ``detect_lines``, does not
        know it, and is drawn as of a trained one.

        Args:
            picture: (H, W, 3) uint8 RGB, a picture of Pillow's, or the path of the video. None for the file that it was
                detected in; of a stream's results, and of a clip sent as bytes, there is none. A file is decoded up to
                the frame that the model saw: whoever draws many gives pictures, or lets ``stmixer detect -o out.mp4``
                draw.

        Raises:
            InputError: ``no_picture`` where none is known, ``bad_frame`` for one of another size or kind.
            MediaError: the file cannot be read.
            StartError: ``missing``: the client alone is installed, which draws nothing.
        """
        try:
            from stmixer.service.plotting import plotted
        except ModuleNotFoundError as error:
            raise StartError("missing", f"{error.name} is not installed: pip install stmixer") from None
        return plotted(self, self._video if picture is None else picture, self._trained)

    def show(self, picture: Picture | None = None) -> None:
        """``plot`` in a notebook, or in a window. Raises what ``plot`` does, and StartError where nothing shows it."""
        image = self.plot(picture)
        from stmixer.service.plotting import show

        show(image)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, rounded to what means something: px to tenths, fractions and scores to four digits."""
        actors = [
            {
                "box_px": [round(v, 1) for v in actor.box_px],
                "box": [round(v, 4) for v in actor.box],
                "person_score": round(actor.person_score, 4),
                "actions": [
                    {"id": a.id, "name": a.name, "score": round(a.score, 4), "smoothed": _rounded(a.smoothed)}
                    for a in actor.actions
                ],
                "track_id": actor.track_id,
            }
            for actor in self.actors
        ]
        return self.model_dump(mode="json", exclude={"actors"}) | {"actors": actors}

    def rows(self) -> list[tuple[Any, ...]]:
        """A table: ``COLUMNS``, a row for each action of each person; one without actions has a row with None for it.

        Rounded as in ``to_dict``.
        """
        table: list[tuple[Any, ...]] = []
        for place, actor in enumerate(self.actors):
            box = (round(v, 1) for v in actor.box_px)
            who = (self.seq, round(self.pts_us / 1e6, 6), place, round(actor.person_score, 4), *box)
            actions: list[tuple[Any, ...]] = [
                (a.id, a.name, round(a.score, 4), actor.track_id, _rounded(a.smoothed)) for a in actor.actions
            ]
            table += [(*who, *action) for action in actions or [(None, None, None, actor.track_id, None)]]
        return table

    def to_supervision(self) -> Any:
        """``supervision.Detections``: a box a person in px, ``confidence`` its person score, ``class_id`` and
        ``data["class_name"]`` its best action, -1 and "person" for one without; ``data["actions"]`` (objects) all of
        them, each person's a tuple of ``Action`` by falling score; ``tracker_id`` who it is.

        Raises:
            StartError: supervision is not installed.
        """
        try:
            import numpy as np
            import supervision
        except ModuleNotFoundError as error:
            raise StartError("missing", f"{error.name} is not installed: pip install supervision") from None
        if not self.actors:
            return supervision.Detections.empty()
        best = [max(actor.actions, key=lambda action: action.score, default=None) for actor in self.actors]
        tracks = [actor.track_id for actor in self.actors]
        actions = np.fromiter((actor.actions for actor in self.actors), object, len(self.actors))
        return supervision.Detections(
            xyxy=np.array([actor.box_px for actor in self.actors], np.float32),
            confidence=np.array([actor.person_score for actor in self.actors], np.float32),
            class_id=np.array([-1 if action is None else action.id for action in best]),
            tracker_id=None if None in tracks else np.array(tracks),
            data={
                "class_name": np.array(["person" if action is None else action.name for action in best]),
                "action_score": np.array([0.0 if action is None else action.score for action in best], np.float32),
                "action_smoothed": np.array([(action and action.smoothed) or 0.0 for action in best], np.float32),
                "actions": actions,
            },
        )


COLUMNS = (
    "seq", "time_s", "person", "person_score", "x1", "y1", "x2", "y2", "action_id", "action", "action_score",
    "track_id", "action_smoothed",
)  # fmt: skip
"""Of a result's ``rows``. ``person`` counts within the keyframe, ``track_id`` is who it is in the video; boxes are
px as displayed; ``action_score`` is the keyframe's own, ``action_smoothed`` the track's."""


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def data_frame_of(results: Iterable[Result]) -> Any:
    """``pandas.DataFrame`` of some results: their ``Result.rows``, one after the other.

    Raises:
        StartError: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise StartError("missing", f"{error.name} is not installed: pip install pandas") from None
    return pandas.DataFrame([row for result in results for row in result.rows()], columns=list(COLUMNS))


class TrackChange(Wire):
    """Somebody has come (``start``) or has been away for too long (``end``), as of the keyframe ``seq``."""

    track_id: int
    state: Literal["start", "end"]
    seq: int
    pts_us: int


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


class Pulled(Wire):
    """How it is with a stream that the service fetches.

    ``url``: without user, password and query. ``since_us``: epoch µs at which the state began; ``error``, ``code``:
    what was wrong last; ``attempts``: to connect; ``reconnects``: those after the first that brought pictures again.
    ``silent_ms``: since the last picture; ``freshness_ms``: of the last result, from its keyframe's arrival to being
    handed on; ``capture_age_ms``: from its capture, by the camera's clock, where that is known. ``frame``: of the
    newest picture.
    """

    name: str | None
    url: str
    state: Literal["connecting", "live", "stalled", "reconnecting", "ended", "failed"]
    since_us: int
    error: str | None
    code: str | None
    attempts: int
    reconnects: int
    silent_ms: float | None
    freshness_ms: float | None
    capture_age_ms: float | None
    frame: FrameSize | None
    codec: str | None


class RunningStream(Wire):
    """A stream that runs now. ``key``: the name of the key that began it, null where none is asked for; never the key.

    ``seconds`` since it began. ``pulled``: where the service fetches it.
    """

    id: str
    source: str
    policy: str
    keyframe_hz: float
    key: str | None
    seconds: float
    summary: Summary
    pulled: Pulled | None = None


class RunningStreams(Wire):
    """``GET /v1/streams``."""

    streams: list[RunningStream]


class Token(Wire):
    """``POST /v1/tokens``: opens events and pictures of pulled streams until it has expired, in the cookie that comes
    with it or, unless that is refused, as ``?token=``."""

    token: str
    expires_in_s: float


TOKEN_PATH = (
    r"/v1/streams/[0-9]{1,18}/(events|snapshot\.jpg|preview\.mjpg)|"
    r"/v1/events/[A-Za-z0-9_-]{1,64}/(clip\.mp4|thumbnail\.jpg)"
)
"""Where a token may stand for a key: what a page has fetched by an element."""


_PREFIX = r"(/[A-Za-z0-9._~%!$&'()*+=:@-]*)*"
"""A proxy's: any path, but for ``;`` and ``,``, which may not stand in a cookie's."""


class TokenOrder(Wire):
    """``POST /v1/tokens``. ``path``: the one address that it is to open, and in whose cookie it comes, as a page sees
    it or without the prefix of a proxy; where none is named it opens all such addresses that the key does."""

    path: str | None = Field(None, max_length=1024, pattern=f"^{_PREFIX}({TOKEN_PATH})$")


class DrawProgress(Wire):
    """``GET /v1/drawings/{request id}``: seconds of the video that are drawn, and how long it is where it says so."""

    done_s: float
    duration_s: float | None


class DetectResponse(Wire):
    """What a posted clip is answered with, and what ``stmixer detect`` writes."""

    model: str
    trained: bool
    frame: FrameSize
    keyframes: list[Result]
    summary: Summary
    warnings: list[str]

    def to_df(self) -> Any:
        """``pandas.DataFrame``: ``Result.rows`` of all keyframes. Raises StartError without pandas."""
        return data_frame_of(self.keyframes)


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


Preset = Literal["cctv"]
PRESETS: Mapping[str, Mapping[str, float]] = {"cctv": {"score_threshold": 0.3}}
"""Options that go together, by name. ``cctv``: people who are small or far away, of whom a model is never sure; what it
finds and what it makes up at this threshold stands in the card of the bundled weights (weights/README.md)."""


class DetectOptions(Wire):
    """Options of one stream. ``preset`` (``PRESETS``) stands for those that are not given themselves. ``top_k`` limits
    the actions of an actor, None gives all of them. Who was away for longer than ``track_max_gap_s`` is somebody new.
    """

    preset: Preset | None = Field(None, description="options that go together; one that is given counts before it")
    model: str | None = Field(
        None, min_length=1, max_length=100, description="one of `GET /v1/models`; else the default"
    )
    keyframe_hz: float = Field(1.0, ge=0.001, le=30)
    score_threshold: float = Field(0.6, ge=0, le=1)
    top_k: int | None = Field(None, ge=1)
    action_threshold: float = Field(0.0, ge=0, le=1)
    track_max_gap_s: float = Field(2.0, ge=0, le=60)
    lookahead_ms: float | None = Field(None, ge=0, le=10_000)

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        preset = given.get("preset") if isinstance(given, dict) else None
        return {**PRESETS[preset], **given} if isinstance(preset, str) and preset in PRESETS else given


class DetectFile(DetectResponse):
    """What ``stmixer detect`` writes into a folder; ``options`` are those that it was asked for, None where a file does
    not say."""

    options: DetectOptions | None = None


class PullOrder(DetectOptions):
    """``POST /v1/streams``: what to fetch, and what is wanted of it. ``loop`` is for files; ``transport``: how packets
    come from a camera over RTSP. Without ``tls_verify`` any certificate of an ``rtsps`` or ``https`` source will do.
    """

    url: str = Field(max_length=2000)
    name: str | None = Field(None, min_length=1, max_length=100)
    transport: Literal["tcp", "udp"] = "tcp"
    tls_verify: bool = True
    deadline_ms: float | None = Field(None, gt=0, le=600_000)
    loop: bool = False
    rules: tuple[Rule, ...] = Field((), max_length=MOST_RULES)

    def options(self) -> DetectOptions:
        """What concerns detection."""
        return DetectOptions(**{name: getattr(self, name) for name in DetectOptions.model_fields})
