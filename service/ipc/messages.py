"""Every message between processes: a frozen dataclass, encoded here, and checked here once, where it arrives.

``Corridor`` is what may come along one channel in one direction. What another process sent is never trusted: ranges,
lengths and the steps of timestamps are checked before anyone sees the message, and what does not hold is a
``MessageError``, which ends that stream or that worker and nothing else. What only a state can tell (frames of a source
that never opened, results of a batch that was never given) is checked by who keeps the state, with the same error.

On the wire a message is its class's name, a line feed, and its fields as JSON. JSON, not pickle: a decoder has met
untrusted media, and nothing it says may run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema

from stmixer.media.limits import Limits

Count = Annotated[int, Field(ge=0, lt=2**53)]
Size = Annotated[int, Field(gt=0, lt=2**16)]
Microseconds = Annotated[int, Field(ge=0, lt=2**62)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Moment = Annotated[float, Field(gt=-(2**40), lt=2**40)]
"""Seconds of ``time.monotonic``, which all processes of a machine share."""
Score = Annotated[float, Field(ge=0, le=1)]
MAX_TEXT = 10_000
Text = Annotated[str, Field(max_length=MAX_TEXT)]

MAX_FRAMES_TOLD = 1024
MAX_PICTURE = 4 * 2**20
"""Bytes of a picture that is drawn to be looked at."""
MAX_CLIP = 64 * 2**20
"""Bytes of packets that a decoder keeps, and of a clip that is made of them."""
LONGEST_KEPT_S = 600
"""How far back they go, at most."""
MAX_BATCH = 64
MAX_BYTES = 64 * 2**20
"""Of a message, and of a payload, of those we trust to be large."""
MAX_DECODER_BYTES = 64 * 2**10
"""Of a message of a decoder, which sends no payload."""
_STRICT = ConfigDict(extra="forbid")
_ALWAYS_TOLD = WithJsonSchema({"type": "number"}, mode="serialization")
"""Of a number that no client ever finds missing, though between processes it may be."""


class MessageError(Exception):
    """What arrived is not a message of this corridor, breaks a range or comes out of turn; says which and why."""


# -- results, as they leave a worker and go over the wire to clients


@dataclass(frozen=True, slots=True)
class Action:
    """One action of one actor; ``id`` is the label's number in its data set, ``score`` 0..1 the keyframe's own.

    ``smoothed`` 0..1: the track's (docs/protocol.md, Results); None until the stream has said whose it is, which is
    before anybody is told of it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)

    id: int
    name: str
    score: float
    smoothed: Annotated[float | None, _ALWAYS_TOLD] = None

    @property
    def said(self) -> float:
        """What people and rules are told: ``smoothed`` where it is known."""
        return self.score if self.smoothed is None else self.smoothed


@dataclass(frozen=True, slots=True)
class Actor:
    """A person: corners in px of the source and as fractions of it, person score 0..1, actions by falling score."""

    __pydantic_config__ = _STRICT

    box_px: tuple[float, float, float, float]
    box: tuple[float, float, float, float]
    person_score: float
    actions: tuple[Action, ...]
    track_id: int | None = None

    def with_best(self, most: int) -> Actor:
        """With the few actions that a picture can name, the best by what is said of them first."""
        return replace(self, actions=tuple(sorted(self.actions, key=lambda action: -action.said)[:most]))


def settle_actor(actor: Actor, track_id: int, smoothed: Mapping[int, float]) -> None:
    """Say of a worker's actor what its stream alone knows; ``smoothed`` by the numbers of its actions.

    In place, once, by the stream, while nobody else has the actor: hundreds of new actions a keyframe are most of what
    people who are told apart would cost.
    """
    say = object.__setattr__
    say(actor, "track_id", track_id)
    for action in actor.actions:
        say(action, "smoothed", smoothed[action.id])


# -- API process → decoder


@dataclass(frozen=True, slots=True)
class Instants:
    """Live: moments at which the newest frame is wanted at once: each keyframe, k / keyframe_hz, and its look-ahead."""

    keyframe_hz: Annotated[float, Field(gt=0, le=1000)]
    after_us: Microseconds


@dataclass(frozen=True, slots=True)
class SamplingOrder:
    """How frames become samples: the grid's step as a fraction of seconds, the size, what the source may cost.

    ``short_side``: px of the model's input. ``instants``: None where nothing is wanted before it is final. ``threads``
    are the decoder's; ``cpu_s``: seconds of computing from here on, None without a bound.
    """

    grid_step: tuple[Count, Annotated[int, Field(gt=0)]]
    short_side: Size
    antialias: bool
    limits: Limits
    instants: Instants | None = None
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    cpu_s: Seconds | None = None


@dataclass(frozen=True, slots=True)
class PictureSize:
    """Of a frame that is not as its source's first: px as shown, and px of its slot that it fills from the upper left
    corner on."""

    width: Size
    height: Size
    input_width: Size
    input_height: Size


@dataclass(frozen=True, slots=True)
class NewestSample:
    """The newest written sample: its grid index, timestamp, and the generation its slot was written as."""

    index: Count
    pts_us: Microseconds
    generation: Count
    size: PictureSize | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a source whose decoder died, or whose client comes back: where the next one goes on.

    ``frames``: told of so far; ``pts_us``: the newest one's, -1 before the first; ``width``, ``height``: px as shown;
    ``origin``: monotonic seconds of t = 0, None before the first frame.
    """

    sampled: Count
    not_sampled: Count
    frames: Count
    dropped: dict[str, Count]
    pts_us: Annotated[int, Field(ge=-1, lt=2**62)]
    width: Size
    height: Size
    origin: Moment | None
    newest: NewestSample | None


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """Read a whole file [fd], waiting wherever the ring is full."""

    sampling: SamplingOrder
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class OpenContainer:
    """Read a live container from a pipe [fd]; or, ``paced``, a file [fd] as if its frames came now.

    ``fragmented_mp4``: it is said to be that.
    """

    sampling: SamplingOrder
    progress: Progress | None = None
    paced: bool = False
    fragmented_mp4: bool = False


@dataclass(frozen=True, slots=True)
class OpenCamera:
    """Ask the RTSP server at the other end of the process's connection, descriptor 0, for ``url``, and read that.

    ``silent_s``: how long it may say nothing.
    """

    sampling: SamplingOrder
    url: Annotated[str, Field(max_length=10_000)] = field(repr=False)
    silent_s: Seconds = 10.0
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """Read the video device that the process has as descriptor 0; ``path`` is its name."""

    sampling: SamplingOrder
    path: Annotated[str, Field(max_length=4096)]
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class OpenPictures:
    """Take ``JpegPicture`` messages, each answered with ``PictureWanted``."""

    sampling: SamplingOrder
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class UseRing:
    """Write into this ring [fd]: ``capacity`` slots of ``width`` x ``height`` px; samples numbered below ``limit``."""

    width: Size
    height: Size
    capacity: Size
    limit: Count


@dataclass(frozen=True, slots=True)
class RaiseLimit:
    """Samples with numbers below ``limit`` may be written from now on."""

    limit: Count


@dataclass(frozen=True, slots=True)
class JpegPicture:
    """A JPEG [payload] of time ``pts_us``, received at ``at``."""

    pts_us: Microseconds
    at: Moment


@dataclass(frozen=True, slots=True)
class FlushSource:
    """Write and tell of everything that has come so far."""


@dataclass(frozen=True, slots=True)
class EndOfPictures:
    """No more pictures will come."""


@dataclass(frozen=True, slots=True)
class KeepPackets:
    """Keep the newest packets of the source from now on, so many seconds and bytes of them; 0 seconds: none any more.

    Sent before the opening order it holds from the first packet on.
    """

    seconds: Annotated[float, Field(ge=0, le=LONGEST_KEPT_S)]
    max_bytes: Annotated[int, Field(gt=0, le=MAX_CLIP)]


@dataclass(frozen=True, slots=True)
class CutPackets:
    """Write the packets from the keyframe at or before ``from_us`` to ``to_us`` as a file [fd, of ``most`` bytes].

    Answered with ``PacketsCut`` or ``NothingCut``, also behind the end of the source.
    """

    from_us: Microseconds
    to_us: Microseconds
    most: Annotated[int, Field(gt=0, le=MAX_CLIP)]


@dataclass(frozen=True, slots=True)
class DrawnFrame:
    """Pixels of the picture in which somebody was found."""

    width: Size
    height: Size


@dataclass(frozen=True, slots=True)
class DrawnKeyframe:
    """What is drawn from the moment ``pts_us`` on, in pictures of this size."""

    pts_us: Microseconds
    frame: DrawnFrame
    actors: tuple[Actor, ...]


@dataclass(frozen=True, slots=True)
class Render:
    """Draw keyframes into a copy of a video [source fd, target fd, fd of the keyframes as ``ipc.drawing`` has them].

    ``trained`` False adds the banner that says so.
    """

    trained: bool
    limits: Limits
    cpu_s: Seconds


@dataclass(frozen=True, slots=True)
class DrawPicture:
    """Draw people upon a frame of a ring [ring fd, fd of what takes the JPEG, from its beginning on].

    ``width``, ``height``, ``capacity``: the ring's; ``generation``: to be found in the slot; ``filled``: width and
    height, px, of the slot that the frame fills, None is all of it. ``trained`` False adds the banner that says so.
    """

    width: Size
    height: Size
    capacity: Size
    slot: Count
    generation: Count
    filled: tuple[Size, Size] | None
    trained: bool
    actors: tuple[Actor, ...]


# -- decoder → API process


@dataclass(frozen=True, slots=True)
class DecoderReady:
    """The process is shut in and waits for its source. ``missing``: the walls that this machine does not have."""

    missing: Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=16)] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """The first frame: px as shown, px at the model's input, frames a second by the container (None if it is mute).

    ``codec``: FFmpeg's name of how a video is encoded.
    """

    width: Size
    height: Size
    input_width: Size
    input_height: Size
    rate: Annotated[float, Field(gt=0, le=1e6)] | None
    codec: Annotated[str, Field(pattern=r"^[a-z0-9_]{0,40}$")] = ""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames that came: timestamps in µs, rising; when each was received; how many more were found not to be kept."""

    pts_us: Annotated[tuple[Microseconds, ...], Field(max_length=MAX_FRAMES_TOLD)]
    at: Annotated[tuple[Moment, ...], Field(max_length=MAX_FRAMES_TOLD)]
    not_sampled: Count

    def __post_init__(self) -> None:
        if len(self.pts_us) != len(self.at):
            raise ValueError(f"{len(self.pts_us)} timestamps and {len(self.at)} times of arrival")
        if any(later <= earlier for earlier, later in zip(self.pts_us, self.pts_us[1:], strict=False)):
            raise ValueError("timestamps that do not rise")


@dataclass(frozen=True, slots=True)
class SampleWritten:
    """A frame lies in the ring: the stream's n-th sample, its slot's generation, the first grid index it serves."""

    number: Count
    generation: Count
    index: Count
    pts_us: Microseconds
    size: PictureSize | None = None


@dataclass(frozen=True, slots=True)
class RingFull:
    """The decoder waits: sample ``number`` is at the limit."""

    number: Count


@dataclass(frozen=True, slots=True)
class FramesDropped:
    """Frames lost by the decoder, with the reason; ``told``: they had been told of before."""

    reason: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    count: Annotated[int, Field(gt=0, lt=2**53)]
    told: bool


@dataclass(frozen=True, slots=True)
class PictureWanted:
    """Ready for another ``JpegPicture``."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """A ``FlushSource`` is carried out."""


@dataclass(frozen=True, slots=True)
class SourceWarns:
    """Something is odd, while it happens; what is told at the end sums up."""

    code: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    message: Text


@dataclass(frozen=True, slots=True)
class CaptureOrigin:
    """Where a camera tells its clock: what that was, epoch µs, at the stream's t = 0."""

    at_us: Annotated[int, Field(gt=-(2**62), lt=2**62)]


@dataclass(frozen=True, slots=True)
class SourceEnded:
    """No more frames; what was odd, in words."""

    warnings: Annotated[tuple[Text, ...], Field(max_length=100)] = ()


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """The media cannot be read, or not on: a ``MediaError``'s code and sentence."""

    code: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    message: Text


@dataclass(frozen=True, slots=True)
class DrawnTo:
    """How far a ``Render`` has come, µs of the video, and how long that is; None where it does not say."""

    done_us: Microseconds
    of_us: Microseconds | None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A ``Render`` is carried out."""


@dataclass(frozen=True, slots=True)
class NotStored:
    """A ``Render`` is not carried out, since the disk does not take it; why, in the system's words."""

    reason: Text


@dataclass(frozen=True, slots=True)
class PictureDrawn:
    """A ``DrawPicture`` is carried out: so many bytes of JPEG are written."""

    size: Annotated[int, Field(gt=0, le=MAX_PICTURE)]


@dataclass(frozen=True, slots=True)
class PictureGone:
    """A ``DrawPicture`` is not carried out: the slot holds another frame."""


@dataclass(frozen=True, slots=True)
class PacketsCut:
    """A ``CutPackets`` is carried out: so many bytes are written, which are a video of what was shown between these.

    ``codec``: FFmpeg's name; ``plays``: it is an mp4 that browsers show, and not to be encoded anew for that.
    """

    size: Annotated[int, Field(gt=0, le=MAX_CLIP)]
    from_us: Microseconds
    to_us: Microseconds
    codec: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    plays: bool


@dataclass(frozen=True, slots=True)
class NothingCut:
    """A ``CutPackets`` is not carried out; why, as ``media.packet_ring.NothingKept`` has it, or ``too_large``,
    ``unmuxable``."""

    reason: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]


# -- API process → worker


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is started with, as JSON on its command line: which model, and where and how it runs.

    ``cache``: the folder for what is measured once. ``chosen``: why this runtime, where one before it has
    chosen, for graphs if it is ``auto``. ``cores``: the processor cores that it keeps to, none: all there are.
    """

    model: str | None
    weights: str | None
    device: str
    runtime: str
    precision: str
    threads: int
    max_batch: int
    cache: str | None = None
    chosen: str | None = None
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AttachRing:
    """A stream's ring [fd], to be read."""

    stream: Count
    width: Size
    height: Size
    capacity: Size


@dataclass(frozen=True, slots=True)
class DetachRing:
    """A stream is gone: forget its ring and what was kept of its frames."""

    stream: Count


@dataclass(frozen=True, slots=True)
class JobOrder:
    """One keyframe of a batch: slots and the generations to be found there, px as shown, what is wanted of it.

    ``filled``: width and height, px, of its slot that it fills; None is all of it.
    """

    stream: Count
    slots: tuple[Count, ...]
    generations: tuple[Count, ...]
    width: Size
    height: Size
    score_threshold: Score
    top_k: Annotated[int, Field(ge=1)] | None
    action_threshold: Score
    filled: tuple[Size, Size] | None = None


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Run these. Payload: of each job whose stream has a query bank, its window: queries, then mask."""

    id: Count
    jobs: Annotated[tuple[JobOrder, ...], Field(min_length=1, max_length=MAX_BATCH)]


# -- worker → API process


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The model is loaded and warm. ``warmup_s``: (keyframes in a batch, seconds); ``card``: what the model says of
    itself; ``saved``: the part of a keyframe's time that known features save, 0 to 1; ``chosen``: why this runtime."""

    device: Text
    runtime: Text
    precision: Text
    chosen: Text
    warning: Text | None
    warmup_s: Annotated[tuple[tuple[Size, Seconds], ...], Field(min_length=1)]
    saved: Score
    card: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerTells:
    """What takes its time before the model is ready, in words."""

    message: Text


@dataclass(frozen=True, slots=True)
class WorkerBroken:
    """The model cannot be served, with the reason in words."""

    message: Text


@dataclass(frozen=True, slots=True)
class WindowsCopied:
    """A batch's frames are copied; ``stale``: the places of jobs whose slots held something else, which do not run."""

    id: Count
    stale: Annotated[tuple[Count, ...], Field(max_length=MAX_BATCH)]


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Where a batch's time went."""

    preprocess: Seconds
    inference: Seconds
    postprocess: Seconds


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Actors per job, None for stale ones.

    Payload: what each job that ran leaves for its stream's query bank, then of each that ran the scores of all actions
    of its actors, (actors, labels) float32, whatever ``top_k`` and ``action_threshold`` let into ``actors``, then of
    each that ran what its actors are told apart by besides their boxes, (actors, 2D) float16 of length 1 or 0.
    """

    id: Count
    actors: Annotated[tuple[tuple[Actor, ...] | None, ...], Field(max_length=MAX_BATCH)]
    seconds: StageSeconds
    gpu_memory: Count


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """A batch did not run. After ``oom`` and ``cuda`` the process cannot go on; after ``error`` it can."""

    id: Count
    message: Text
    reason: Literal["oom", "cuda", "error"]


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _new_adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Made where it is first needed: not every process speaks of everything."""
    _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def encode(message: object) -> bytes:
    """A message's bytes; ``Corridor.decode`` reads them."""
    kind = type(message)
    adapter = _ADAPTERS.get(kind) or _new_adapter(kind)
    return kind.__name__.encode() + b"\n" + adapter.dump_json(message)


class Corridor:
    """What may come along one channel in one direction; ``name`` is for errors.

    ``max_bytes``, ``max_payload``: bytes of a message and of its payload; more is not even read.
    """

    def __init__(self, name: str, *kinds: type[Any], max_bytes: int = MAX_BYTES, max_payload: int = MAX_BYTES) -> None:
        self.name, self.max_bytes, self.max_payload = name, max_bytes, max_payload
        self._kinds = {kind.__name__: kind for kind in kinds}

    def prepare(self) -> None:
        """Make now what coding its messages takes: pydantic imports some of that when it is first needed."""
        for kind in self._kinds.values():
            _ADAPTERS.get(kind) or _new_adapter(kind)

    def decode(self, raw: bytes) -> Any:
        """A message of this corridor from its bytes. Raises MessageError."""
        name, _, fields = raw.partition(b"\n")
        kind = self._kinds.get(name[:80].decode(errors="replace"))
        if kind is None:
            raise MessageError(f"{self.name}: there is no message {name[:80]!r}")
        adapter = _ADAPTERS.get(kind) or _new_adapter(kind)
        try:
            return adapter.validate_json(fields, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, (kind.__name__, *first["loc"])))
            raise MessageError(f"{self.name}: {where}: {first['msg']}") from None


# -- API process ↔ the process that forks decoders; each question has one answer


@dataclass(frozen=True, slots=True)
class RaiseDecoders:
    """The first: what decoders run, and the address space that each may have. Answered with ``NurseryReady``."""

    module: Annotated[str, Field(max_length=200)]
    memory_bytes: Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class NurseryReady:
    """Everything is imported."""


@dataclass(frozen=True, slots=True)
class Bear:
    """Fork a decoder [its end of its channel, what its stderr shall be, the connection or device that it is to read].

    Answered with ``Born``.
    """


@dataclass(frozen=True, slots=True)
class Born:
    """The decoder's process id, which stays its own until it is reaped."""

    pid: Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Reap:
    """A decoder has ended: take its exit status. Answered with ``Reaped``."""

    pid: Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Reaped:
    """An exit status, negative for a signal."""

    status: int


TO_NURSERY = Corridor("to the nursery", RaiseDecoders, Bear, Reap)
FROM_NURSERY = Corridor("from the nursery", NurseryReady, Born, Reaped)
TO_DECODER = Corridor(
    "to the decoder",
    OpenUpload, OpenContainer, OpenCamera, OpenDevice, OpenPictures, UseRing, RaiseLimit, JpegPicture, FlushSource,
    EndOfPictures, KeepPackets, CutPackets, Render, DrawPicture,
)  # fmt: skip
FROM_DECODER = Corridor(
    "from the decoder",
    DecoderReady, Opened, Frames, SampleWritten, RingFull, FramesDropped, PictureWanted, Flushed, SourceWarns,
    CaptureOrigin, SourceEnded, SourceFailed, PacketsCut, NothingCut, DrawnTo, Rendered, NotStored, PictureDrawn,
    PictureGone,
    max_bytes=MAX_DECODER_BYTES, max_payload=0,
)  # fmt: skip
TO_WORKER = Corridor("to the worker", AttachRing, DetachRing, RunBatch)
FROM_WORKER = Corridor("from the worker", WorkerTells, WorkerReady, WorkerBroken, WindowsCopied, BatchDone, BatchFailed)
